"""The store: tables made once whoever starts, in SQLite and PostgreSQL, and a database that goes away."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from end_to_end.databases import Database, PostgreSQL, database
from programs import needs

from proxy.errors import UserError
from proxy.settings import Settings
from proxy.store import NewSession, Store, StoreUnavailable, sessions, tables


@pytest.fixture(scope="module")
def cluster() -> Iterator[Database]:
    with database(PostgreSQL) as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs(*PostgreSQL.programs))])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path)
    running: Database = request.getfixturevalue("cluster")
    _drop(running)
    return Settings(data_dir=tmp_path, database_url=running.uri())


def _drop(running: Database) -> None:
    engine = sa.create_engine(running.uri().replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    engine.dispose()


def new(session_id: str = "a" * 64, **values: object) -> NewSession:
    now = time.time()
    given: dict[str, object] = {
        "id": session_id,
        "user": "ada",
        "email": "ada@example.com",
        "email_verified": True,
        "name": "Ada Lovelace",
        "issuer": "https://id.example.com",
        "subject": "1",
        "provider_sid": "s1",
        "groups": ("a", "ü,b"),
        "role": 2,
        "created": now,
        "ends": now + 100,
        "client": "192.0.2.1",
        "user_agent": "Firefox",
        "tokens": b"\0sealed",
    }
    return NewSession(**{**given, **values})  # type: ignore[arg-type]


def test_a_session_comes_back_as_it_was_put_in(settings: Settings) -> None:
    store = Store.open(settings)
    session = new()
    store.run_blocking(lambda db: sessions.insert(db, session))
    store.close()

    store = Store.open(settings)
    row = store.run_blocking(lambda db: sessions.read(db, session.id))
    assert row is not None
    assert all(getattr(row, name) == getattr(session, name) for name in NewSession.__slots__)
    assert (row.refreshed, row.last_seen, row.issued, row.ended) == (
        session.created,
        session.created,
        1,
        None,
    )
    assert store.run_blocking(lambda db: sessions.read(db, "b" * 64)) is None
    store.close()


def test_the_tables_are_those_that_the_code_knows(settings: Settings) -> None:
    store = Store.open(settings)

    def differences(db: sa.Connection) -> list[object]:
        options = {
            "version_table": tables.VERSION_TABLE,
            "include_name": lambda name, kind, _parents: kind != "table" or name.startswith(tables.PREFIX),
            "compare_type": True,
        }
        return list(compare_metadata(MigrationContext.configure(db, opts=options), tables.metadata))

    assert store.run_blocking(differences) == []
    store.close()


def test_replicas_that_start_together_make_the_tables_once(settings: Settings) -> None:
    start = threading.Barrier(6)

    def open_one(_: int) -> Store:
        start.wait()
        return Store.open(settings)

    with ThreadPoolExecutor(6) as threads:
        stores = list(threads.map(open_one, range(6)))
    for number, store in enumerate(stores):
        session = new(f"{number:064}")
        store.run_blocking(lambda db, session=session: sessions.insert(db, session))
    assert len(stores[0].run_blocking(lambda db: sessions.live(db, time.time(), 60))) == 6
    for store in stores:
        store.close()


def test_tables_of_a_newer_version_are_left_alone(settings: Settings) -> None:
    store = Store.open(settings)
    store.run_blocking(
        lambda db: db.execute(sa.text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '9999'"))
    )
    store.close()
    with pytest.raises(UserError, match="made by a newer version of this program \\(9999\\)"):
        Store.open(settings)


def test_mlflows_own_migrations_are_not_disturbed(settings: Settings) -> None:
    """Both may be given the same database; MLflow keeps its version in a table alembic_version."""
    store = Store.open(settings)
    names = store.run_blocking(lambda db: sa.inspect(db).get_table_names())
    assert names
    assert all(name.startswith("mlflow_proxy_") for name in names)
    store.close()


def test_of_all_that_saw_the_same_row_one_alone_may_ask(settings: Settings) -> None:
    stores = [Store.open(settings) for _ in range(3)]
    session = new()
    stores[0].run_blocking(lambda db: sessions.insert(db, session))
    row = stores[0].run_blocking(lambda db: sessions.read(db, session.id))
    assert row is not None

    async def race() -> list[bool]:
        return await asyncio.gather(
            *(
                each.run(lambda db, n=n: sessions.claim(db, row, 10.0 + n))
                for n, each in enumerate(stores * 4)
            )
        )

    assert sum(asyncio.run(race())) == 1
    for store in stores:
        store.close()


def test_what_was_used_once_is_refused_on_every_replica(settings: Settings) -> None:
    stores = [Store.open(settings) for _ in range(2)]

    async def race() -> list[bool]:
        return await asyncio.gather(
            *(each.run(lambda db: sessions.first_use(db, "f" * 64, 99.0)) for each in stores * 5)
        )

    assert sum(asyncio.run(race())) == 1
    for store in stores:
        store.close()


def test_a_logout_token_means_the_sessions_of_its_sid_or_all_of_its_subject(settings: Settings) -> None:
    store = Store.open(settings)
    given = [
        new("1" * 64),
        new("2" * 64, provider_sid="s2"),
        new("3" * 64, subject="2", provider_sid="s3"),
        new("4" * 64, issuer="https://other.example.com"),
    ]
    for session in given:
        store.run_blocking(lambda db, session=session: sessions.insert(db, session))

    def meant(issuer: str, subject: str | None, sid: str | None) -> list[str]:
        return sorted(
            which[0]
            for which in store.run_blocking(lambda db: sessions.of_provider(db, issuer, subject, sid))
        )

    issuer = "https://id.example.com"
    assert meant(issuer, None, "s1") == ["1"]
    assert meant(issuer, "1", None) == ["1", "2"]
    assert meant(issuer, "1", "s2") == ["2"]
    assert meant(issuer, "2", "s2") == []
    assert meant(issuer, None, None) == []
    assert meant("https://other.example.com", "1", None) == ["4"]
    store.close()


def test_what_ended_long_ago_is_removed_with_its_tokens_gone_before(settings: Settings) -> None:
    store, now = Store.open(settings), time.time()
    for name, created, ends in (("1", now, now + 9), ("2", now - 9e5, now - 1e5), ("3", now - 5, now + 9)):
        session = new(name * 64, created=created, ends=ends)
        store.run_blocking(lambda db, session=session: sessions.insert(db, session))
    assert store.run_blocking(lambda db: sessions.end(db, ["3" * 64, "9" * 64], now, "x" * 900)) == ["3" * 64]
    ended = store.run_blocking(lambda db: sessions.read(db, "3" * 64))
    assert ended is not None
    assert (ended.ended, ended.tokens) == (now, None)
    assert store.run_blocking(lambda db: sessions.purge(db, now, 60)) == 1
    assert store.run_blocking(lambda db: sessions.purge(db, now + 90_000, 60)) == 2
    store.close()


def test_many_sessions_are_read_and_noted_at_once(settings: Settings) -> None:
    store = Store.open(settings)
    ids = [f"{number:064}" for number in range(1200)]

    def put(db: sa.Connection) -> None:
        for which in ids:
            sessions.insert(db, new(which))

    store.run_blocking(put)
    later = time.time() + 50
    store.run_blocking(lambda db: sessions.seen(db, dict.fromkeys(ids, later)))
    store.run_blocking(lambda db: sessions.seen(db, {ids[0]: 1.0}))
    found = store.run_blocking(lambda db: sessions.read_many(db, [*ids, "none"]))
    assert len(found) == 1200
    assert {row.last_seen for row in found.values()} == {later}
    store.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = Store.open(Settings(data_dir=tmp_path))
    store.run_blocking(lambda db: sessions.insert(db, new()))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("proxy.db", "proxy.db-wal", "proxy.db-shm"), 0o600)
    (tmp_path / "proxy.db").chmod(0o644)
    Store.open(Settings(data_dir=tmp_path)).close()
    assert (tmp_path / "proxy.db").stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_percent_sign_in_the_path_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / "100% %(here)s"
    folder.mkdir()
    Store.open(Settings(data_dir=tmp_path, database_url=f"sqlite:///{folder}/x.db")).close()
    assert (folder / "x.db").exists()


def test_a_database_that_can_not_be_used_is_one_line_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"PROXY_DATABASE_URL: .*can't be made or read \(No such file"):
        Store.open(Settings(data_dir=tmp_path, database_url=f"sqlite:///{tmp_path}/none/x.db"))
    (tmp_path / "proxy.db").write_text("this is no database, and longer than its header would be" * 9)
    with pytest.raises(UserError, match=r"PROXY_DATABASE_URL: .*not a database"):
        Store.open(Settings(data_dir=tmp_path))
    url = "postgresql://u:hunter2@127.0.0.1:1/x"
    with pytest.raises(UserError, match="can't be used: ") as caught:
        Store.open(Settings(data_dir=tmp_path, database_url=url))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_query_that_waits_is_given_up_at_its_deadline(tmp_path: Path) -> None:
    store = Store.open(Settings(data_dir=tmp_path))
    other = sqlite3.connect(tmp_path / "proxy.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def ask() -> None:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"within 0\.3 seconds"):
            await store.run(lambda db: sessions.read(db, "x"), deadline=0.3)
        assert time.monotonic() - started < 1
        assert store.problem is not None
        with pytest.raises(StoreUnavailable):  # at once, for the next second
            await store.run(lambda db: sessions.read(db, "x"))
        assert time.monotonic() - started < 1
        other.execute("ROLLBACK")
        await asyncio.sleep(1.1)
        assert await store.run(lambda db: sessions.read(db, "x")) is None
        assert store.problem is None

    asyncio.run(ask())
    other.close()
    store.close()


@needs(*PostgreSQL.programs)
def test_a_database_that_was_away_is_used_again(cluster: Database, tmp_path: Path) -> None:
    store = Store.open(Settings(data_dir=tmp_path, database_url=cluster.uri()))

    async def ask() -> None:
        await store.run(lambda db: sessions.read(db, "x"))
        cluster.stop()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.run(lambda db: sessions.read(db, "x"))
        assert time.monotonic() - started < 5.5
        cluster.start()
        await asyncio.sleep(1.1)
        assert await store.run(lambda db: sessions.read(db, "x")) is None

    asyncio.run(ask())
    store.close()


def test_the_migrations_are_part_of_what_is_installed() -> None:
    program = (
        "import setuptools, pathlib; found = setuptools.find_packages('.', include=['proxy*']);"
        "print('proxy.store.migrations.versions' in found and 'proxy.store.migrations' in found)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
