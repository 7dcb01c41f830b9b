"""The drill: it finds a good backup good, says what is wrong with a bad one, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from end_to_end.backed_up import World, world, written_to
from object_stores import S3, object_store

from proxy import guard
from proxy.backup import manifest as manifests
from proxy.backup.databases import Table
from proxy.backup.manifest import DatabaseEntry
from proxy.backup.places import open_place

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A service on SQLite with one backup, made while MLflow wrote."""
    made = world(tmp_path_factory.mktemp("drill"))
    uri = f"sqlite:///{made.data / 'mlflow.db'}"
    with written_to(made, uri):
        made.done("backup")
    return made


@pytest.fixture
def copy(backed_up: World, tmp_path: Path) -> World:
    """The same backup, to be spoilt."""
    shutil.copytree(backed_up.folder / "backups", tmp_path / "backups")
    (tmp_path / "mlflow-data").mkdir()
    more = {
        "PROXY_DATA_DIR": str(tmp_path / "mlflow-data"),
        "PROXY_BACKUP_DESTINATION": str(tmp_path / "backups"),
    }
    return World(tmp_path, {**backed_up.settings, **more})


def left(made: World) -> list[str]:
    """What a drill has left behind: files, and processes that work in its folder."""
    folder = made.data / "backup" / "drill"
    found = [path.name for path in folder.iterdir() if path.name != "lock"]
    for pid in guard.processes():
        if guard.environment_of(pid).get("PROXY_DATA_DIR", "").startswith(str(folder)):
            found.append(f"process {pid}")
    return found


def test_a_good_backup_is_restored_and_read_also_after_a_drill_that_was_killed(
    backed_up: World, tmp_path: Path
) -> None:
    for moment, most in MOMENTS:
        killed(backed_up, moment, random.uniform(0, most))
    assert "drill" not in backed_up.state(), "none of them was taken for a drill"
    until_no_process_is_left(backed_up)
    # A service that is killed leaves its sockets there.
    folders = [Path(tempfile.gettempdir()) / name for name in left(backed_up)]
    assert any(folder.exists() for folder in folders)
    figures = tmp_path / "backup.prom"

    report = backed_up.drill(PROXY_BACKUP_METRICS_FILE=str(figures))

    assert report["result"] == "good"
    tracking = next(one for one in report["databases"] if one["role"] == "tracking")
    assert (tracking["kind"], tracking["tables"] > 50) == ("sqlite", True)
    assert (report["artifacts"], report["artifacts_restored"], report["artifacts_read"]) == (10, 10, 10)
    assert 0 < report["mlflow_start_seconds"] < report["restore_seconds"] <= report["seconds"]
    assert report["data_age_seconds"] > 0
    assert left(backed_up) == []
    assert not any(folder.exists() for folder in folders)
    text = figures.read_text()
    for line in (
        "mlflow_proxy_drill_success 1.0",
        f"mlflow_proxy_drill_restore_seconds {report['restore_seconds']!r}",
        f"mlflow_proxy_drill_data_age_seconds {report['data_age_seconds']!r}",
        "mlflow_proxy_backup_success 1.0",
    ):
        assert line in text.splitlines()
    name = "mlflow_proxy_backup_last_success_timestamp_seconds"
    assert f"{name} {backed_up.state()['backup']['last_success']!r}" in text.splitlines()


MOMENTS = [
    ("restoring", 0.0),
    ("tracking: ", 0.0),
    ("artifacts: ", 0.0),
    ("restoring", 0.2),
    ("starting MLflow", 0.0),
    ("starting MLflow", 3.0),
]
"""What a drill says, and how many seconds after it, at most, it is killed: at all of its stages."""


def killed(made: World, moment: str, seconds: float) -> None:
    """A drill that is killed so many seconds after it has said so."""
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "drill"],
        cwd=made.folder,
        env=made.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(moment):
                break
        else:
            raise AssertionError(f"it has not said {moment}")
        time.sleep(seconds)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def until_no_process_is_left(made: World) -> None:
    """What a killed one has started goes by itself, its files with the next one."""
    deadline = time.monotonic() + 60
    while any(found.startswith("process") for found in left(made)):
        assert time.monotonic() < deadline, left(made)
        time.sleep(0.1)


def test_only_one_drill_runs_on_a_data_directory(copy: World) -> None:
    lock = copy.data / "backup" / "drill" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another drill is under way" in copy.refused("drill")
    assert not (copy.data / "backup" / "state.json").exists(), "it says nothing of the backup"


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("tracking.dump", "truncated", "is not whole: .*is cut short: "),
        ("tracking.dump", "changed", "it can't be decrypted: it was changed or cut short"),
        ("tracking.dump", "gone", "is not whole: .*is missing"),
        ("artifacts.jsonl", "changed", "it can't be decrypted: it was changed or cut short"),
        ("copies", "gone", "is not whole: .*is missing"),
        ("copies", "changed", "was changed: its digest is not the manifest's"),
    ],
)
def test_a_spoilt_part_is_told(copy: World, name: str, how: str, words: str) -> None:
    (part,) = copy.sets.glob(f"*/{name}.*")
    data = bytearray(part.read_bytes())
    if how == "gone":
        part.unlink()
    elif how == "truncated":
        part.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
    figures = copy.folder / "backup.prom"
    done = copy.command("drill", "--json", "--metrics-file", str(figures))
    assert done.returncode == 1
    report = json.loads(done.stdout)
    told = report.pop("problem")
    assert report == {"result": "failed"}
    assert done.stderr.splitlines()[-1] == f"mlflow-proxy: {told}"
    assert part.name in told
    assert re.search(words, told)
    assert left(copy) == []
    noted = copy.state()["drill"]
    assert noted["error"] == told
    assert "last_success" not in noted
    assert "mlflow_proxy_drill_success 0.0" in figures.read_text().splitlines()


def test_a_backup_that_no_key_opens_is_told(copy: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    copy.done("backup", "keygen", str(other))
    for file, words in (
        (str(other), "it is encrypted to other keys than those in PROXY_BACKUP_IDENTITY_FILE"),
        ("", "is encrypted: set PROXY_BACKUP_IDENTITY_FILE to the file with the secret key"),
    ):
        assert words in copy.refused("drill", PROXY_BACKUP_IDENTITY_FILE=file)
    assert left(copy) == []


def test_a_changed_manifest_is_told(copy: World) -> None:
    (file,) = copy.sets.glob("*/manifest.json")
    text = file.read_text()
    file.write_text(re.sub(r'"rows": \d+', '"rows": 7000', text, count=1))
    assert "was changed" in copy.refused("drill")


def test_a_backup_of_tomorrow_is_told(copy: World) -> None:
    manifest, file = manifest_of(copy)
    file.write_bytes(dataclasses.replace(manifest, moment=time.time() + 86400).text())
    assert "is of a moment that is still to come" in copy.refused("drill")
    assert left(copy) == []


def manifest_of(made: World) -> tuple[manifests.Manifest, Path]:
    (file,) = made.sets.glob("*/manifest.json")
    return manifests.parse(file.read_bytes(), ""), file


def rewritten(made: World, change: Callable[[DatabaseEntry], DatabaseEntry]) -> None:
    """Another manifest, which says something else of the databases."""
    manifest, file = manifest_of(made)
    changed = dataclasses.replace(manifest, databases=tuple(map(change, manifest.databases)))
    file.write_bytes(changed.text())


@pytest.mark.parametrize(
    ("table", "entry", "words"),
    [
        ("runs", None, "the table runs was not there"),
        ("runs", Table(7, "0" * 64), "the table runs has"),
        ("lost", Table(1, "0" * 64), "the table lost is missing"),
    ],
)
def test_a_table_that_is_not_as_the_manifest_says_is_told(
    copy: World, table: str, entry: Table | None, words: str
) -> None:
    def change(database: DatabaseEntry) -> DatabaseEntry:
        if database.role != "tracking":
            return database
        tables = {**database.tables, table: entry}
        return dataclasses.replace(
            database, tables={name: one for name, one in tables.items() if one is not None}
        )

    rewritten(copy, change)
    assert words in copy.refused("drill")
    assert left(copy) == []


@pytest.mark.parametrize("how", ["gone", "changed"])
@pytest.mark.parametrize("which", ["all", "sample"])
def test_a_missing_or_changed_artifact_is_told(copy: World, how: str, which: str) -> None:
    copies = [path for path in (copy.folder / "backups" / "artifacts").rglob("*") if is_copy(path)]
    assert len(copies) == 10
    spoilt = copies[:1] if how == "gone" else copies
    for path in spoilt:
        if how == "gone":
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[-5] ^= 1
            path.write_bytes(data)
    # A copy that is gone is missed whether or not it is among those that are read.
    sample = {"PROXY_DRILL_SAMPLE": "0"} if how == "gone" else {}
    told = copy.refused("drill", PROXY_DRILL_ARTIFACTS=which, **sample)
    words = "is missing" if how == "gone" else "can't be used: "
    assert re.search(rf"the artifact \S.*model ü\.bin: .*{words}", told)
    assert any(path.name in told for path in spoilt)
    assert left(copy) == []


def is_copy(path: Path) -> bool:
    return path.is_file() and "index" not in path.parts


def test_of_artifacts_in_a_bucket_that_were_only_listed_the_one_that_is_gone_is_told(
    backed_up: World, tmp_path: Path
) -> None:
    """The backup is in a bucket too; both are read as the service reads them."""
    with object_store(S3, tmp_path / "store") as store:
        root = f"{store.root}-artifacts"
        settings = {
            **store.settings(),
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": root,
            "PROXY_BACKUP_DESTINATION": f"{store.root}-backups",
            "PROXY_BACKUP_ARTIFACTS": "false",
            "PROXY_DRILL_SAMPLE": "100",
        }
        made = world(tmp_path / "listed", **settings)
        shutil.copy(backed_up.data / "mlflow.db", made.data / "mlflow.db")
        bucket = open_place(root, settings)
        for path in backed_up.artifacts.rglob("*.bin"):
            bucket.put(str(path.relative_to(backed_up.artifacts)), path.read_bytes())
        made.done("backup")
        names = [entry.name for entry in bucket.entries("")]
        assert len(names) == 10
        # The last one, so that the others are read before it.
        bucket.remove(names[-1])
        key = made.settings.pop("PROXY_BACKUP_IDENTITY_FILE")
        log = store.folder / "server.log"
        before = len(log.read_text().splitlines())

        done = made.command("drill", "--backup-identity-file", key)

        assert done.returncode == 1, done.stderr
        assert f"the artifact {names[-1]} can't be read: " in done.stderr.splitlines()[-1]
        assert left(made) == []
        asked = re.findall(r'"([A-Z]+) /', "\n".join(log.read_text().splitlines()[before:]))
        assert set(asked) == {"GET", "HEAD"}, "nothing is written there"


def test_a_schema_that_mlflow_refuses_is_told(backed_up: World, tmp_path: Path) -> None:
    made = world(tmp_path / "newer")
    shutil.copy(backed_up.data / "mlflow.db", made.data / "mlflow.db")
    with closing(sqlite3.connect(made.data / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.commit()
    made.done("backup")
    told = made.refused("drill")
    assert "MLflow does not start on what was restored: " in told
    assert "ffffffffffff" in told
    assert left(made) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "postgresql"}, "PROXY_DRILL_SERVER_URL names no postgresql server"),
        ({"roles": ("registry",)}, "holds no tracking database"),
        ({"role": "../../../../x"}, "a database of '../../../../x', which this version does not know"),
    ],
)
def test_what_hinders_the_drill_is_told(copy: World, change: dict[str, Any], words: str) -> None:
    rewritten(
        copy,
        lambda entry: dataclasses.replace(entry, **change) if entry.role == "tracking" else entry,
    )
    assert words in copy.refused("drill")
    assert left(copy) == []
    assert not list(copy.folder.glob("x*"))


def test_a_drill_that_has_no_room_is_told_before_it_begins(copy: World) -> None:
    manifest, file = manifest_of(copy)
    parts = tuple(part._replace(plain_bytes=10**18) for part in manifest.parts)
    file.write_bytes(dataclasses.replace(manifest, parts=parts).text())
    assert "the drill needs 2000000000000" in copy.refused("drill")


def test_whatever_ends_a_drill_it_is_noted_as_one_that_failed(copy: World) -> None:
    manifest, file = manifest_of(copy)
    assert manifest.artifacts is not None
    senseless: Any = dataclasses.replace(manifest.artifacts, bytes="many")  # type: ignore[arg-type]
    file.write_bytes(dataclasses.replace(manifest, artifacts=senseless).text())
    assert copy.command("drill").returncode == 1
    assert copy.state()["drill"]["error"].startswith("the drill could not go on: TypeError: ")
    assert left(copy) == []


def test_without_a_backup_there_is_no_drill(tmp_path: Path) -> None:
    made = World(tmp_path, {"PROXY_BACKUP_DESTINATION": str(tmp_path / "none")})
    assert "none" in made.refused("drill")
    assert "PROXY_BACKUP_DESTINATION is not set" in made.refused("drill", PROXY_BACKUP_DESTINATION="")


def test_sigterm_ends_a_drill_and_nothing_is_left(copy: World) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "drill"],
        cwd=copy.folder,
        env=copy.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("starting MLflow"))
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 143
    assert left(copy) == []
