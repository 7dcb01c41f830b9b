"""The databases that are backed up: dumped and digested at one moment, and brought back the same."""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from end_to_end.backed_up import administer
from end_to_end.databases import PASSWORD, Database, MariaDB, PostgreSQL, database, path
from programs import needs, program

from proxy.backup import databases
from proxy.backup.databases import DatabaseFailed, Facts, mysql, scratch, sqlite
from proxy.backup.databases.definers import WithoutDefiners
from proxy.backup.databases.digest import digest
from proxy.backup.databases.programs import Program
from proxy.errors import UserError
from proxy.settings.database import driver_uri

POSTGRESQL = pytest.param(
    PostgreSQL, marks=[pytest.mark.slow, needs(*PostgreSQL.programs, "pg_dump", "pg_restore")]
)
MARIADB = pytest.param(MariaDB, marks=[pytest.mark.slow, needs(*MariaDB.programs, "mariadb-dump")])

METADATA = sa.MetaData()
METRICS = sa.Table(
    "metrics",
    METADATA,
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Double),
    sa.Column("step", sa.BigInteger),
    sa.Column("is_nan", sa.Boolean),
    sa.Column("note", sa.Text),
    sa.Column("sealed", sa.LargeBinary),
    sa.Column("params", sa.JSON),
    sa.Column("day", sa.Date),
)
LOG = sa.Table(
    "log",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("metric", sa.ForeignKey("metrics.key")),
)
# As MLflow has one: it belongs to whoever makes it.
TRIGGERS = {
    "sqlite": ["CREATE TRIGGER keep BEFORE UPDATE ON alembic_version BEGIN SELECT RAISE(ABORT, 'kept'); END"],
    "postgresql": [
        "CREATE FUNCTION keep() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'kept'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER keep BEFORE UPDATE ON alembic_version FOR EACH ROW EXECUTE FUNCTION keep()",
    ],
    "mysql": [
        "CREATE TRIGGER keep BEFORE UPDATE ON alembic_version FOR EACH ROW "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'kept'"
    ],
}
VERSION = sa.Table("alembic_version", METADATA, sa.Column("version_num", sa.String(32)))
ROWS: list[dict[str, Any]] = [
    {
        "key": f"k{i} %ü😀",
        "value": [i / 7, -0.5, 1.7976931348623157e308, float(i), None][i % 5],
        "step": i * 10**12,
        "is_nan": i % 2 == 0,
        "note": [None, "", "a\r\nb\t\\'\"\x01;", "é😀"][i % 4],
        "sealed": None if i % 3 else bytes(range(256)),
        "params": {"a": [i, None]},
        "day": datetime.date(2026, 1, 1) + datetime.timedelta(i),
    }
    for i in range(300)
]


class Place:
    """A database with content, and an empty one of the same kind."""

    def __init__(self, uri: str, empty: str, server: str | None) -> None:
        self.uri = uri
        self.empty = empty
        self.server = server
        """A login that may create databases."""


@pytest.fixture(scope="module", params=["sqlite", POSTGRESQL, MARIADB])
def running(request: pytest.FixtureRequest) -> Iterator[Database | None]:
    if request.param == "sqlite":
        yield None
        return
    with database(request.param) as found:
        if isinstance(found, PostgreSQL):
            administer(found, "ALTER ROLE mlflow CREATEDB")
        else:
            administer(found, "GRANT ALL ON *.* TO mlflow@'%'")
        yield found


@pytest.fixture
def place(running: Database | None, tmp_path: Path) -> Iterator[Place]:
    if running is None:
        found = Place(f"sqlite:///{tmp_path / 'a.db'}", f"sqlite:///{tmp_path / 'new' / 'b.db'}", None)
        fill(found.uri)
        yield found
        return
    server = driver_uri(running.uri())
    uri, empty = scratch.create(server, "filled"), scratch.create(server, "empty")
    fill(uri)
    if isinstance(running, MariaDB):
        # Another login, which may do what it likes in its own database and nothing else.
        administer(running, "GRANT ALL ON empty.* TO another@'%' IDENTIFIED BY 'another'")
        url = sa.make_url(empty).set(username="another", password="another")
        empty = url.render_as_string(hide_password=False)
    yield Place(uri, empty, server)
    for name in ("filled", "empty"):
        scratch.drop(server, name)


def fill(uri: str) -> None:
    engine = sa.create_engine(uri)
    METADATA.create_all(engine)
    with engine.begin() as connection:
        connection.execute(VERSION.insert(), [{"version_num": "abc123"}])
        connection.execute(METRICS.insert(), ROWS)
        connection.execute(LOG.insert(), [{"id": i + 1, "metric": ROWS[i]["key"]} for i in range(100)])
        for statement in TRIGGERS[databases.kind(uri)]:
            connection.exec_driver_sql(statement)
    engine.dispose()


def dumped(uri: str, folder: Path) -> tuple[bytes, Facts]:
    with databases.snapshot(uri, folder) as snapshot:
        data = io.BytesIO()
        snapshot.dump(data)
        return data.getvalue(), snapshot.facts()


def test_what_comes_back_is_what_was_there_table_by_table(place: Place, tmp_path: Path) -> None:
    assert databases.unfit(place.uri) is None
    assert databases.is_empty(place.empty)
    data, facts = dumped(place.uri, tmp_path)
    assert {name: table.rows for name, table in facts.tables.items()} == {
        "alembic_version": 1,
        "log": 100,
        "metrics": 300,
    }
    assert facts.revision == "abc123"
    assert abs(facts.moment - time.time()) < 300

    databases.restore(place.empty, io.BytesIO(data))

    found = databases.facts(place.empty)
    assert (found.tables, found.revision) == (facts.tables, facts.revision)
    engine = sa.create_engine(place.empty)
    with engine.connect() as connection:
        there = connection.execute(METRICS.select().order_by(METRICS.c.step)).mappings().fetchall()
    with pytest.raises(sa.exc.DBAPIError, match="kept"), engine.begin() as connection:
        connection.execute(VERSION.update().values(version_num="def456"))
    engine.dispose()
    assert [dict(row) for row in there] == ROWS
    assert not list(tmp_path.glob("*.sql*"))


def test_the_digests_do_not_hang_on_the_kind_of_database(place: Place, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    fill(other)
    assert databases.facts(place.uri).tables == databases.facts(other).tables


def test_the_dump_and_its_digests_are_of_one_moment_whatever_is_written(place: Place, tmp_path: Path) -> None:
    over, written = threading.Event(), []

    def write() -> None:
        engine = sa.create_engine(place.uri, connect_args={"timeout": 60} if not place.server else {})
        while not over.is_set():
            with engine.begin() as connection:
                # Two tables in one transaction: half of it would be seen.
                key = f"w{len(written)}"
                connection.execute(METRICS.insert(), [{"key": key, "value": 1.0}])
                connection.execute(LOG.insert(), [{"id": 1000 + len(written), "metric": key}])
                connection.execute(METRICS.update().values(step=len(written)))
            written.append(key)
        engine.dispose()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for(lambda: len(written) > 2)
        with databases.snapshot(place.uri, tmp_path) as snapshot:
            before = len(written)
            wait_for(lambda: len(written) > before + 2)  # nobody waits for us
            data = io.BytesIO()
            snapshot.dump(data)
            facts = snapshot.facts()
    finally:
        over.set()
        writer.join()
    assert facts.tables["metrics"].rows - 300 == facts.tables["log"].rows - 100 > 0
    databases.restore(place.empty, io.BytesIO(data.getvalue()))
    assert databases.facts(place.empty).tables == facts.tables
    assert databases.facts(place.uri).tables != facts.tables


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Writing:
    """Transactions without end that go from one table to another; `ended` has those that the server ended."""

    def __init__(self, uri: str) -> None:
        self._engine = sa.create_engine(uri, connect_args={"timeout": 60} if "sqlite" in uri else {})
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.written = 0
        self.ended: list[sa.exc.DBAPIError] = []

    def _write(self) -> None:
        while not self._over.is_set():
            try:
                with self._engine.begin() as connection:
                    connection.execute(METRICS.insert(), [{"key": f"w{self.written}", "value": 1.0}])
                    time.sleep(0.03)
                    connection.execute(
                        LOG.insert(), [{"id": 1000 + self.written, "metric": f"w{self.written}"}]
                    )
                self.written += 1
            except sa.exc.DBAPIError as error:
                self.ended.append(error)

    def __enter__(self) -> Writing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._engine.dispose()


def test_no_transaction_of_a_writer_is_ended_for_the_moment(place: Place, tmp_path: Path) -> None:
    with Writing(place.uri) as writing:
        for _ in range(3):
            wait_for(functools.partial(lambda before: writing.written > before, writing.written + 2))
            dumped(place.uri, tmp_path)
        assert not writing.ended


def test_a_login_without_a_right_to_the_whole_server_waits_for_who_is_writing(
    place: Place, tmp_path: Path
) -> None:
    if place.server is None:
        return  # SQLite's has no logins
    fill(place.empty)
    engine = sa.create_engine(place.empty)
    with engine.connect() as connection:
        connection.execute(METRICS.insert(), [{"key": "open for a while", "value": 1.0}])
        committing = threading.Timer(4, connection.commit)
        committing.start()
        _, facts = dumped(place.empty, tmp_path)
        committing.join()
    engine.dispose()
    # PostgreSQL waits for nobody, and does not see what is not there yet.
    assert facts.tables["metrics"].rows == 300 + (databases.kind(place.uri) == "mysql")


def test_nothing_is_restored_over_what_is_there(place: Place, tmp_path: Path) -> None:
    data, facts = dumped(place.uri, tmp_path)
    with pytest.raises(DatabaseFailed, match="is not empty"):
        databases.restore(place.uri, io.BytesIO(data))
    assert databases.facts(place.uri).tables == facts.tables


class Broken:
    """A source that fails in the middle, when something has come of what it gave."""

    def __init__(self, data: bytes, come: Callable[[], bool]) -> None:
        self._file = io.BytesIO(data)
        self._come = come

    def read(self, size: int, /) -> bytes:
        if not (piece := self._file.read(min(size, 1000))):
            wait_for(self._come)
            raise UserError("it is cut short")
        return piece


def test_what_breaks_off_leaves_nothing_behind(place: Place, tmp_path: Path) -> None:
    data, facts = dumped(place.uri, tmp_path)
    # The others' comes to sight as a whole.
    seen = databases.kind(place.empty) == "mysql"
    with pytest.raises(UserError, match="cut short"):
        databases.restore(
            place.empty,
            Broken(data[: len(data) * 2 // 3], lambda: not seen or not databases.is_empty(place.empty)),
        )
    assert databases.is_empty(place.empty)
    databases.restore(place.empty, io.BytesIO(data))
    assert databases.facts(place.empty).tables == facts.tables


def test_a_dump_by_somebody_else_reads_and_runs_nothing_of_this_machine(place: Place, tmp_path: Path) -> None:
    secret, made = tmp_path / "secret", tmp_path / "made"
    secret.write_text("ours")
    # The commands of MySQL's client, and the statement at which it sends a file of its own.
    for text in (
        f"CREATE TABLE t (x TEXT);\n\\! touch {made}\n",
        f"CREATE TABLE t (x TEXT);\nLOAD DATA LOCAL INFILE '{secret}' INTO TABLE t;\n",
    ):
        with pytest.raises(UserError):
            databases.restore(place.empty, io.BytesIO(text.encode()))
        assert databases.is_empty(place.empty)
    assert not made.exists()


class Full:
    """A place that takes a little."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes, /) -> int:
        self.written += len(data)
        raise UserError("no space")


def test_a_place_that_takes_no_more_ends_the_dump(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space"), databases.snapshot(place.uri, tmp_path) as snapshot:
        snapshot.dump(Full())
    assert children() == []
    dumped(place.uri, tmp_path)


def children() -> list[str]:
    found = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if "dump" in line or "restore" in line]


def test_clearing_empties_it_and_it_takes_a_dump_again(place: Place, tmp_path: Path) -> None:
    data, facts = dumped(place.uri, tmp_path)
    databases.clear(place.uri)
    assert databases.is_empty(place.uri)
    databases.restore(place.uri, io.BytesIO(data))
    assert databases.facts(place.uri).tables == facts.tables
    engine = sa.create_engine(place.uri)
    METADATA.drop_all(engine)
    engine.dispose()
    # PostgreSQL's trigger leaves its function, which a dump has too.
    assert databases.is_empty(place.uri) is (databases.kind(place.uri) != "postgresql")
    databases.clear(place.uri)
    assert databases.is_empty(place.uri)


def test_scratch_databases_are_found_and_dropped(place: Place) -> None:
    if place.server is None:
        return  # SQLite's are files
    uri = scratch.create(place.server, "scratch_1")
    assert databases.is_empty(uri)
    fill(uri)
    assert scratch.named(place.server, "scratch_") == ["scratch_1"]
    scratch.drop(place.server, "scratch_1")
    assert scratch.named(place.server, "scratch_") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [POSTGRESQL, MARIADB])
def test_the_password_is_in_no_argument_and_in_no_message(
    kind: type[Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("pg_dump", "pg_restore") if kind is PostgreSQL else ("mariadb-dump", "mariadb")
    seen = tmp_path / "seen"
    for name in names:
        # MariaDB's overwrite a password in their arguments, which others can read until then.
        noting = tmp_path / "bin" / name
        noting.parent.mkdir(exist_ok=True)
        noting.write_text(f'#!/bin/sh\nprintf \'%s \' {name} "$@" >> {seen}\nexec {path(name)} "$@"\n')
        noting.chmod(0o755)
    with database(kind) as running:
        uri = driver_uri(running.uri())
        if kind is MariaDB:
            administer(running, "ALTER DATABASE mlflow CHARACTER SET utf8mb4")
        fill(uri)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        data, _ = dumped(uri, tmp_path)
        databases.clear(uri)
        databases.restore(uri, io.BytesIO(data))

        arguments = seen.read_text()
        assert all(f"{name} --" in arguments.replace(f"{name} --version", "") for name in names)
        assert PASSWORD not in arguments
        assert "p%40ss" not in arguments

        wrong = driver_uri(running.uri("wr@ng:p/ss%"))
        said = databases.unfit(wrong)
        assert said is not None
        assert "127.0.0.1" in said
        assert "wr@ng" not in said
        assert len(said.splitlines()) == 1
    said = databases.unfit(uri)
    assert said is not None
    assert len(said.splitlines()) == 1, "it is away"


@pytest.mark.slow
@needs(*PostgreSQL.programs, "pg_dump")
def test_an_older_pg_dump_than_the_server_is_told_in_a_line(tmp_path: Path) -> None:
    old = tmp_path / "bin" / "pg_dump"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    old.chmod(0o755)
    ask = (
        "import sys; from pathlib import Path; from proxy.backup.databases import postgresql\n"
        "postgresql._DEBIAN = Path('/nowhere'); print(postgresql.unfit(sys.argv[1]))"
    )
    with database(PostgreSQL) as running:
        done = subprocess.run(
            [sys.executable, "-c", ask, driver_uri(running.uri())],
            env={**os.environ, "PATH": str(old.parent)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert "pg_dump 9 is older than the server, PostgreSQL 1" in done.stdout, done.stderr
    assert "install postgresql-client-1" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
@needs(*MariaDB.programs, "mariadb-dump")
def test_a_table_without_snapshots_is_refused(tmp_path: Path) -> None:
    with database(MariaDB) as running:
        administer(running, "CREATE TABLE mlflow.old (a INT) ENGINE=MyISAM")
        uri = driver_uri(running.uri())
        with pytest.raises(DatabaseFailed, match="ALTER TABLE old ENGINE=InnoDB"):
            dumped(uri, tmp_path)


def test_an_option_file_reads_back_what_was_put_in(tmp_path: Path) -> None:
    client = program("mariadb")
    if client is None:
        pytest.skip("not installed: mariadb")
    for password in ("p@ss:w/rd%", "a\"b\\c#d;e'f g ", " lead", "$x`y`"):
        uri = sa.URL.create("mysql+pymysql", "us#er", password, "db.example.com", 3307, "mlflow")
        text = mysql.options(uri.render_as_string(hide_password=False), next(mysql.installed("mariadb")))
        file = tmp_path / "options"
        file.write_bytes(text)
        file.chmod(0o600)
        done = subprocess.run(
            [client, f"--defaults-file={file}", "--print-defaults"], capture_output=True, text=True
        )
        # A password is shown as stars there; the option file's quoting is the same for each value.
        file.write_bytes(text.replace(b"password=", b"init-command="))
        done = subprocess.run(
            [client, f"--defaults-file={file}", "--print-defaults"], capture_output=True, text=True
        )
        assert f"--init-command={password} " in done.stdout + " "
        assert "--user=us#er" in done.stdout


@pytest.mark.parametrize("piece", [1, 7, 64, 5000, 10**6])
def test_a_dump_of_mysql_tells_not_whose_the_triggers_were(piece: int) -> None:
    head = b"/*!50003 CREATE*/ /*!50017 DEFINER=`mlflow``x`@`%`*/ /*!50003 TRIGGER"
    row = b"(1,'\\n" + head + b"'),"
    view = b"\n/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */\n/*!50001 VIEW"
    data = b"\n" + row * 100 + b"\n" + head + b" a\n" + row + view + b"\n" + head
    written = io.BytesIO()
    without = WithoutDefiners(written)
    for at in range(0, len(data), piece):
        assert without.write(data[at : at + piece]) == len(data[at : at + piece])
    without.end()
    new = b"/*!50003 CREATE*/ /*!50017 */ /*!50003 TRIGGER"
    plain = b"\n/*!50013 SQL SECURITY DEFINER */\n/*!50001 VIEW"
    assert written.getvalue() == b"\n" + row * 100 + b"\n" + new + b" a\n" + row + plain + b"\n" + new


@pytest.mark.parametrize(
    ("query", "mariadb", "mysql_8"),
    [
        ("", "skip-ssl", "ssl-mode=PREFERRED"),
        ("?ssl_ca=/ca.pem", "ssl-verify-server-cert=1", "ssl-mode=VERIFY_IDENTITY"),
        ("?ssl_capath=/ca", "ssl-verify-server-cert=1", "ssl-mode=VERIFY_IDENTITY"),
        ("?ssl_ca=/ca.pem&ssl_check_hostname=false", "ssl-verify-server-cert=0", "ssl-mode=VERIFY_CA"),
        ("?ssl_cert=/c.pem&ssl_key=/k.pem", "ssl-verify-server-cert=0", "ssl-mode=REQUIRED"),
    ],
)
def test_the_programs_look_at_the_servers_certificate_where_the_driver_does(
    query: str, mariadb: str, mysql_8: str
) -> None:
    uri = f"mysql+pymysql://u:p@db.example.com/mlflow{query}"
    for text, wanted in (("mariadb from 11.8.3-MariaDB", mariadb), ("mysql  Ver 8.4.6 for Linux", mysql_8)):
        lines = mysql.options(uri, Program("/usr/bin/x", (11, 8), text)).decode().splitlines()
        assert [line for line in lines if line.startswith(("ssl-mode", "ssl-verify", "skip-ssl"))] == [wanted]


def test_another_kind_of_database_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="of the kind mssql, which mlflow-proxy makes no backup of"):
        databases.kind("mssql+pyodbc://u:p@host/db")


def test_a_digest_tells_what_is_alike_from_what_is_the_same() -> None:
    def of(*rows: tuple[Any, ...]) -> str:
        return digest(("a", "b"), [rows]).digest

    assert of((1, "x"), (2, "y")) == of((2, "y"), (1, "x")), "rows have no order"
    assert of((True, b"x")) == of((1, bytearray(b"x")))
    different = [
        of(),
        of((1, "x")),
        of((1.0, "x")),
        of(("1", "x")),
        of((1, b"x")),
        of((1, None)),
        of((1, "")),
        of((1, "x"), (1, "x")),
        of((1, "x"), (1, "x"), (1, "x")),
        of((2, "y"), (2, "y")),
        of(("1s", "x")),
        of((0.0, "x")),
        of((-0.0, "x")),
        of((float("nan"), "x")),
        digest(("a", "c"), [[(1, "x")]]).digest,
    ]
    assert len(set(different)) == len(different)


def test_the_digest_is_what_it_has_been_since_the_first_backup() -> None:
    """A changed encoding would make every backup there is look damaged."""
    row = (None, True, -7, 0.1, 1e300, "ü", b"\0\xff")
    assert digest("abcdefg", [[row], [row]]) == (
        2,
        "771f0e1873790d59928e1465235409fbf7e97663d2a01bcbd8668df9b5a0a24f",
    )


# --------------------------------------------------------------------------------------------- SQLite


def test_a_copy_of_sqlite_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'a.db'}"
    fill(uri)
    folder = tmp_path / "scratch"
    folder.mkdir()
    with databases.snapshot(uri, folder):
        (copy,) = folder.iterdir()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert list(folder.iterdir()) == []


def test_a_copy_that_is_overtaken_again_and_again_is_made_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        connection.executemany("INSERT INTO t (b) VALUES (?)", [(bytes(2**20),) for _ in range(64)])
        connection.commit()
    over = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(file, timeout=60)) as connection:
            while not over.wait(0.002):
                connection.execute("UPDATE t SET b = randomblob(10) WHERE a = 1")
                connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        _, facts = dumped(f"sqlite:///{file}", tmp_path)
    finally:
        over.set()
        writer.join()
    assert facts.tables["t"].rows == 64


def test_a_damaged_sqlite_file_is_no_backup(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.execute("CREATE INDEX i ON t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [(f"{number:100}",) for number in range(1000)])
        connection.commit()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'i'").fetchone()
    dumped(f"sqlite:///{file}", tmp_path)
    data = bytearray(file.read_bytes())
    # In an index, which nobody needs for reading the table.
    data[(page - 1) * 4096 : page * 4096] = bytes(4096)
    file.write_bytes(data)
    with pytest.raises(DatabaseFailed, match="it is damaged"):
        dumped(f"sqlite:///{file}", tmp_path)


def test_what_is_no_sqlite_file_is_not_restored_as_one(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'b.db'}"
    for data in (b"", b"-- a dump of another kind"):
        with pytest.raises(DatabaseFailed, match="no SQLite database"):
            databases.restore(uri, io.BytesIO(data))
    assert list(tmp_path.iterdir()) == []


def test_a_journal_left_by_a_file_that_is_gone_is_not_taken_for_the_new_ones(tmp_path: Path) -> None:
    (tmp_path / "b.db-journal").write_bytes(b"something")
    assert not databases.is_empty(f"sqlite:///{tmp_path / 'b.db'}")
    databases.clear(f"sqlite:///{tmp_path / 'b.db'}")
    assert databases.is_empty(f"sqlite:///{tmp_path / 'b.db'}")


def test_a_text_that_is_no_utf8_is_digested_too(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.execute("INSERT INTO t VALUES (CAST(x'ff41' AS TEXT))")
        connection.commit()
    first = databases.facts(f"sqlite:///{file}").tables["t"]
    assert first == digest(["a"], [[(b"\xffA".decode("utf-8", "surrogateescape"),)]])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatabaseFailed, match="no such file"):
        dumped(f"sqlite:///{tmp_path / 'none.db'}", tmp_path)
    assert sqlite.unfit(f"sqlite:///{tmp_path / 'none.db'}") is None
