"""What is known of a database of any kind: its tables by count and digest; what a snapshot is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from proxy.errors import UserError
from proxy.mlflow_server.output import driver_says, place_of

PIECE = 256 * 1024
"""Bytes that are carried at once."""


class Table(NamedTuple):
    """What a table holds."""

    rows: int
    digest: str
    """SHA-256 in hex over what is in it, whatever the order of rows and columns (digest.py)."""


class Facts(NamedTuple):
    """What a database held at one moment."""

    tables: Mapping[str, Table]
    revision: str
    """The version of MLflow's tables (alembic_version); empty where there is none."""
    server: str
    """Kind and version, for people: ``PostgreSQL 17.6``."""
    moment: float
    """Unix time of which all of it is true."""


class Writer(Protocol):
    """Where a dump goes."""

    def write(self, data: bytes, /) -> int: ...


class Reader(Protocol):
    """Where a dump comes from: some bytes at each call, none at the end."""

    def read(self, size: int, /) -> bytes: ...


class Snapshot(Protocol):
    """A database as it was at one moment, for as long as this is open."""

    @property
    def moment(self) -> float:
        """Unix time."""
        ...

    @property
    def size(self) -> int:
        """About how many bytes the dump has; 0 where unknown."""
        ...

    def dump(self, to: Writer) -> None:
        """Write it; once. Raises DatabaseFailed, and what `to` raises."""
        ...

    def facts(self, tick: Callable[[], None] = ...) -> Facts:
        """Counts and digests of the same moment; after the dump. `tick` is called now and then. Raises
        DatabaseFailed."""
        ...


class DatabaseFailed(UserError):
    """A database or its program failed: one line, with the place and without a secret."""

    @classmethod
    def at(cls, uri: str, what: str) -> DatabaseFailed:
        """`what` may be several lines, and may name the password."""
        return cls(f"{place_of(uri)}: {driver_says(what, uri)}")


def nothing() -> None:
    """Is called now and then."""
