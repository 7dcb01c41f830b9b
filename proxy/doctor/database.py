"""The databases: whether they can be reached and logged in to, their versions, tables, rights and clocks."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from proxy.doctor.case import Case
from proxy.doctor.result import Result, failure, ok, skipped, warning
from proxy.doctor.tables import mlflow_tables, trial
from proxy.mlflow_server import schema
from proxy.mlflow_server.output import driver_says, place_of
from proxy.settings import database_uri, proxy_database_uri
from proxy.store.tables import VERSION_TABLE
from proxy.store.tables import metadata as our_tables

SECONDS = 30.0
_CONNECT_SECONDS = 8
_TIMEOUT_OF = {"psycopg": "connect_timeout", "psycopg2": "connect_timeout", "pymysql": "connect_timeout"}

OLDEST = {"PostgreSQL": (15,), "MySQL": (8, 4), "MariaDB": (10, 11)}
"""The oldest major versions that their makers still mended when this was written (docs/doctor.md)."""
SKEW_WARNING, SKEW_FAILURE = 5.0, 60.0
"""Seconds by which a database's clock may differ from ours."""
_BUSY = 0.9

# What a driver says, what it means, and what to do; the first that fits.
_REASONS = (
    (
        r"password authentication failed|Access denied for user|no password supplied",
        "the user or the password is refused",
        "put the right ones into {setting} (percent-encode what is special), or give the login that "
        "password: "
        "docs/rotation.md has the order of steps",
    ),
    (
        r"not permitted to log in|account is locked",
        "the login is disabled",
        "ALTER ROLE … LOGIN (PostgreSQL) or ALTER USER … ACCOUNT UNLOCK (MySQL, MariaDB) at the server, or "
        "name another login in {setting}",
    ),
    (
        r"no pg_hba.conf entry|is not allowed to connect",
        "the server lets nobody in from here",
        "add this machine to pg_hba.conf (PostgreSQL) or to the login's host part (MySQL)",
    ),
    (
        r"database \"?.*\"? does not exist|Unknown database",
        "there is no such database",
        "create it: docs/deployment.md",
    ),
    (
        r"too many clients|Too many connections|remaining connection slots",
        "it takes no more connections",
        "raise max_connections, or find who holds them (pg_stat_activity, SHOW PROCESSLIST)",
    ),
    (
        r"could not translate host name|Name or service not known|nodename nor servname|getaddrinfo failed|"
        r"Unknown MySQL server host|failed to resolve host",
        "the host's name is not known here",
        "correct the host in {setting}, or this machine's DNS",
    ),
    (
        r"Connection refused|Can't connect to",
        "nobody listens there",
        "start the server, or correct host and port in {setting}",
    ),
    (
        r"timeout expired|timed out|did not answer",
        "nobody answers",
        "look for a firewall or security group between this machine and the server",
    ),
    (r"SSL|certificate", "TLS fails", "look at sslmode and sslrootcert (or ssl_ca) in {setting}"),
)


def mlflow_database(case: Case) -> Iterator[Result]:
    """MLflow's tracking database."""
    setting = "MLFLOW_BACKEND_STORE_URI"
    uri = database_uri(case.settings)
    if uri.startswith("sqlite"):
        yield from _sqlite(_file_of(uri), case, setting, "MLflow")
        if _file_of(uri).exists():
            yield from _schema(uri)
        return
    with _engine(uri) as engine:
        if not (yield from _reach(engine, uri, setting)):
            return
        yield from _schema(uri)
        yield from trial(engine, mlflow_tables(), setting, migrates="MLflow's next version")
        yield from _clock(engine)
        yield from _connections(engine)


def our_database(case: Case) -> Iterator[Result]:
    """The proxy's own database: sessions, tokens, people."""
    setting = "PROXY_DATABASE_URL"
    uri = proxy_database_uri(case.settings)
    if uri.startswith("sqlite"):
        yield from _sqlite(_file_of(uri), case, setting, "this service")
        return
    with _engine(uri) as engine:
        if not (yield from _reach(engine, uri, setting)):
            return
        with engine.connect() as connection:
            there = sa.inspect(connection).has_table(VERSION_TABLE)
        if not there:
            yield warning(
                "schema",
                f"{place_of(uri)} has no tables of this service yet",
                "start the service: it makes them",
            )
            return
        yield trial_one(engine, setting)
        yield from _clock(engine)


def trial_one(engine: sa.Engine, setting: str) -> Result:
    """The first thing wrong with our rights on our own tables, or that all is well."""
    results = list(trial(engine, frozenset(our_tables.tables), setting, migrates="the next version"))
    return next((one for one in results if one.mend), results[0])


@contextlib.contextmanager
def _engine(uri: str) -> Iterator[sa.Engine]:
    url = sa.make_url(uri)
    option = _TIMEOUT_OF.get(url.get_driver_name())
    arguments = {} if option is None or option in url.query else {option: _CONNECT_SECONDS}
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=arguments)
    try:
        yield engine
    finally:
        engine.dispose()


def _reach(engine: sa.Engine, uri: str, setting: str) -> Generator[Result, None, bool]:
    """Returns whether it lets us in."""
    began = time.monotonic()
    try:
        with engine.connect() as connection:
            took = (time.monotonic() - began) * 1000
            yield ok("reach", f"{place_of(uri)} lets us in, in {took:.0f} ms")
            yield _version(connection)
    except sa.exc.SQLAlchemyError as error:
        yield unreachable(str(getattr(error, "orig", None) or error), uri, setting)
        return False
    return True


def unreachable(text: str, uri: str, setting: str) -> Result:
    """Why a database can't be used, by what its driver says."""
    said = driver_says(text, uri)
    for pattern, meaning, mend in _REASONS:
        if re.search(pattern, text):
            return failure("reach", f"{place_of(uri)}: {meaning} ({said})", mend.format(setting=setting))
    return failure(
        "reach", f"{place_of(uri)} can't be used: {said}", f"look at {setting} and at the server's log"
    )


def _version(connection: sa.Connection) -> Result:
    name = {"postgresql": "PostgreSQL", "mysql": "MySQL", "mssql": "SQL Server"}.get(
        connection.dialect.name, connection.dialect.name
    )
    info = connection.dialect.server_version_info or ()
    if getattr(connection.dialect, "is_mariadb", False):
        name = "MariaDB"
    shown = f"{name} {'.'.join(str(part) for part in info if isinstance(part, int))}"
    oldest = OLDEST.get(name)
    if oldest is not None and tuple(part for part in info if isinstance(part, int)) < oldest:
        return warning(
            "version",
            f"{shown} is no longer mended by its makers",
            f"upgrade the server to {name} {'.'.join(map(str, oldest))} or newer",
        )
    return ok("version", shown)


def _schema(uri: str) -> Iterator[Result]:
    try:
        found = schema.look(uri)
    except schema.Unreachable as error:
        yield unreachable(error.reason, uri, "MLFLOW_BACKEND_STORE_URI")
        return
    if found is None:
        yield failure(
            "schema",
            "the version of MLflow's tables can't be read",
            "look at the rights on the table alembic_version, and whether this is MLflow's database",
        )
    elif found.fit is schema.Fit.EMPTY:
        yield warning("schema", "there are no tables of MLflow's yet", "start the service: MLflow makes them")
    elif found.fit is schema.Fit.CURRENT:
        yield ok("schema", f"version {found.found}, as the installed MLflow has it")
    else:
        said, _, mend = schema.refusal(found, uri).rpartition(": ")
        yield failure("schema", said, mend)


def _clock(engine: sa.Engine) -> Iterator[Result]:
    asked = {
        "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
        "mysql": "SELECT unix_timestamp(now(6))",
        "mssql": "SELECT datediff_big(millisecond, '1970-01-01', sysutcdatetime()) / 1000.0",
    }.get(engine.dialect.name)
    if asked is None:
        return
    try:
        with engine.connect() as connection:
            before = time.time()
            theirs = float(connection.execute(sa.text(asked)).scalar_one())
            after = time.time()
    except (sa.exc.SQLAlchemyError, TypeError, ValueError) as error:
        yield skipped("clock", f"its clock can't be asked ({type(error).__name__})")
        return
    yield clock(theirs, before, after, "the database")


def clock(theirs: float, before: float, after: float, whose: str, slack: float = 0.0) -> Result:
    """What their time, told between two moments of ours, says of the two clocks; `slack` is how far theirs
    may be off by being rounded."""
    off = max(0.0, theirs - after - slack, before - slack - theirs) * (1 if theirs > after else -1)
    if abs(off) < SKEW_WARNING:
        return ok("clock", f"{whose} and this machine agree")
    said = f"the clock of {whose} is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's"
    mend = "have both machines keep time by NTP (timedatectl, chronyc tracking)"
    return failure("clock", said, mend) if abs(off) >= SKEW_FAILURE else warning("clock", said, mend)


def _connections(engine: sa.Engine) -> Iterator[Result]:
    asked = {
        "postgresql": "SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity "
        "WHERE backend_type = 'client backend'",
        "mysql": "SELECT (SELECT count(*) FROM information_schema.processlist), @@max_connections",
    }.get(engine.dialect.name)
    if asked is None:
        return
    try:
        with engine.connect() as connection:
            used, most = connection.execute(sa.text(asked)).one()
    except sa.exc.SQLAlchemyError as error:
        yield skipped("connections", f"they can't be counted ({type(error).__name__})")
        return
    said = f"{used} of {most} are in use"
    if used >= _BUSY * most:
        yield warning("connections", said, "raise max_connections, or find who holds them")
    else:
        yield ok("connections", said)


def _file_of(uri: str) -> Path:
    return Path(sa.make_url(uri).database or "")


def _sqlite(file: Path, case: Case, setting: str, maker: str) -> Iterable[Result]:
    """A file of SQLite's: there, SQLite's, and to be written to. Nothing is written."""
    if not file.exists():
        if file.parent.is_dir() or file.parent == case.settings.data_dir:
            yield warning("reach", f"there is no {file} yet", f"start the service: {maker} makes it")
        else:
            yield failure("reach", f"there is no directory {file.parent}", f"make it, or correct {setting}")
        return
    mend = f"give {file} and its directory to the service's user, and see that the disk is not read-only"
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=5, isolation_level=None)
        ) as database:
            journal = database.execute("PRAGMA journal_mode").fetchone()[0]
            yield ok("reach", f"{file}: SQLite {sqlite3.sqlite_version}, journal {journal}")
            # The write lock for a moment, which is all that can be tried without writing.
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        yield ok("rights", "it can be written to")
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            yield failure("rights", f"{file} can't be written to ({text})", mend)
        elif "locked" in text or "busy" in text:
            yield warning(
                "rights",
                f"{file} has been locked for 5 s",
                "another program writes to it for long: find it (fuser), and use a database server "
                "where many write",
            )
        else:
            yield failure(
                "reach",
                f"{file} can't be read ({text})",
                f"it is damaged or no SQLite database: restore it from a backup, or correct {setting}",
            )
