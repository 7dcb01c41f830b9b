"""Databases of our own on a server that is lent for it: made, found again and dropped."""

from __future__ import annotations

import sqlalchemy as sa

from proxy.backup.databases.connecting import connected, quoted, rows
from proxy.backup.databases.kinds import DatabaseFailed

_NAMES = {
    "postgresql": "SELECT datname FROM pg_database WHERE left(datname, :size) = :prefix ORDER BY 1",
    "mysql": "SELECT schema_name FROM information_schema.schemata WHERE left(schema_name, :size) = :prefix "
    "ORDER BY 1",
}


def create(server: str, name: str) -> str:
    """Make an empty database on the server of that URI; its URI. Raises DatabaseFailed."""
    how = "TEMPLATE template0 ENCODING 'UTF8'" if _kind(server) == "postgresql" else "CHARACTER SET utf8mb4"
    _run(server, "CREATE DATABASE {} " + how, name)
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


def drop(server: str, name: str) -> None:
    """No error where there is none. Raises DatabaseFailed."""
    how = " WITH (FORCE)" if _kind(server) == "postgresql" else ""
    _run(server, "DROP DATABASE IF EXISTS {}" + how, name)


def named(server: str, prefix: str) -> list[str]:
    """The databases whose names begin so. Raises DatabaseFailed."""
    with connected(server) as connection:
        found = rows(connection, _NAMES[_kind(server)], prefix=prefix, size=len(prefix))
        return [str(name) for (name,) in found]


def _run(server: str, statement: str, name: str) -> None:
    with connected(server, isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement.format(quoted(connection, name)))


def _kind(server: str) -> str:
    kind = sa.make_url(server).get_backend_name()
    if kind not in _NAMES:
        raise DatabaseFailed(f"a scratch database on {kind} can't be made")
    return kind
