"""Databases of other versions of MLflow: known before MLflow is started, migrated where that is wanted."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow_helpers import living, place
from service import clean_environment, free_port, running

from proxy.mlflow_server import schema
from proxy.mlflow_server.schema import Fit
from proxy.store.tables import sessions

__all__ = ["place"]

OLD = "451aebb31d03"  # MLflow's first migration
# What makes a database of an older MLflow, with a run in it: argv is its path and the version.
MAKE = """
import sys
import sqlalchemy as sa
from alembic import command
from mlflow.store.db import utils
path, version = sys.argv[1:]
engine = sa.create_engine(f"sqlite:///{path}")
utils.InitialBase.metadata.create_all(engine)
config = utils._get_alembic_config(str(engine.url))
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, version)
with engine.begin() as connection:
    connection.execute(sa.text(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
        " VALUES (7, 'kept', 'x', 'active')"))
"""


def uri(path: Path) -> str:
    return f"sqlite:///{path}"


def database(path: Path, version: str | None) -> Path:
    """One that looks like MLflow's of that version; None: of before there were versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT)")
        made.execute("INSERT INTO experiments VALUES (7, 'kept')")
        if version is not None:
            made.execute("CREATE TABLE alembic_version (version_num TEXT)")
            made.execute("INSERT INTO alembic_version VALUES (?)", (version,))
        made.commit()
    return path


def newest() -> str:
    known = schema.versions()
    assert known is not None
    return known[0]


def command(name: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", name, *options],
        cwd=folder,
        env=clean_environment(MLFLOW_PORT=str(free_port()), **environment),
        capture_output=True,
        text=True,
        timeout=170,
        stdin=subprocess.DEVNULL,
    )


def test_the_newest_version_is_the_one_that_mlflow_itself_names() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert newest() == _get_latest_schema_revision()


def test_a_database_is_known_by_its_tables(tmp_path: Path) -> None:
    def fit(name: str) -> Fit:
        found = schema.look(uri(tmp_path / name))
        assert found is not None
        return found.fit

    assert fit("missing") is Fit.EMPTY
    (tmp_path / "empty").touch()
    assert fit("empty") is Fit.EMPTY
    with closing(sqlite3.connect(tmp_path / "ours")) as ours:
        ours.execute("CREATE TABLE proxy_sessions (id INTEGER)")
    assert fit("ours") is Fit.EMPTY
    database(tmp_path / "current", newest())
    assert fit("current") is Fit.CURRENT
    database(tmp_path / "old", OLD)
    assert fit("old") is Fit.OLD
    database(tmp_path / "oldest", None)
    assert fit("oldest") is Fit.OLD
    database(tmp_path / "newer", "ffffffffffff")
    assert fit("newer") is Fit.FOREIGN
    (tmp_path / "damaged").write_bytes(b"no database at all" * 100)
    assert schema.look(uri(tmp_path / "damaged")) is None


def test_a_server_that_does_not_answer_is_said_without_its_password() -> None:
    port = free_port()
    with pytest.raises(schema.Unreachable) as raised:
        schema.look(f"postgresql+psycopg://me:secret-word@127.0.0.1:{port}/x")
    assert str(raised.value) == f"the database at 127.0.0.1:{port} can't be reached; it is asked again"
    assert "Connection refused" in raised.value.reason
    assert "\n" not in raised.value.reason


def test_the_copy_has_what_was_last_written_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = database(tmp_path / "mlflow.db", OLD)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("INSERT INTO experiments VALUES (8, 'late')")
        writer.commit()
        found = schema.look(uri(path))
        assert found is not None
        copy = schema.copy_aside(uri(path), found)
    assert copy is not None
    assert copy.name.startswith(f"mlflow.db.{OLD}.")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as copied:
        assert copied.execute("SELECT count(*) FROM experiments").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("version", "policy", "words"),
    [
        (OLD, "never", "run `mlflow-proxy migrate`"),
        (OLD, "ask", "run `mlflow-proxy migrate`"),
        ("ffffffffffff", "auto", "install the MLflow that it belongs to"),
    ],
)
def test_a_start_over_such_a_database_is_refused_and_changes_nothing(
    tmp_path: Path, version: str, policy: str, words: str
) -> None:
    path = database(tmp_path / "mlflow-data" / "mlflow.db", version)
    before = hashlib.sha256(path.read_bytes()).digest()
    done = command("serve", tmp_path, PROXY_MIGRATE=policy)
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert list(path.parent.glob("mlflow.db*")) == [path]


def test_a_rolling_restart_migrates_nothing_beneath_the_mlflow_that_runs(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}) as life:
            assert await life.server.wait_ready(10)
            database(place / "data" / "mlflow.db", OLD)
            result = await life.server.roll()
            assert not result.ok
            assert "older MLflow" in result.text
            assert life.server.ready
            assert life.server.rolls["failed"] == 1

    asyncio.run(run())


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a real MLflow's database, one version behind."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    script = ScriptDirectory.from_config(_get_alembic_config(""))
    before = script.get_revision(script.get_heads()[0]).down_revision
    path = tmp_path_factory.mktemp("older") / "mlflow.db"
    subprocess.run([sys.executable, "-c", MAKE, str(path), str(before)], check=True, timeout=120)
    return path.read_bytes()


@pytest.mark.slow
def test_sqlite_is_migrated_at_start_after_its_file_was_copied_aside(tmp_path: Path, older: bytes) -> None:
    data = tmp_path / "mlflow-data"
    data.mkdir()
    path = data / "mlflow.db"
    path.write_bytes(older)
    with running(tmp_path) as service:
        answer = service.session().get(
            service.url + "/api/2.0/mlflow/experiments/get?experiment_id=7", timeout=20
        )
        assert answer.json()["experiment"]["name"] == "kept"
        assert "was migrated" in service.log()
        assert "--username" in service.log() or "MLFLOW_TRACKING_URI" in service.log(), "it is welcomed"
    found = schema.look(uri(path))
    assert found is not None
    assert found.fit is Fit.CURRENT
    (copy,) = data.glob("mlflow.db.*Z")
    was = schema.look(uri(copy))
    assert was is not None
    assert was.fit is Fit.OLD


@pytest.mark.slow
def test_the_command_migrates_after_a_copy_and_then_has_nothing_to_do(tmp_path: Path, older: bytes) -> None:
    data = tmp_path / "mlflow-data"
    data.mkdir()
    path = data / "mlflow.db"
    path.write_bytes(older)
    done = command("migrate", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"was migrated to version {newest()}" in done.stdout
    assert len(list(data.glob("mlflow.db.*Z"))) == 1
    again = command("migrate", tmp_path)
    assert "needs no migration (current)" in again.stdout


def test_a_newer_mlflows_database_is_neither_waited_for_nor_migrated(tmp_path: Path) -> None:
    path = database(tmp_path / "mlflow-data" / "mlflow.db", "ffffffffffff")
    before = hashlib.sha256(path.read_bytes()).digest()
    for option in ("--wait", "--yes"):
        done = command("migrate", tmp_path, option)
        assert done.returncode == 1
        assert "install the MLflow that it belongs to" in done.stderr
    assert hashlib.sha256(path.read_bytes()).digest() == before
    path.unlink()
    database(path, newest())
    assert command("migrate", tmp_path, "--wait").returncode == 0


@pytest.mark.slow
def test_one_makes_an_empty_databases_tables_and_the_others_wait_for_it(tmp_path: Path) -> None:
    nothing = command("migrate", tmp_path)
    assert "needs no migration (empty)" in nothing.stdout
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "migrate", "--wait"],
        cwd=tmp_path,
        env=clean_environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        try:
            assert waiting.stdout is not None
            assert "has no tables and is to have version" in waiting.stdout.readline()
            assert not (tmp_path / "mlflow-data" / "mlflow.db").exists()
            made = command("migrate", tmp_path, "--create")
            assert made.returncode == 0, made.stdout + made.stderr
            assert f"was given the tables of version {newest()}" in made.stdout
            assert waiting.wait(60) == 0
        finally:
            waiting.kill()
    with closing(sqlite3.connect(tmp_path / "mlflow-data" / "proxy.db")) as ours:
        named = ours.execute("SELECT name FROM sqlite_master WHERE name = ?", (sessions.name,))
        assert named.fetchall() == [(sessions.name,)]
    again = command("migrate", tmp_path, "--create")
    assert "needs no migration (current)" in again.stdout
