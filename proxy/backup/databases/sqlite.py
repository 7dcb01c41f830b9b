"""SQLite: its online backup into a file of ours, which is looked through, digested and carried away.

A writer waits while pages are copied, so they are copied in stretches, between which it comes in; a copy that
was overtaken by a change begins anew. One that is overtaken again and again is made in one go, and writers
wait for it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from proxy.backup.databases.connecting import BATCH
from proxy.backup.databases.digest import digest
from proxy.backup.databases.kinds import PIECE, DatabaseFailed, Facts, Reader, Table, Writer, nothing

_STRETCH = 16 * 1024 * 1024
"""Bytes that are copied at once, some hundredths of a second."""
_OVERTAKEN = 3
"""Times that a copy begins anew before it is made in one go."""
_PAUSE = 0.02
_PATIENCE = 30.0
_BESIDE = ("-wal", "-shm", "-journal")
_HEAD = b"SQLite format 3\0"


class _Overtaken(Exception):
    """A change has made the copy begin anew, once too often."""


def path(uri: str) -> Path:
    return Path(sa.make_url(uri).database or "")


def unfit(uri: str) -> str | None:
    """Why it can't be dumped or restored from here, in a line; None where it can."""
    file = path(uri)
    if file.exists() and not os.access(file, os.R_OK):
        return str(DatabaseFailed.at(uri, "this user may not read it"))
    return None


@contextlib.contextmanager
def _opened(uri: str, file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True, timeout=_PATIENCE)
        ) as connection:
            connection.isolation_level = None
            yield connection
    except sqlite3.Error as error:
        raise DatabaseFailed.at(uri, str(error)) from None


class _Snapshot:
    """The copy."""

    def __init__(self, uri: str, copy: Path, moment: float) -> None:
        self._uri = uri
        self._copy = copy
        self.moment = moment
        self.size = copy.stat().st_size

    def dump(self, to: Writer) -> None:
        with self._copy.open("rb") as file:
            while piece := file.read(PIECE):
                to.write(piece)

    def facts(self, tick: Callable[[], None] = nothing) -> Facts:
        with _opened(self._uri, self._copy, "immutable=1") as connection:
            _check(self._uri, connection)
            return _facts(connection, self.moment, tick)


def _check(uri: str, connection: sqlite3.Connection) -> None:
    for (said,) in connection.execute("PRAGMA quick_check(1)"):
        if said != "ok":
            raise DatabaseFailed.at(uri, f"it is damaged: {said}")


@contextlib.contextmanager
def snapshot(uri: str, scratch: Path) -> Iterator[_Snapshot]:
    """Raises DatabaseFailed."""
    file = path(uri)
    if not file.is_file():
        raise DatabaseFailed.at(uri, "there is no such file")
    copy = scratch / f"{file.name}.{os.urandom(4).hex()}"
    try:
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield _Snapshot(uri, copy, _copied(uri, file, copy))
    except OSError as error:
        raise DatabaseFailed.at(uri, f"it can't be copied to {scratch} ({error.strerror})") from None
    finally:
        copy.unlink(missing_ok=True)


def _copied(uri: str, file: Path, copy: Path) -> float:
    """The moment of which the copy is."""
    # Not read-only: a file in WAL mode that nobody has open can't be read so.
    with _opened(uri, file, "mode=rw") as source, _opened(uri, copy, "mode=rw") as target:
        (size,) = source.execute("PRAGMA page_size").fetchone()
        last, overtaken, moment = 1 << 62, 0, time.time()

        def watch(_status: int, remaining: int, _total: int) -> None:
            nonlocal last, overtaken, moment
            if remaining >= last:
                overtaken += 1
                moment = time.time()
                if overtaken >= _OVERTAKEN:
                    raise _Overtaken
            last = remaining
            time.sleep(_PAUSE if remaining else 0)

        try:
            source.backup(target, pages=max(1, _STRETCH // size), progress=watch, sleep=0.05)
        except _Overtaken:
            moment = time.time()
            source.backup(target, pages=-1)
        return moment


def facts(uri: str, tick: Callable[[], None] = nothing) -> Facts:
    """Of the file as it is now. Raises DatabaseFailed."""
    if not path(uri).is_file():
        raise DatabaseFailed.at(uri, "there is no such file")
    with _opened(uri, path(uri), "mode=rw") as connection:
        moment = time.time()
        connection.execute("BEGIN")
        return _facts(connection, moment, tick)


def _facts(connection: sqlite3.Connection, moment: float, tick: Callable[[], None]) -> Facts:
    tables = {name: _table(connection, name, tick) for name in _tables(connection)}
    revision = ""
    if "alembic_version" in tables:
        revision = connection.execute("SELECT max(version_num) FROM alembic_version").fetchone()[0] or ""
    return Facts(tables, revision, f"SQLite {sqlite3.sqlite_version}", moment)


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "ORDER BY name"
    )
    return [name for (name,) in found]


def _table(connection: sqlite3.Connection, name: str, tick: Callable[[], None]) -> Table:
    columns = sorted(row[1] for row in connection.execute(f"PRAGMA table_info({_quoted(name)})"))
    selected = f"SELECT {', '.join(map(_quoted, columns))} FROM {_quoted(name)}"  # noqa: S608
    try:
        return digest(columns, _batches(connection, selected, tick))
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    # A text that is no UTF-8, which SQLite does not mind.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        return digest(columns, _batches(connection, selected, tick))
    finally:
        connection.text_factory = str


def _batches(
    connection: sqlite3.Connection, selected: str, tick: Callable[[], None]
) -> Iterator[Sequence[Sequence[Any]]]:
    with contextlib.closing(connection.execute(selected)) as cursor:
        while batch := cursor.fetchmany(BATCH):
            tick()
            yield batch


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _beside(file: Path) -> list[Path]:
    return [file.with_name(file.name + suffix) for suffix in _BESIDE]


def is_empty(uri: str) -> bool:
    """Whether there is no such file, or no table in it. Raises DatabaseFailed."""
    file = path(uri)
    if not file.exists():
        # What is left beside a file that is gone would be taken for a part of the one that comes.
        return not any(other.exists() and other.stat().st_size for other in _beside(file))
    with _opened(uri, file, "mode=rw") as connection:
        return not _tables(connection)


def clear(uri: str) -> None:
    """Remove the file and what SQLite keeps beside it. Raises DatabaseFailed."""
    file = path(uri)
    try:
        for each in (file, *_beside(file)):
            each.unlink(missing_ok=True)
    except OSError as error:
        raise DatabaseFailed.at(uri, f"it can't be removed ({error.strerror})") from None


def restore(uri: str, source: Reader) -> None:
    """Written beside its place and put there in one step. Raises DatabaseFailed, and what `source` raises."""
    file = path(uri)
    beside = file.with_name(f".{file.name}.restoring")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(uri, beside, source)
        with _opened(uri, beside, "immutable=1") as connection:
            _check(uri, connection)
        for other in _beside(file):
            other.unlink(missing_ok=True)
        beside.replace(file)
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise DatabaseFailed.at(uri, f"it can't be written ({error.strerror})") from None
    finally:
        beside.unlink(missing_ok=True)


def _write(uri: str, beside: Path, source: Reader) -> None:
    with os.fdopen(os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as target:
        head = b""
        while piece := source.read(PIECE):
            head = head or piece[: len(_HEAD)]
            target.write(piece)
        if head != _HEAD:
            raise DatabaseFailed.at(uri, "what is to be restored is no SQLite database")
        target.flush()
        os.fsync(target.fileno())
