"""The artifacts of a backup: listed, and where asked copied, each once for all the sets that need it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from proxy.backup import reading, streams
from proxy.backup.ledger import Known, Ledger, Work
from proxy.backup.manifest import Manifest
from proxy.backup.places import Entry, Place, PlaceFailed, Replaced
from proxy.backup.places.place import READ
from proxy.backup.places.tree import Tree
from proxy.backup.reading import Artifact
from proxy.backup.streams import Writer

COPIES = "artifacts/"
INDEX = "artifacts/index/"
THREADS = 8
_TRIES = 3
# What was copied is noted that often: a run that breaks off loses no more than that.
_NOTE_EVERY = 500
_NOTE_SECONDS = 60.0

Tick = Callable[[int], None]


class Copying:
    """One run. `root` is where the artifacts are, `place` where the backup goes."""

    def __init__(
        self, root: Place, place: Place, ledger: Ledger, set_name: str, keys: Sequence[Any], digests: Path
    ) -> None:
        self._root = root
        self._place = place
        self._ledger = ledger
        self._set = set_name
        self._keys = keys
        self._digests = digests
        self._unnoted: list[Known] = []
        self._noted = time.monotonic()
        self._notes = 0
        self._over = threading.Event()
        self.stored_bytes = 0
        """Of the copies that were made now."""

    def find(self) -> tuple[int, int]:
        """List the artifacts; how many there are, and their bytes."""
        self._ledger.found(self._root.versioned(""))
        return self._ledger.totals()

    def find_copies(self) -> tuple[int, int]:
        """See what was copied before; how many are left to copy, and their bytes."""
        load_index(self._place, self._ledger)
        return self._ledger.uncopied()

    def list_to(self, to: Writer, tick: Tick) -> tuple[int, int]:
        """Write the list without copying; how many and their bytes.

        Digests are computed where the store has no ETag that is one, once for each file.
        """
        count = size = 0
        with contextlib.closing(_Digests(self._digests)) as digests:
            for work in self._ledger.work():
                entry, digest = work.entry, ""
                if isinstance(self._root, Tree):
                    try:
                        digest = digests.of(self._root, entry)
                    except PlaceFailed:
                        if self._root.stat(entry.name) is None:
                            continue  # removed since
                        raise
                to.write(_line(Artifact(*entry, digest, "", 0, "")))
                tick(entry.size)
                count, size = count + 1, size + entry.size
        return count, size

    def copy_to(self, to: Writer, names: Writer, tick: Tick) -> tuple[int, int]:
        """Copy what was not copied before, and write the list and the copies' names; how many artifacts and
        their bytes."""
        count = size = 0
        try:
            with ThreadPoolExecutor(THREADS, thread_name_prefix="copy") as threads:
                for artifact in self._in_order(threads, tick):
                    if artifact is None:
                        continue
                    to.write(_line(artifact))
                    names.write(f"{artifact.copy}\n".encode())
                    count, size = count + 1, size + artifact.size
        except BaseException:
            # The next run need not copy them again.
            with contextlib.suppress(PlaceFailed):
                self._note()
            raise
        self._note()
        return count, size

    def _in_order(self, threads: ThreadPoolExecutor, tick: Tick) -> Iterator[Artifact | None]:
        """As they were found, some copied at once."""
        waiting: deque[Future[tuple[Artifact, bool] | None]] = deque()
        try:
            for work in self._ledger.work():
                waiting.append(threads.submit(self._one, work, tick))
                if len(waiting) > 4 * THREADS:
                    yield self._copied(waiting.popleft())
            while waiting:
                yield self._copied(waiting.popleft())
        finally:
            self._over.set()
            for one in waiting:
                one.cancel()

    def _copied(self, future: Future[tuple[Artifact, bool] | None]) -> Artifact | None:
        result = future.result()
        if result is None:
            return None
        artifact, is_new = result
        if is_new:
            self.stored_bytes += artifact.copy_bytes
            key = Path(artifact.copy).name.partition(".")[0]
            self._unnoted.append(Known(key, artifact.copy_bytes, artifact.copy_digest, artifact.digest))
            if len(self._unnoted) >= _NOTE_EVERY or time.monotonic() - self._noted >= _NOTE_SECONDS:
                self._note()
        return artifact

    def _one(self, work: Work, tick: Tick) -> tuple[Artifact, bool] | None:
        """Its copy, and whether that was made now; None where the artifact was removed since."""
        if work.copy is not None:
            tick(work.entry.size)
            return _artifact(work.entry, self._ledger.copy_name(work.key), work.copy), False
        entry: Entry | None = work.entry
        for _ in range(_TRIES):
            assert entry is not None
            key = self._ledger.key(entry)
            name = self._ledger.copy_name(key)
            try:
                copy = self._copy(entry, key, name, tick)
            except PlaceFailed:
                if self._root.stat(entry.name) is None:
                    return None
                raise
            if copy is not None:
                return _artifact(entry, name, copy), True
            # Another artifact has taken its name meanwhile.
            if (entry := self._root.stat(entry.name)) is None:
                return None
        raise PlaceFailed(f"{self._root.text}/{work.entry.name} changes all the time: it can't be copied")

    def _copy(self, entry: Entry, key: str, name: str, tick: Tick) -> Known | None:
        with contextlib.suppress(_Changed, Replaced):
            with streams.writing(self._place, name, self._keys, tick) as (writer, kept):
                with self._root.open(entry.name, entry.etag) as source:
                    while data := source.read(READ):
                        if self._over.is_set():
                            raise CancelledError
                        writer.write(data)
                if writer.bytes != entry.size or (
                    isinstance(self._root, Tree) and self._root.stat(entry.name) != entry
                ):
                    raise _Changed
            stored = kept.stored
            return Known(key, stored.bytes, stored.digest, stored.plain_digest)
        return None

    def _note(self) -> None:
        if self._unnoted:
            self._notes += 1
            _write_index(self._place, f"{self._set}-{self._notes:06d}", self._unnoted)
            self._unnoted = []
        self._noted = time.monotonic()


class _Changed(Exception):
    pass


def load_index(place: Place, ledger: Ledger) -> None:
    """What is noted of copies, and what of them lies there."""
    notes = []
    copies = []
    for entry in place.entries(COPIES):
        if entry.name.startswith(INDEX):
            notes.append(entry.name)
            continue
        copies.append(entry)
        if len(copies) >= 1000:
            ledger.present(copies)
            copies = []
    ledger.present(copies)
    for name in sorted(notes):
        found = place.get(name)
        if found is None:
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError):
            # A note that can't be read costs a second copy of some artifacts, and nothing else.
            lines = streams.unpack(found[0]).splitlines()
            ledger.known([Known(**json.loads(line)) for line in lines])


def drop_unneeded(
    place: Place, ledger: Ledger, sets: Sequence[Manifest], set_name: str, check: Callable[[], None]
) -> int:
    """Remove the copies that no set needs any more, and what is noted of them; how many they were.

    `check` is called before each, and raises where somebody else may be about to need it. Raises
    BrokenBackup where it can't be told what a set needs: nothing is removed then.
    """
    for one in sets:
        if one.artifacts is not None and one.artifacts.copies:
            ledger.need(reading.copy_names(place, one.artifacts, one))
    notes = [entry.name for entry in place.entries(INDEX)]
    load_index(place, ledger)
    page: list[Known] = []
    number = 0
    kept: list[str] = []
    for known in ledger.still_known():
        page.append(known)
        if len(page) >= 10_000:
            number += 1
            kept.append(_write_index(place, f"{set_name}-kept-{number:06d}", page))
            page = []
    kept.append(_write_index(place, f"{set_name}-kept-{number + 1:06d}", page))
    removed = 0
    for name in ledger.unneeded():
        check()
        place.remove(name)
        removed += 1
    for name in notes:
        if name not in kept:
            place.remove(name)
    return removed


def _write_index(place: Place, name: str, copies: Sequence[Known]) -> str:
    full = f"{INDEX}{name}.jsonl.zst"
    place.put(full, streams.pack(b"".join(copy.line() for copy in copies)))
    return full


def _artifact(entry: Entry, name: str, copy: Known) -> Artifact:
    return Artifact(*entry, copy.digest, name, copy.size, copy.stored)


def _line(artifact: Artifact) -> bytes:
    return json.dumps(artifact._asdict()).encode() + b"\n"


class _Digests:
    """The digests of files that were computed before, kept beside the state between runs."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._make()
        except sqlite3.DatabaseError:
            # It can be made again.
            self._db.close()
            path.unlink()
            self._db = sqlite3.connect(path, isolation_level=None)
            self._make()

    def _make(self) -> None:
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, etag TEXT, digest TEXT) WITHOUT ROWID"
        )

    def of(self, root: Tree, entry: Entry) -> str:
        path = entry.name.encode("utf-8", "surrogateescape")
        row = self._db.execute("SELECT etag, digest FROM digests WHERE path = ?", (path,)).fetchone()
        if row is not None and row[0] == entry.etag:
            return str(row[1])
        digest = sha256()
        with root.open(entry.name) as source:
            while data := source.read(READ):
                digest.update(data)
        found = digest.hexdigest()
        self._db.execute("INSERT OR REPLACE INTO digests VALUES (?,?,?)", (path, entry.etag, found))
        return found

    def close(self) -> None:
        self._db.close()
