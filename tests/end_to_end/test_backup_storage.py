"""Backups in S3 and Azure Blob, of artifacts that are there too: each a server in a process of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from backup_site import Site, copied, site, tree
from object_stores import AZURITE, S3, Azure, ObjectStore, object_store
from place_contract import ALL

from proxy.backup import reading
from proxy.backup.places import Place, PlaceFailed, open_place, s3
from proxy.backup.places.place import PIECE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KINDS = [
    pytest.param(S3, id="S3"),
    pytest.param(
        Azure,
        id="Azure",
        marks=pytest.mark.skipif(
            not AZURITE.exists() or shutil.which("node") is None, reason="not installed: azurite (npm ci)"
        ),
    ),
]


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder = tmp_path_factory.mktemp("store") / "kept"
    with object_store(request.param, folder) as store:
        yield store
    shutil.rmtree(folder, ignore_errors=True)


def place_in(store: ObjectStore, path: str) -> Place:
    return open_place(f"{store.root}-{path}", store.settings())


def test_a_store_does_what_every_place_does(store: ObjectStore) -> None:
    for check in ALL:
        check(place_in(store, check.__name__))
    place = place_in(store, "begun")
    if isinstance(place, s3.S3):
        # What is not ended costs nothing either.
        found = place.client.list_multipart_uploads(Bucket="artifacts")
        assert not found.get("Uploads")
        place.client.create_multipart_upload(Bucket="artifacts", Key="mlflow-begun/sets/x")
        place.tidy("")
        assert not place.client.list_multipart_uploads(Bucket="artifacts").get("Uploads")


def test_an_artifact_that_was_replaced_since_it_was_listed_is_listed_anew(
    store: ObjectStore, tmp_path: Path
) -> None:
    root = place_in(store, "replaced")
    root.put("model.bin", b"the first")
    (one,) = copied(root, tmp_path, listed=lambda: root.put("model.bin", b"the other"))
    now = root.stat("model.bin")
    assert now is not None
    assert (one.etag, one.digest) == (now.etag, hashlib.sha256(b"the other").hexdigest())


def test_a_wrong_key_is_named_and_not_shown(store: ObjectStore) -> None:
    wrong = "d3Jvbmc" + store.key[7:]
    settings = {name: value.replace(store.key, wrong) for name, value in store.settings().items()}
    if isinstance(store, S3):
        # The server of the tests looks at no signature: nobody listens there.
        settings["MLFLOW_S3_ENDPOINT_URL"] = "http://127.0.0.1:9"
    with pytest.raises(PlaceFailed) as caught:
        open_place(store.root, settings).put("x", b"x")
    assert store.root in str(caught.value)
    assert wrong not in str(caught.value)
    assert "\n" not in str(caught.value)


def installed(store: ObjectStore, folder: Path) -> Site:
    """A site whose artifacts and backups are in the store."""
    made = site(folder / "site")
    made.environment |= store.settings()
    # The store has one bucket: two paths in it.
    made.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = f"{store.root}-{folder.name}-artifacts"
    made.environment["PROXY_BACKUP_DESTINATION"] = f"{store.root}-{folder.name}-backups"
    artifacts = open_place(made.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"], made.environment)
    for path in tree(made.artifacts):
        artifacts.put(path, (made.artifacts / path).read_bytes())
    artifacts.put("1/large/model.bin", b"large" * (PIECE // 4))
    return made


def test_databases_and_artifacts_go_to_the_store_and_come_back(store: ObjectStore, tmp_path: Path) -> None:
    made = installed(store, tmp_path)
    made.run("backup", "--artifacts")
    assert "0 of them" in made.run("backup", "--artifacts")
    assert len(reading.sets(made.place)) == 2
    assert reading.damage(made.place, made.newest()) is None
    # Into the same store, and into a directory.
    other = made.elsewhere(tmp_path / "other")
    other.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = f"{store.root}-{tmp_path.name}-restored"
    other.run("restore", "--yes")
    assert other.tables() == made.tables()
    source = open_place(made.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"], made.environment)
    target = open_place(other.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"], made.environment)
    assert {(one.name, one.size) for one in target.entries("")} == {
        (one.name, one.size) for one in source.entries("")
    }
    third = made.elsewhere(tmp_path / "third")
    del third.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    third.run("restore", "--yes")
    restored = tree(third.artifacts)
    assert restored.pop("1/large/model.bin")
    assert restored == tree(made.artifacts)


def test_killed_in_the_middle_it_leaves_no_set_and_the_next_run_works(
    store: ObjectStore, tmp_path: Path
) -> None:
    made = installed(store, tmp_path)
    for _ in range(2):
        process = made.start("backup", "--artifacts")
        # From the first part on, nothing is whole yet.
        while not list(made.place.entries("sets/")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    said = made.run("backup", "--artifacts")
    assert "had broken off" in said or not reading.sets(made.place)[:-1]
    assert {entry.name.split("/")[1] for entry in made.place.entries("sets/")} == {
        one.set for one in reading.sets(made.place)
    }
    assert reading.damage(made.place, made.newest()) is None


def test_the_list_names_versions_where_the_bucket_keeps_them(tmp_path: Path) -> None:
    with object_store(S3, tmp_path / "store") as store:
        settings = store.settings()
        client = boto3.client(
            "s3",
            endpoint_url=store.address,
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        client.put_bucket_versioning(Bucket="artifacts", VersioningConfiguration={"Status": "Enabled"})
        made = installed(store, tmp_path)
        artifacts = open_place(made.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"], made.environment)
        artifacts.put("1/large/model.bin", b"the second version")
        artifacts.put("1/gone.txt", b"x")
        artifacts.remove("1/gone.txt")
        made.run("backup")
        listed = {one.path: one for one in reading.artifacts(made.place, made.newest(), made.key)}
        assert "1/gone.txt" not in listed
        newest = artifacts.stat("1/large/model.bin")
        assert newest is not None
        found = listed["1/large/model.bin"]
        assert (found.version, found.etag, found.size) == (newest.version, newest.etag, 18)
        assert found.version


def test_the_rules_for_buckets_are_taken(tmp_path: Path) -> None:
    rules = Path(__file__).parents[2] / "ops" / "storage"
    with object_store(S3, tmp_path / "store") as store:
        settings = store.settings()
        client = boto3.client(
            "s3",
            endpoint_url=store.address,
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        client.put_bucket_versioning(Bucket="artifacts", VersioningConfiguration={"Status": "Enabled"})
        for name in ("s3-lifecycle-artifacts.json", "s3-lifecycle-backups.json"):
            client.put_bucket_lifecycle_configuration(
                Bucket="artifacts", LifecycleConfiguration=json.loads((rules / name).read_text())
            )
            assert len(client.get_bucket_lifecycle_configuration(Bucket="artifacts")["Rules"]) == 2
        replication = json.loads((rules / "s3-replication-artifacts.json").read_text())
        client.create_bucket(Bucket="mlflow-artifacts-replica")
        client.put_bucket_versioning(
            Bucket="mlflow-artifacts-replica", VersioningConfiguration={"Status": "Enabled"}
        )
        client.put_bucket_replication(Bucket="artifacts", ReplicationConfiguration=replication)
        policy = (rules / "s3-policy-backup.json").read_text().replace("mlflow-backups", "artifacts")
        allowed = {one for statement in json.loads(policy)["Statement"] for one in statement["Action"]}
        assert {"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"} <= allowed
