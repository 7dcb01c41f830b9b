"""Brings a set back: checked before anything is touched, into empty places, going on where it broke off."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from proxy import private_file
from proxy.backup import copying, databases, reading, sealing
from proxy.backup.databases import Facts, Table
from proxy.backup.ledger import Ledger
from proxy.backup.manifest import DatabaseEntry, Manifest
from proxy.backup.places import Place
from proxy.backup.places.place import READ
from proxy.backup.progress import Progress, size
from proxy.backup.reading import Artifact
from proxy.backup.sources import Database
from proxy.errors import UserError
from proxy.mlflow_server import schema
from proxy.mlflow_server.output import place_of

JOURNAL = "restore.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is brought back from where to where."""

    place: Place
    manifest: Manifest
    key: sealing.Key | None
    databases: Sequence[tuple[DatabaseEntry, Database]]
    artifacts: Place | None
    """Where the copies go; None where they stay where they are, or there are none."""
    folder: Path
    replace: bool
    """Whether what is in the places may be lost; the person has said so in words."""


def plan(
    place: Place,
    manifest: Manifest,
    key: sealing.Key | None,
    targets: Sequence[Database],
    artifacts: Place | None,
    folder: Path,
    *,
    replace: bool,
    without: Collection[str] = (),
) -> Plan:
    """Which database of the set goes where. Raises UserError where the set does not fit the settings.

    `artifacts` is where copies of artifacts go, None to leave them out; `without` names databases of the set
    that are left out.
    """
    if manifest.encryption and key is None:
        raise UserError(
            f"{place.text}: the backup {manifest.set} is encrypted; set PROXY_BACKUP_IDENTITY_FILE to the "
            f"file with the secret key of {', '.join(manifest.encryption)}"
        )
    pairs = []
    used: set[str] = set()
    wanted = [entry for entry in manifest.databases if not set(entry.roles) & set(without)]
    for entry in wanted:
        found = {target.uri: target for target in targets if set(entry.roles) & set(target.roles)}
        if not found:
            names = " and ".join(entry.roles)
            raise UserError(
                f"the backup {manifest.set} holds a database of {names}, and the settings name none for "
                "it: set what names it (docs/disaster-recovery.md), or leave it out with --without "
                f"{entry.role}"
            )
        target = next(iter(found.values()))
        if len(found) > 1 or target.uri in used:
            raise UserError(
                f"{target.variable}: in the backup {manifest.set} "
                + "; ".join(f"{' and '.join(one.roles)} had one database" for one in wanted)
                + ": let the settings name as many"
            )
        used.add(target.uri)
        kind = databases.kind(target.uri)
        if kind != entry.kind:
            raise UserError(
                f"{target.variable}: {place_of(target.uri)} is of the kind {kind}, and the backup is a dump "
                f"of {entry.kind} ({entry.server}): a dump is made of one kind's own statements and types; "
                f"name an empty database of the kind {entry.kind}"
            )
        if problem := databases.unfit(target.uri):
            raise UserError(f"{target.variable}: {problem}")
        pairs.append((entry, target))
    copied = manifest.artifacts is not None and manifest.artifacts.copied
    return Plan(place, manifest, key, pairs, artifacts if copied else None, folder, replace)


def what(plan: Plan) -> list[str]:
    """What it will do, a line each, for the person who is asked. Raises UserError where a place is not empty
    and nobody said that what is in it may go."""
    journal = _Journal(plan)
    manifest = plan.manifest
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.moment))
    lines = [f"The backup {manifest.set} of {moment}, of MLflow {manifest.versions.get('mlflow', '?')}:"]
    if journal.goes_on:
        lines.append("  a restore of it had broken off here, and goes on where it was")
    for entry, target in plan.databases:
        rows = sum(table.rows for table in entry.tables.values())
        state = journal.state(entry)
        do = "restored"
        if state == "done":
            do = "done already"
        elif not databases.is_empty(target.uri):
            if state != "begun" and not plan.replace:
                raise UserError(
                    f"{target.variable}: {place_of(target.uri)} is not empty: name an empty database, or say "
                    "--replace-what-is-there, and all that is in it now is lost"
                )
            do = "cleared (it was begun) and restored" if state == "begun" else "EMPTIED and restored"
        lines.append(
            f"  {' and '.join(entry.roles)}: {place_of(target.uri)} is {do}: {len(entry.tables)} tables, "
            f"{rows} rows"
        )
    if plan.artifacts is not None and manifest.artifacts is not None:
        if not journal.goes_on and not plan.replace and _holds_any(plan.artifacts):
            raise UserError(
                f"MLFLOW_DEFAULT_ARTIFACT_ROOT: {plan.artifacts.text} is not empty: name an empty place, "
                "leave what is there as it is with --without-artifacts, or say --replace-what-is-there, and "
                "artifacts of the same names are replaced"
            )
        told = manifest.artifacts
        lines.append(f"  {told.count} artifacts, {size(told.bytes)}, go to {plan.artifacts.text}")
    elif manifest.artifacts is not None and not manifest.artifacts.copied:
        lines.append(f"  artifacts were not copied: they are expected in {manifest.artifacts.root}")
    lines += [f"  {note}" for note in _notes(plan)]
    return lines


def restore(plan: Plan, progress: Progress) -> None:
    """Do it. Raises UserError; another call for the same set and places goes on then."""
    journal = _Journal(plan)
    manifest = plan.manifest
    progress.stage("digests", manifest.stored_bytes)
    if problem := reading.damage(plan.place, manifest, progress.tick):
        raise reading.BrokenBackup(f"{problem}: nothing was restored")
    progress.end()
    if plan.key is not None:
        _try_key(plan)
    if plan.artifacts is not None:
        _check_copies(plan)
    for entry, target in plan.databases:
        if journal.state(entry) == "done":
            continue
        journal.note(entry, "begun")
        if not databases.is_empty(target.uri):
            databases.clear(target.uri)
        database(plan.place, manifest, entry, target.uri, plan.key, progress)
        journal.note(entry, "done")
    if plan.artifacts is not None:
        copies(plan.place, manifest, plan.key, plan.artifacts, progress)
    journal.over()


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
        raise reading.BrokenBackup(
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
    place: Place, manifest: Manifest, key: sealing.Key | None, target: Place, progress: Progress
) -> int:
    """Bring the copied artifacts to another place; how many there are. One that is there in its size is
    left, so that a broken-off run goes on. Raises UserError, BrokenBackup among them."""
    total = manifest.artifacts.bytes if manifest.artifacts else 0
    # What a broken-off run left there.
    target.tidy("")
    progress.stage("artifacts", total)
    over = threading.Event()

    def one(artifact: Artifact) -> None:
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

    count = 0
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(copying.THREADS, thread_name_prefix="copy") as threads:
        try:
            for artifact in reading.artifacts(place, manifest, key):
                if not artifact.copy:
                    continue
                count += 1
                waiting.append(threads.submit(one, artifact))
                if len(waiting) > 4 * copying.THREADS:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        finally:
            over.set()
            for left in waiting:
                left.cancel()
    progress.end()
    return count


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
                raise reading.BrokenBackup(
                    f"{plan.place.text}/{artifact.copy}, the copy of the artifact {artifact.path}, {how}: "
                    "nothing was restored"
                )
    file.unlink(missing_ok=True)


def _notes(plan: Plan) -> Iterator[str]:
    known = schema.versions()
    for entry in plan.manifest.databases:
        if known is None or "tracking" not in entry.roles or not entry.revision:
            continue
        newest, all_known = known
        if entry.revision not in all_known:
            yield (
                f"its tables are of an MLflow that this one does not know (version {entry.revision}): "
                f"install MLflow {plan.manifest.versions.get('mlflow', '')} to serve them"
            )
        elif entry.revision != newest:
            yield "its tables are of an older MLflow: `mlflow-proxy migrate` or the next start migrates them"


def _holds_any(place: Place) -> bool:
    return next(iter(place.entries("")), None) is not None


class _Journal:
    """How far a restore came, in the data directory, so that another call goes on."""

    def __init__(self, plan: Plan) -> None:
        self._path = plan.folder / JOURNAL
        self._told: dict[str, Any] = {
            "place": plan.place.text,
            "set": plan.manifest.set,
            "targets": {entry.role: place_of(target.uri) for entry, target in plan.databases},
            "artifacts": plan.artifacts.text if plan.artifacts else "",
        }
        self._states: dict[str, str] = {}
        self.goes_on = False
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads(self._path.read_bytes())
            states = found.pop("states")
            if found == self._told:
                self._states = dict(states)
                self.goes_on = True

    def state(self, entry: DatabaseEntry) -> str:
        """``begun``, ``done``, or empty."""
        return self._states.get(entry.role, "")

    def note(self, entry: DatabaseEntry, state: str) -> None:
        self._states[entry.role] = state
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.write(self._path, json.dumps({**self._told, "states": self._states}).encode())

    def over(self) -> None:
        self._path.unlink(missing_ok=True)


class _Ticking:
    def __init__(self, source: sealing.Reading, tick: Callable[[int], None]) -> None:
        self._source = source
        self._tick = tick

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._tick(len(data))
        return data
