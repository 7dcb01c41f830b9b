"""`mlflow-proxy doctor` with real MLflow, PostgreSQL, MariaDB and an S3 that asks for rights."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from databases import PASSWORD, Database, MariaDB, PostgreSQL, database, path
from doctor_site import Told, doctor
from object_stores import AZURITE, BUCKET, Azure, object_store
from programs import needs, program
from service import Service, clean_environment, free_port

from proxy.mlflow_server import schema

pytestmark = pytest.mark.slow

OTHER = "another-word"
# What may be told of the machine that the tests run on.
MACHINE = {("service", "files"), ("disk", "data"), ("disk", "temporary"), ("disk", "artifacts")}


# ---- the real thing ----


def test_all_is_well_with_a_real_mlflow_and_nothing_is_left(service: Service) -> None:
    before = _files(service.data / "artifacts")
    for _ in range(2):  # the second time its experiment is there, deleted
        told = doctor("--quick", "--data-dir", service.data, cwd=service.folder)
        assert told.wrong() <= MACHINE, told.text
        assert [result["what"] for result in told.results("client")] == [
            "credential", "experiment", "run", "log", "upload", "download", "delete",
        ]  # fmt: skip
        assert told.says("database", "schema", "ok")
    assert _files(service.data / "artifacts") == before
    with contextlib.closing(sqlite3.connect(service.data / "mlflow.db")) as kept:
        stages = kept.execute("SELECT lifecycle_stage FROM experiments WHERE name = 'mlflow-proxy-doctor'")
        assert stages.fetchall() == [("deleted",)]
        assert kept.execute("SELECT DISTINCT lifecycle_stage FROM runs").fetchall() == [("deleted",)]
    assert service.password not in told.text


def test_a_credential_that_may_not_write_is_found(service: Service) -> None:
    told = doctor(
        "client",
        "--data-dir",
        service.data,
        cwd=service.folder,
        environment={"MLFLOW_TRACKING_TOKEN": "no-such-token"},
    )
    told.says("client", "experiment", "failure", "look at the credential", "MLFLOW_TRACKING_TOKEN")
    assert "no-such-token" not in told.text


def _files(folder: Path) -> set[str]:
    return {str(found.relative_to(folder)) for found in folder.rglob("*") if found.is_file()}


# ---- databases ----

TABLES = """
CREATE TABLE experiments (experiment_id int, name varchar(100));
CREATE TABLE runs (run_uuid varchar(32), status varchar(20));
CREATE TABLE alembic_version (version_num varchar(32));
"""


def _schema_version() -> str:
    known = schema.versions()
    assert known is not None
    return known[0]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Database]:
    with database(PostgreSQL) as server:
        _psql(
            server,
            f"{TABLES} INSERT INTO alembic_version VALUES ('{_schema_version()}');"
            f"CREATE ROLE reader LOGIN PASSWORD '{OTHER}';"
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;"
            f"CREATE ROLE writer LOGIN PASSWORD '{OTHER}';"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer;"
            f"CREATE ROLE gone NOLOGIN PASSWORD '{OTHER}';",
            "mlflow",
        )
        _psql(
            server,
            f"{TABLES} INSERT INTO alembic_version VALUES ('451aebb31d03');"
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO mlflow;",
            "old",
            create=True,
        )
        _psql(
            server,
            f"{TABLES} INSERT INTO alembic_version VALUES ('ffffffffffff');"
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO mlflow;",
            "newer",
            create=True,
        )
        yield server


def _psql(server: Database, text: str, name: str, *, create: bool = False) -> None:
    command = [path("psql"), "-h", str(server.folder), "-p", str(server.port), "-U", "postgres"]
    if create:
        server.run(*command, "-c", f"CREATE DATABASE {name} OWNER mlflow")
    server.run(*command, "-v", "ON_ERROR_STOP=1", "-d", name, "-f", "-", text=text)


def _uri(server: Database, user: str, password: str, name: str = "mlflow", port: int = 0) -> str:
    return f"{server.scheme}://{user}:{quote(password, safe='')}@127.0.0.1:{port or server.port}/{name}"


def _database(uri: str, folder: Path) -> Told:
    told = doctor("database", cwd=folder, environment={"MLFLOW_BACKEND_STORE_URI": uri})
    assert quote(PASSWORD, safe="") not in told.text
    assert PASSWORD not in told.text
    assert OTHER not in told.text
    return told


@needs(*PostgreSQL.programs)
def test_a_database_with_all_that_is_needed_is_found_good(postgresql: Database, tmp_path: Path) -> None:
    told = _database(_uri(postgresql, "writer", OTHER), tmp_path)
    told.says("database", "version", "ok", "PostgreSQL")
    told.says("database", "schema", "ok")
    told.says("database", "rights", "ok", "all 3 tables")
    told.says("database", "clock", "ok")
    told.says("database", "connections", "ok")
    told.says("database", "migration", "warning", "belong to another role")
    assert told.wrong() == {("database", "migration")}


@needs(*PostgreSQL.programs)
@pytest.mark.parametrize(
    ("user", "password", "name", "what", "words"),
    [
        ("reader", OTHER, "mlflow", "rights", ("reader lacks INSERT on", "experiments", "GRANT")),
        ("mlflow", "wrong", "mlflow", "reach", ("the user or the password is refused", "rotation.md")),
        ("gone", OTHER, "mlflow", "reach", ("the login is disabled", "ALTER ROLE")),
        ("mlflow", PASSWORD, "absent", "reach", ("there is no such database",)),
        ("mlflow", PASSWORD, "old", "schema", ("older MLflow", "mlflow-proxy migrate")),
        ("mlflow", PASSWORD, "newer", "schema", ("newer one", "install the MLflow")),
    ],
)
def test_what_is_wrong_with_a_database_is_found(
    postgresql: Database,
    tmp_path: Path,
    user: str,
    password: str,
    name: str,
    what: str,
    words: tuple[str, ...],
) -> None:
    told = _database(_uri(postgresql, user, password, name), tmp_path)
    told.says("database", what, "failure", *words)
    assert told.code == 2


@needs(*PostgreSQL.programs)
def test_a_database_that_is_away_and_one_that_takes_no_changes_are_found(
    postgresql: Database, tmp_path: Path
) -> None:
    told = _database(_uri(postgresql, "mlflow", PASSWORD, port=free_port()), tmp_path)
    told.says("database", "reach", "failure", "nobody listens there", "MLFLOW_BACKEND_STORE_URI")
    uri = _uri(postgresql, "writer", OTHER) + "?options=-cdefault_transaction_read_only%3Don"
    told = _database(uri, tmp_path)
    told.says("database", "rights", "failure", "takes no changes", "primary")


def _written(start: str, end: str = "") -> str:
    """The lines of docs/rotation.md from the one with `start` to the one with `end`, as they stand there."""
    lines = (Path(__file__).parents[2] / "docs" / "rotation.md").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if start in line)
    last = next(number for number, line in enumerate(lines[first:], first) if (end or start) in line)
    return "\n".join(lines[first : last + 1])


@needs(*PostgreSQL.programs)
def test_rotation_as_it_is_written_for_postgresql(postgresql: Database, tmp_path: Path) -> None:
    _psql(postgresql, _written("CREATE ROLE owners", "ALTER ROLE mlflow_b SET role"), "mlflow")
    old, new = (
        _uri(postgresql, user, word) for user, word in (("mlflow_a", "first"), ("mlflow_b", "second"))
    )
    _database(old, tmp_path).says("database", "reach", "ok")
    _database(new, tmp_path).says("database", "reach", "failure")
    _psql(postgresql, _written("1. `ALTER ROLE mlflow_b").split("`")[1], "mlflow")
    _database(new, tmp_path).says("database", "reach", "ok")
    _psql(postgresql, _written("5. `ALTER ROLE mlflow_a").split("`")[1], "mlflow")
    _database(old, tmp_path).says("database", "reach", "failure", "the login is disabled")
    _database(new, tmp_path).says("database", "reach", "ok")


@needs(*MariaDB.programs)
def test_rights_that_are_lacking_and_rotation_as_it_is_written_for_mariadb(tmp_path: Path) -> None:
    with database(MariaDB) as server:
        assert isinstance(server, MariaDB)
        server.run(
            *(path("mariadb"), "--no-defaults", f"--socket={server.socket}", "--user=root", "mlflow"),
            text=f"{TABLES} INSERT INTO alembic_version VALUES ('{_schema_version()}');"
            f"GRANT SELECT, INSERT, UPDATE ON mlflow.* TO reader@'%' IDENTIFIED BY '{OTHER}';"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON mlflow.* TO writer@'%' IDENTIFIED BY '{OTHER}';",
        )
        told = _database(server.uri(), tmp_path)
        assert told.code == 0, told.text
        told.says("database", "version", "ok", "MariaDB")
        told = _database(_uri(server, "reader", OTHER), tmp_path)
        told.says(
            "database", "rights", "failure", "reader lacks DELETE on alembic_version, experiments, runs"
        )
        told = _database(_uri(server, "writer", OTHER), tmp_path)
        told.says("database", "migration", "warning", "writer lacks CREATE, ALTER")
        told = _database(_uri(server, "writer", "wrong"), tmp_path)
        told.says("database", "reach", "failure", "the user or the password is refused")

        client = (path("mariadb"), "--no-defaults", f"--socket={server.socket}", "--user=root", "mlflow")
        begin = _written("CREATE OR REPLACE USER mlflow_b", "GRANT ALL PRIVILEGES")
        server.run(*client, text=begin.replace("mlflow_b", "mlflow_a").replace("second", "first"))
        server.run(*client, text=begin)
        old, new = _uri(server, "mlflow_a", "first"), _uri(server, "mlflow_b", "second")
        assert [_database(uri, tmp_path).code for uri in (old, new)] == [0, 0]
        server.run(*client, text=_written("    ALTER USER mlflow_a"))
        _database(old, tmp_path).says("database", "reach", "failure", "the login is disabled")
        assert _database(new, tmp_path).code == 0


# ---- storage ----


class Guarded:
    """moto's S3 that lets a key do what its policy says and nothing else."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.address,
            aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
            aws_secret_access_key="none",
            region_name="us-east-1",
        )

    def make(self, **keys: tuple[str, ...]) -> dict[str, dict[str, str]]:
        """The bucket, and a key for each name that may do those actions; the settings for each."""
        self.client("s3").create_bucket(Bucket=BUCKET)
        iam, found = self.client("iam"), {}
        for name, actions in keys.items():
            iam.create_user(UserName=name)
            made = iam.create_access_key(UserName=name)["AccessKey"]
            allowed = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
            found[name] = {
                "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{BUCKET}/mlflow",
                "MLFLOW_S3_ENDPOINT_URL": self.address,
                "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        return found


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, str]]]:
    rights = {
        "all": ("s3:*",),
        "keeps": ("s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:AbortMultipartUpload"),
    }
    port, folder = free_port(), tmp_path_factory.mktemp("s3")
    # The first calls make the bucket and the keys; from then on the policies hold.
    environment = clean_environment(INITIAL_NO_AUTH_ACTION_COUNT=str(1 + 3 * len(rights)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while b"Running on" not in (folder / "log").read_bytes():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Guarded(port).make(**rights)
    finally:
        process.terminate()
        process.wait(20)


def test_a_bucket_with_all_rights_is_found_good_and_left_empty(
    s3: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    told = doctor("storage", cwd=tmp_path, environment=s3["all"])
    assert told.code == 0, told.text
    assert [result["what"] for result in told.results("storage")] == [
        "root", "put", "get", "list", "multipart", "delete",
    ]  # fmt: skip
    assert s3["all"]["AWS_SECRET_ACCESS_KEY"] not in told.text


def test_a_key_that_may_not_delete_is_found(s3: dict[str, dict[str, str]], tmp_path: Path) -> None:
    told = doctor("storage", cwd=tmp_path, environment=s3["keeps"])
    told.says("storage", "delete", "failure", "AccessDenied", "s3:DeleteObject")
    assert told.wrong() == {("storage", "delete")}


def test_a_bucket_that_is_not_there_a_wrong_key_and_a_storage_that_is_away_are_found(
    s3: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    good = s3["all"]
    told = doctor(
        "storage", cwd=tmp_path, environment=good | {"MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://absent/mlflow"}
    )
    told.says("storage", "put", "failure", "there is no such bucket", "s3://absent/mlflow")
    told = doctor("storage", cwd=tmp_path, environment=good | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    told.says("storage", "put", "failure", "the key is refused", "AWS_SECRET_ACCESS_KEY")
    away = good | {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    told = doctor("storage", cwd=tmp_path, environment=away)
    told.says("storage", "put", "failure", "can't be reached", "MLFLOW_S3_ENDPOINT_URL")


@pytest.mark.skipif(not AZURITE.exists() or program("node") is None, reason="not installed: azurite (npm ci)")
def test_azure_is_tried_too_and_a_container_that_is_not_there_is_found(tmp_path: Path) -> None:
    with object_store(Azure, tmp_path / "store") as store:
        settings = {"MLFLOW_DEFAULT_ARTIFACT_ROOT": store.root, **store.settings()}
        told = doctor("storage", cwd=tmp_path, environment=settings)
        assert told.code == 0, told.text
        assert store.sizes() == []
        assert store.key not in told.text
        settings["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = store.root.replace(BUCKET, "absent", 1)
        told = doctor("storage", cwd=tmp_path, environment=settings)
        told.says("storage", "put", "failure", "there is no such bucket")
