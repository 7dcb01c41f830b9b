"""PostgreSQL: pg_dump, and the digests in the one transaction whose snapshot pg_dump takes over.

The transaction (REPEATABLE READ, READ ONLY) exports its snapshot; `pg_dump --snapshot` imports it. So the
dump and the digests are of exactly one moment, whatever is written meanwhile, and no writer has to wait.
Changes of the tables' structure wait for the end of it, as with any pg_dump.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from proxy.backup.databases.connecting import connected, quoted, rows, scalar, table
from proxy.backup.databases.kinds import DatabaseFailed, Facts, Reader, Writer, nothing
from proxy.backup.databases.programs import Program, installed, running

_DEBIAN = Path("/usr/lib/postgresql")
_SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
# Ours can be of another name than the variable's: what libpq calls them in the environment.
_VARIABLES = {
    "dbname": "PGDATABASE",
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}

# What is a person's: no system's, and none that an extension has brought.
_OURS = """
    n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
    AND n.nspname NOT LIKE 'pg\\_temp%'
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""
_RELATIONS = f"""
    SELECT n.nspname, c.relname, c.relkind::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = ANY(:kinds) AND {_OURS} ORDER BY 1, 2
"""  # noqa: S608 - no value of anybody's
_TYPES = f"""
    SELECT n.nspname, c.typname FROM pg_type c JOIN pg_namespace n ON n.oid = c.typnamespace
    WHERE c.typtype IN ('e', 'd') AND {_OURS} ORDER BY 1, 2
"""  # noqa: S608
_ROUTINES = f"""
    SELECT n.nspname, c.proname, pg_get_function_identity_arguments(c.oid)
    FROM pg_proc c JOIN pg_namespace n ON n.oid = c.pronamespace WHERE {_OURS} ORDER BY 1, 2, 3
"""  # noqa: S608
_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name AND a.attnum > 0 AND NOT a.attisdropped
"""
_AS_THEY_ARE = frozenset(
    {"smallint", "integer", "bigint", "real", "double precision", "text", "character varying", "bytea"}
)


class _Name(NamedTuple):
    schema: str
    name: str

    def __str__(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


def unfit(uri: str) -> str | None:
    """Why it can't be dumped or restored from here, in a line; None where it can."""
    try:
        with connected(uri) as connection:
            _programs(uri, connection)
    except DatabaseFailed as failed:
        return str(failed)
    return None


def _programs(uri: str, connection: sa.Connection) -> dict[str, Program]:
    """pg_dump and pg_restore that are not older than the server. Raises DatabaseFailed."""
    server = int(scalar(connection, "SHOW server_version_num")) // 10000
    folders = sorted(_DEBIAN.glob("*/bin"), key=lambda folder: folder.parent.name.rjust(4), reverse=True)
    found = {}
    for name in ("pg_dump", "pg_restore"):
        there = list(installed(name, folders=folders))
        fit = next((program for program in there if program.version[0] >= server), None)
        if fit is None:
            newest = max((program.version for program in there), default=None)
            what = f"{name} is not installed"
            if newest is not None:
                what = f"{name} {newest[0]} is older than the server, {_server(connection)}, and refuses it"
            raise DatabaseFailed.at(uri, f"{what}: install postgresql-client-{server} or newer")
        found[name] = fit
    return found


def _server(connection: sa.Connection) -> str:
    return "PostgreSQL " + str(scalar(connection, "SHOW server_version")).split()[0]


def libpq(uri: str) -> dict[str, str]:
    """The connection as environment variables of libpq's: nothing of it is in any argument."""
    url = sa.make_url(uri)
    _, arguments = url.get_dialect()().create_connect_args(url)
    return {
        _VARIABLES.get(name, "PG" + name.upper().replace("_", "")): str(value)
        for name, value in arguments.items()
        if isinstance(value, str | int)
    }


class _Snapshot:
    """The transaction, with the snapshot that it has exported."""

    def __init__(self, uri: str, connection: sa.Connection) -> None:
        self._uri = uri
        self._connection = connection
        self._programs = _programs(uri, connection)
        connection.rollback()  # what was asked so far had a snapshot of its own
        self.moment = time.time()
        self._name = str(scalar(connection, "SELECT pg_export_snapshot()"))
        _patient(connection)
        tables = _tables(connection)
        if tables:
            every = ", ".join(quoted(connection, *name) for name in tables)
            connection.exec_driver_sql("SET LOCAL lock_timeout = '30s'")
            connection.exec_driver_sql(f"LOCK TABLE {every} IN ACCESS SHARE MODE")
        self.size = int(
            scalar(
                connection,
                "SELECT coalesce(sum(pg_table_size(c.oid)), 0) FROM pg_class c "  # noqa: S608
                f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND {_OURS}",
            )
        )

    def dump(self, to: Writer) -> None:
        command = [
            self._programs["pg_dump"].path,
            f"--snapshot={self._name}",
            "--format=custom",
            "--compress=0",
            "--no-password",
            # Else it would wait for ever behind somebody's ALTER TABLE, which waits for us.
            "--lock-wait-timeout=60000",
            # It is restored by whoever may: not with the rights, replication and comments on what belongs to
            # the server that stand in it.
            *_LEFT_OUT,
        ]
        with running(self._uri, command, libpq(self._uri)) as child:
            child.pour(to)

    def facts(self, tick: Callable[[], None] = nothing) -> Facts:
        return _facts(self._connection, self.moment, tick)


_LEFT_OUT = ("--no-owner", "--no-privileges", "--no-comments", "--no-publications", "--no-subscriptions")


@contextlib.contextmanager
def snapshot(uri: str, _scratch: Path) -> Iterator[_Snapshot]:
    """Raises DatabaseFailed."""
    with connected(uri, **_SNAPSHOT) as connection:
        yield _Snapshot(uri, connection)


def facts(uri: str, tick: Callable[[], None] = nothing) -> Facts:
    """Of the database as it is now. Raises DatabaseFailed."""
    with connected(uri, **_SNAPSHOT) as connection:
        _patient(connection)
        return _facts(connection, time.time(), tick)


def _patient(connection: sa.Connection) -> None:
    """Nothing ends this transaction for taking long, and values are written in one way."""
    for setting in (
        "statement_timeout = 0",
        "idle_in_transaction_session_timeout = 0",
        "datestyle = 'ISO'",
        "timezone = 'UTC'",
        "intervalstyle = 'postgres'",
        "extra_float_digits = 1",
    ):
        connection.exec_driver_sql(f"SET LOCAL {setting}")


def _facts(connection: sa.Connection, moment: float, tick: Callable[[], None]) -> Facts:
    found, revision = {}, ""
    for name in _tables(connection):
        source = quoted(connection, *name)
        columns = {
            column: _expression(quoted(connection, column), kind)
            for column, kind in rows(connection, _COLUMNS, schema=name.schema, name=name.name)
        }
        found[str(name)] = table(connection, columns, f"ONLY {source}", tick)
        if name.name == "alembic_version":
            revision = str(scalar(connection, f"SELECT max(version_num) FROM {source}") or "")  # noqa: S608
    return Facts(found, revision, _server(connection), moment)


def _expression(column: str, kind: str) -> str:
    if kind == "boolean":
        return f"{column}::integer"
    return column if kind in _AS_THEY_ARE else f"{column}::text"


def _tables(connection: sa.Connection) -> list[_Name]:
    return [_Name(schema, name) for schema, name, _ in rows(connection, _RELATIONS, kinds=["r"])]


def is_empty(uri: str) -> bool:
    """Whether there is no table, view, sequence, type or function of anybody's in it. Raises
    DatabaseFailed."""
    with connected(uri) as connection:
        return not (_relations(connection) or rows(connection, _TYPES) or rows(connection, _ROUTINES))


def _relations(connection: sa.Connection) -> list[tuple[_Name, str]]:
    found = rows(connection, _RELATIONS, kinds=["r", "p", "v", "m", "S", "f"])
    return [(_Name(schema, name), kind) for schema, name, kind in found]


_DROPS = {"v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "f": "FOREIGN TABLE"}


def clear(uri: str) -> None:
    """Remove every table, view, sequence, type and function (MLflow's tables have one for a trigger), in one
    transaction. Raises DatabaseFailed."""
    with connected(uri) as connection, connection.begin():
        for name, kind in _relations(connection):
            what = _DROPS.get(kind, "TABLE")
            connection.exec_driver_sql(f"DROP {what} IF EXISTS {quoted(connection, *name)} CASCADE")
        for schema, name in rows(connection, _TYPES):
            connection.exec_driver_sql(f"DROP TYPE IF EXISTS {quoted(connection, schema, name)} CASCADE")
        for schema, name, arguments in rows(connection, _ROUTINES):
            what = f"{quoted(connection, schema, name)}({arguments})"
            connection.exec_driver_sql(f"DROP ROUTINE IF EXISTS {what} CASCADE")


def restore(uri: str, source: Reader) -> None:
    """All of it in one transaction: whole or not at all. Raises DatabaseFailed, and what `source` raises."""
    with connected(uri) as connection:
        program = _programs(uri, connection)["pg_restore"]
    command = [
        program.path,
        "--single-transaction",
        "--exit-on-error",
        "--no-password",
        *_LEFT_OUT,
        # Means: into a database, and not as text to standard output; which one, the environment says.
        "--dbname=fallback_application_name=mlflow-proxy",
    ]
    with running(uri, command, libpq(uri), fed=True) as child:
        child.feed(source)
    with connected(uri, isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
