"""Brings a set back: checked before anything is touched, into empty places, going on where it broke off."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from hashlib import sha256

from proxy.backup import copying, databases, reading, sealing
from proxy.backup.databases import Facts, Table
from proxy.backup.journal import Journal
from proxy.backup.ledger import Ledger
from proxy.backup.manifest import DatabaseEntry, Manifest
from proxy.backup.places import Place
from proxy.backup.places.place import READ
from proxy.backup.planning import Plan, artifacts_step, check_artifacts, check_empty, is_done, step
from proxy.backup.progress import Progress
from proxy.backup.reading import Artifact, BrokenBackup
from proxy.backup.sources import Database, named, place_of


def restore(plan: Plan, progress: Progress) -> None:
    """Do it. Raises UserError; another call for the same set and places goes on then."""
    journal = plan.journal()
    manifest = plan.manifest
    progress.stage("digests", manifest.stored_bytes)
    if problem := reading.damage(plan.place, manifest, progress.tick):
        raise BrokenBackup(f"{problem}: nothing was restored")
    progress.end()
    if plan.key is not None:
        _try_key(plan)
    if plan.artifacts is not None and not plan.leave_damaged:
        _check_copies(plan)
    for entry, target in plan.databases:
        _database(plan, journal, entry, target, progress)
    if plan.artifacts is not None:
        check_artifacts(plan, journal, plan.artifacts)
        journal.note(artifacts_step(plan.artifacts), "begun")
        copies(plan.place, manifest, plan.key, plan.artifacts, progress, leave_damaged=plan.leave_damaged)
    journal.over()


def _database(
    plan: Plan, journal: Journal, entry: DatabaseEntry, target: Database, progress: Progress
) -> None:
    if is_done(journal, entry, target):
        return
    # Somebody may have put something there since the person was asked.
    is_empty = check_empty(plan, journal, entry, target)
    journal.note(step(entry, target), "begun")
    with named(target):
        if not is_empty:
            databases.clear(target.uri)
        database(plan.place, plan.manifest, entry, target.uri, plan.key, progress)
    journal.note(step(entry, target), "done")


def database(
    place: Place,
    manifest: Manifest,
    entry: DatabaseEntry,
    uri: str,
    key: sealing.Key | None,
    progress: Progress,
) -> Facts:
    """Bring one database back into an empty one, and compare each table with the manifest; what it holds.

    Raises UserError, BrokenBackup among them.
    """
    progress.stage(entry.role, manifest.part(entry.part).plain_bytes)
    with reading.part(place, manifest, entry.part, key) as reader:
        databases.restore(uri, _Ticking(reader, progress.tick))
    progress.end()
    found = databases.facts(uri, progress.tick)
    if wrong := differences(entry.tables, found.tables):
        raise BrokenBackup(
            f"{place_of(uri)} was restored from {manifest.set} and is not what was backed up: "
            + "; ".join(wrong[:5])
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
    return found


def differences(wanted: Mapping[str, Table], found: Mapping[str, Table]) -> list[str]:
    """What is not the same in two databases, table by table, for people."""
    lines = []
    for name in sorted({*wanted, *found}):
        one, other = wanted.get(name), found.get(name)
        if other is None:
            lines.append(f"the table {name} is missing")
        elif one is None:
            lines.append(f"the table {name} was not there")
        elif one.rows != other.rows:
            lines.append(f"the table {name} has {other.rows} rows in place of {one.rows}")
        elif one.digest != other.digest:
            lines.append(f"the table {name} has other content")
    return lines


def copies(
    place: Place,
    manifest: Manifest,
    key: sealing.Key | None,
    target: Place,
    progress: Progress,
    *,
    leave_damaged: bool = False,
) -> int:
    """Bring the copied artifacts to another place; how many are there then. One that is there already is
    left, so that a broken-off run goes on.

    Where the copy of one is missing or damaged, BrokenBackup is raised, or it is named and left out. Raises
    UserError too.
    """
    total = manifest.artifacts.bytes if manifest.artifacts else 0
    # What a broken-off run left there.
    target.tidy("")
    progress.stage("artifacts", total)
    over = threading.Event()

    def bring(artifact: Artifact) -> None:
        found = target.stat(artifact.path)
        if found is not None and found.size == artifact.size and _same(target, artifact):
            progress.tick(artifact.size)
            return
        with target.create(artifact.path) as sink:
            with reading.copy(place, artifact, key) as reader:
                while data := reader.read(READ):
                    if over.is_set():
                        raise CancelledError
                    sink.write(data)
                    progress.tick(len(data))
            sink.commit()

    def brought(artifact: Artifact) -> bool:
        try:
            bring(artifact)
        except BrokenBackup as error:
            if not leave_damaged:
                raise
            progress.say(f"left out: {error}")
            return False
        return True

    count = left_out = 0
    waiting: deque[Future[bool]] = deque()
    with ThreadPoolExecutor(copying.THREADS, thread_name_prefix="copy") as threads:
        try:
            for artifact in reading.artifacts(place, manifest, key):
                if not artifact.copy:
                    continue
                count += 1
                waiting.append(threads.submit(brought, artifact))
                if len(waiting) > 4 * copying.THREADS:
                    left_out += not waiting.popleft().result()
            while waiting:
                left_out += not waiting.popleft().result()
        finally:
            over.set()
            for one in waiting:
                one.cancel()
    progress.end()
    if left_out:
        progress.say(f"{left_out} of {count} artifacts are left out: their copies are missing or damaged")
    return count - left_out


def _same(target: Place, artifact: Artifact) -> bool:
    """Whether what is there is the artifact: what was there before the restore may have its name and size."""
    digest = sha256()
    with target.open(artifact.path) as source:
        while data := source.read(READ):
            digest.update(data)
    return digest.hexdigest() == artifact.digest


def _try_key(plan: Plan) -> None:
    """Before anything is touched: a part is opened with it."""
    smallest = min(
        (part for part in plan.manifest.parts if part.name.endswith(sealing.SUFFIX)),
        key=lambda part: part.bytes,
        default=None,
    )
    if smallest is not None:
        with reading.part(plan.place, plan.manifest, smallest.name, plan.key):
            pass


def _check_copies(plan: Plan) -> None:
    """Every copy is there in its size. Raises BrokenBackup, naming the first one that is not."""
    file = plan.folder / "copies.db"
    file.unlink(missing_ok=True)
    plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(Ledger(file, "", ())) as ledger:
        copying.load_index(plan.place, ledger)
        for artifact in reading.artifacts(plan.place, plan.manifest, plan.key):
            there = ledger.lies(artifact.copy)
            if artifact.copy and there != artifact.copy_bytes:
                how = "is missing" if there is None else f"has {there} of {artifact.copy_bytes} bytes"
                raise BrokenBackup(
                    f"{plan.place.text}/{artifact.copy}, the copy of the artifact {artifact.path}, {how}: "
                    "nothing was restored; --without-damaged-artifacts brings back all others"
                )
    file.unlink(missing_ok=True)


class _Ticking:
    def __init__(self, source: sealing.Reading, tick: Callable[[int], None]) -> None:
        self._source = source
        self._tick = tick

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._tick(len(data))
        return data
