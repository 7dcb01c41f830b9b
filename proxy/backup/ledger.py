"""What a backup knows of the artifacts while it runs: in a file, because there may be millions of them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from proxy.backup.places import Entry

_TABLES = """
CREATE TABLE found (path BLOB, size INTEGER, etag TEXT, version TEXT, modified REAL, key TEXT);
CREATE TABLE known (key TEXT PRIMARY KEY, bytes INTEGER, stored TEXT, digest TEXT) WITHOUT ROWID;
CREATE TABLE present (name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE needed (name TEXT PRIMARY KEY) WITHOUT ROWID;
PRAGMA journal_mode=OFF;
PRAGMA synchronous=OFF;
"""
_PAGE = 1000


class Known(NamedTuple):
    """A copy that was made, by the key of what it is a copy of."""

    key: str
    size: int
    """Of the copy as it lies there."""
    stored: str
    """SHA-256 of that."""
    digest: str
    """SHA-256 of the artifact."""

    def line(self) -> bytes:
        return json.dumps(self._asdict()).encode() + b"\n"


class Work(NamedTuple):
    """One artifact that was found, and the copy of it, where there is a whole one."""

    entry: Entry
    key: str
    copy: Known | None


class Ledger:
    """One run's, in a file that nobody needs after it. For one thread."""

    def __init__(self, path: Path, suffix: str, recipients: Sequence[str]) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(_TABLES)
        self._suffix = suffix
        self._recipients = "\0".join(sorted(recipients))

    def close(self) -> None:
        self._db.close()

    def key(self, entry: Entry) -> str:
        """Of an artifact's copy: another one wherever its content may be another, or the keys are."""
        told = "\0".join((entry.name, str(entry.size), entry.etag, entry.version, self._recipients))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()

    def copy_name(self, key: str) -> str:
        """Where the copy lies."""
        return f"artifacts/{key[:2]}/{key}{self._suffix}"

    def found(self, entries: Iterable[Entry]) -> None:
        rows = ((_bytes(one.name), *one[1:], self.key(one)) for one in entries)
        self._many("INSERT INTO found VALUES (?,?,?,?,?,?)", rows)

    def known(self, copies: Iterable[Known]) -> None:
        self._many("INSERT OR REPLACE INTO known VALUES (?,?,?,?)", copies)

    def present(self, entries: Iterable[Entry]) -> None:
        """The copies that lie there."""
        rows = ((one.name, one.size) for one in entries)
        self._many("INSERT OR REPLACE INTO present VALUES (?,?)", rows)

    def lies(self, name: str) -> int | None:
        """The size of the copy of that name, None where there is none."""
        row = self._db.execute("SELECT size FROM present WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def need(self, names: Iterable[str]) -> None:
        """Copies that a set needs."""
        self._many("INSERT OR IGNORE INTO needed VALUES (?)", ((name,) for name in names))

    def totals(self) -> tuple[int, int]:
        """Of all artifacts: how many, and their bytes."""
        count, size = self._db.execute("SELECT count(*), total(size) FROM found").fetchone()
        return int(count), int(size)

    def uncopied(self) -> tuple[int, int]:
        """The same of those that have no whole copy."""
        number = total = 0
        for work in self.work():
            if work.copy is None:
                number += 1
                total += work.entry.size
        return number, total

    def work(self) -> Iterator[Work]:
        """All that was found, in the order found. A copy counts that is known and lies there in its size."""
        last = 0
        while True:
            rows = self._db.execute(
                "SELECT f.rowid, f.*, k.bytes, k.stored, k.digest, p.size FROM found f"
                " LEFT JOIN known k ON k.key = f.key"
                " LEFT JOIN present p ON p.name = 'artifacts/' || substr(f.key, 1, 2) || '/' || f.key || ?"
                " WHERE f.rowid > ? ORDER BY f.rowid LIMIT ?",
                (self._suffix, last, _PAGE),
            ).fetchall()
            if not rows:
                return
            for number, path, size, etag, version, modified, key, copied, stored, digest, lies in rows:
                whole = copied is not None and copied == lies
                copy = Known(key, copied, stored, digest) if whole else None
                name = path.decode("utf-8", "surrogateescape")
                yield Work(Entry(name, size, etag, version, modified), key, copy)
                last = number

    def unneeded(self) -> Iterator[str]:
        """The copies that lie there and that no set needs."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute("SELECT name FROM present WHERE name NOT IN (SELECT name FROM needed)")
            for (name,) in cursor:
                yield name

    def still_known(self) -> Iterator[Known]:
        """What is known of the copies that a set needs."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute("SELECT key, bytes, stored, digest FROM known")
            needed = self._db.cursor()
            for row in cursor:
                key = row[0]
                like = f"artifacts/{key[:2]}/{key}."
                if needed.execute(
                    "SELECT 1 FROM needed WHERE name >= ? AND name < ?", (like, like + "~")
                ).fetchone():
                    yield Known(*row)

    def _many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(statement, rows)
        self._db.execute("COMMIT")


def _bytes(name: str) -> bytes:
    """A file's name need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape")
