"""Rights on a server's tables, tried with statements that touch no row; nothing is changed or kept locked."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from proxy.doctor.result import Result, failure, ok, warning

# Of MLflow before its first migration; the others are read from the migrations.
_FIRST = frozenset({"experiments", "runs", "tags", "metrics", "params", "alembic_version"})
_CREATED = re.compile(r"create_table\(\s*[\"'](\w+)[\"']")
# insufficient_privilege (PostgreSQL); ER_TABLEACCESS_DENIED_ERROR, ER_COLUMNACCESS_DENIED_ERROR,
# ER_DBACCESS_DENIED_ERROR (MySQL); SQL Server's 229 and 230.
_DENIED = re.compile(r"permission denied|command denied|Access denied|permission was denied", re.IGNORECASE)
_READ_ONLY = re.compile(
    r"read-only transaction|--read-only|super-read-only|READ ONLY|read_only", re.IGNORECASE
)
_MOST_NAMED = 4


@functools.cache
def mlflow_tables() -> frozenset[str]:
    """The names of the tables of MLflow's, as far as its migrations name them; read as text."""
    package = importlib.util.find_spec("mlflow")
    if package is None or package.origin is None:
        return _FIRST
    files = Path(package.origin).parent.joinpath("store/db_migrations/versions").glob("*.py")
    return _FIRST.union(*(_CREATED.findall(file.read_text("utf-8", "replace")) for file in files))


def trial(engine: sa.Engine, known: frozenset[str], setting: str, *, migrates: str) -> Iterator[Result]:
    """Whether our login may read and write those of the tables that are there, and change them as `migrates`
    would have to. The user is that of `setting`'s URI."""
    denied: dict[str, list[str]] = {}
    with engine.connect() as connection:
        tables = sorted(known.intersection(sa.inspect(connection).get_table_names()))
        connection.rollback()
        user = engine.url.username
        if not tables:
            return
        for table in tables:
            for right, text in _statements(connection, table):
                said = _refused(connection, text)
                if said is None:
                    continue
                if _READ_ONLY.search(said):
                    yield failure(
                        "rights",
                        "the database takes no changes: it is a replica that is only read, or was set so",
                        f"name the primary server in {setting}",
                    )
                    return
                if _DENIED.search(said):
                    denied.setdefault(right, []).append(table)
        if denied:
            what = "; ".join(f"{right} on {_named(names)}" for right, names in denied.items())
            yield failure("rights", f"{user} lacks {what}", _grant(engine.dialect.name, user, tuple(denied)))
            return
        yield ok("rights", f"{user} may read and write all {len(tables)} tables")
        yield from _migration(connection, tables, str(user), migrates)


def _statements(connection: sa.Connection, table: str) -> Iterator[tuple[str, str]]:
    """Each right with a statement that needs it and is true of no row."""
    name = connection.dialect.identifier_preparer.quote(table)
    columns = [
        connection.dialect.identifier_preparer.quote(column["name"])
        for column in sa.inspect(connection).get_columns(table)
        if not column.get("computed")
    ]
    connection.rollback()
    yield "SELECT", f"SELECT 1 FROM {name} WHERE 1 = 0"  # noqa: S608 - names of the database's own, quoted
    if columns:
        listed = ", ".join(columns)
        yield "INSERT", f"INSERT INTO {name} ({listed}) SELECT {listed} FROM {name} WHERE 1 = 0"  # noqa: S608
        yield "UPDATE", f"UPDATE {name} SET {columns[-1]} = {columns[-1]} WHERE 1 = 0"  # noqa: S608
    yield "DELETE", f"DELETE FROM {name} WHERE 1 = 0"  # noqa: S608


def _refused(connection: sa.Connection, text: str) -> str | None:
    """Carry it out and take it back; what the server says where it does not do it."""
    try:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL lock_timeout = '2s'"))
            connection.execute(sa.text("SET LOCAL statement_timeout = '5s'"))
        connection.execute(sa.text(text))
    except sa.exc.SQLAlchemyError as error:
        return str(getattr(error, "orig", None) or error)
    finally:
        connection.rollback()
    return None


def _migration(connection: sa.Connection, tables: list[str], user: str, migrates: str) -> Iterator[Result]:
    """Whether tables could be made and changed: an upgrade does that, and the service's daily work not."""
    missing = ""
    try:
        if connection.dialect.name == "postgresql":
            foreign = connection.execute(
                sa.text(
                    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                    "WHERE c.relname = ANY(:tables) AND n.nspname = current_schema() "
                    "AND NOT pg_has_role(c.relowner, 'USAGE')"
                ),
                {"tables": tables},
            ).scalar_one()
            may_create = connection.execute(
                sa.text("SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)")
            ).scalar_one()
            if foreign:
                missing = f"{foreign} of {len(tables)} tables belong to another role"
            elif not may_create:
                missing = f"{user} may make no table in the schema"
        elif connection.dialect.name == "mysql":
            grants = " ".join(str(row[0]) for row in connection.execute(sa.text("SHOW GRANTS")))
            lacking = [right for right in ("CREATE", "ALTER", "DROP", "INDEX") if not _granted(right, grants)]
            if lacking:
                missing = f"{user} lacks {', '.join(lacking)}"
    except sa.exc.SQLAlchemyError:
        return
    finally:
        connection.rollback()
    if missing:
        yield warning(
            "migration",
            f"{missing}: {migrates} could not migrate the tables",
            "give the tables to the login's role (REASSIGN OWNED, GRANT), or migrate with another login: "
            "MLFLOW_BACKEND_STORE_URI=… mlflow-proxy migrate",
        )


def _granted(right: str, grants: str) -> bool:
    return (
        "ALL PRIVILEGES" in grants
        or re.search(rf"\b{right}\b(?! (VIEW|ROUTINE|USER|TEMP))", grants) is not None
    )


def _named(tables: list[str]) -> str:
    more = len(tables) - _MOST_NAMED
    return ", ".join(tables[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _grant(dialect: str, user: str | None, rights: tuple[str, ...]) -> str:
    listed = ", ".join(rights)
    if dialect == "postgresql":
        return f"as the tables' owner: GRANT {listed} ON ALL TABLES IN SCHEMA public TO {user}"
    return f"as an administrator: GRANT {listed} ON that database to {user}"
