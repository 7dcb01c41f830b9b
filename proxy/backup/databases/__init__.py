"""The databases that are backed up: their dump, what each table holds at its moment, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from proxy.backup.databases import mysql, postgresql, sqlite
from proxy.backup.databases.kinds import (
    DatabaseFailed,
    Facts,
    Reader,
    Snapshot,
    Table,
    Writer,
    nothing,
)
from proxy.errors import UserError
from proxy.mlflow_server.output import place_of

__all__ = [
    "DatabaseFailed",
    "Facts",
    "Reader",
    "Snapshot",
    "Table",
    "Writer",
    "clear",
    "facts",
    "is_empty",
    "kind",
    "restore",
    "snapshot",
    "unfit",
]


class _Kind(Protocol):
    def unfit(self, uri: str) -> str | None: ...
    def snapshot(self, uri: str, scratch: Path, /) -> AbstractContextManager[Snapshot]: ...
    def facts(self, uri: str, tick: Callable[[], None]) -> Facts: ...
    def is_empty(self, uri: str) -> bool: ...
    def clear(self, uri: str) -> None: ...
    def restore(self, uri: str, source: Reader) -> None: ...


_KINDS: dict[str, _Kind] = {"sqlite": sqlite, "postgresql": postgresql, "mysql": mysql}


def kind(uri: str) -> str:
    """``sqlite``, ``postgresql`` or ``mysql``, which MariaDB is too. Raises UserError for any other."""
    name = sa.make_url(uri).get_backend_name()
    name = "mysql" if name == "mariadb" else name
    if name not in _KINDS:
        raise UserError(
            f"{place_of(uri)} is of the kind {name}, which mlflow-proxy makes no backup of: use the tools of "
            "its own"
        )
    return name


def unfit(uri: str) -> str | None:
    """Why it can't be dumped and restored from here (it is not reached, its program is missing or too old),
    in a line; None where it can."""
    return _KINDS[kind(uri)].unfit(uri)


def snapshot(uri: str, scratch: Path) -> AbstractContextManager[Snapshot]:
    """The database as it is when this is entered. `scratch` is a private folder with room for it (SQLite
    is copied there). Raises DatabaseFailed."""
    return _KINDS[kind(uri)].snapshot(uri, scratch)


def facts(uri: str, tick: Callable[[], None] = nothing) -> Facts:
    """Counts and digests of what is in it now, all of one moment. Raises DatabaseFailed."""
    return _KINDS[kind(uri)].facts(uri, tick)


def is_empty(uri: str) -> bool:
    """Whether nothing would be lost by restoring into it. Raises DatabaseFailed."""
    return _KINDS[kind(uri)].is_empty(uri)


def clear(uri: str) -> None:
    """Remove all tables of it. Raises DatabaseFailed."""
    _KINDS[kind(uri)].clear(uri)


def restore(uri: str, source: Reader) -> None:
    """Bring a dump back, into a database that is empty. Nothing is left of one that breaks off, but of
    MySQL where this process is killed. Raises DatabaseFailed, and what `source` raises."""
    if not is_empty(uri):
        raise DatabaseFailed(f"{place_of(uri)} is not empty: name an empty one")
    _KINDS[kind(uri)].restore(uri, source)
