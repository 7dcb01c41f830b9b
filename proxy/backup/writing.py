"""Makes a set: all databases as they are at one moment, the artifacts, and at the very end its manifest."""

from __future__ import annotations

import contextlib
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.backup import copying, databases, lease, reading, retention, sealing, streams
from proxy.backup import manifest as manifests
from proxy.backup.databases import Snapshot
from proxy.backup.ledger import Ledger
from proxy.backup.manifest import ArtifactsEntry, DatabaseEntry, Manifest
from proxy.backup.places import Place
from proxy.backup.progress import Progress, size
from proxy.backup.retention import Keep
from proxy.backup.sources import Database, named, place_of
from proxy.backup.streams import Stored
from proxy.errors import UserError


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be backed up, and how."""

    databases: Sequence[Database]
    artifacts: Place
    place: Place
    copy_artifacts: bool
    recipients: Sequence[str]
    keep: Keep
    folder: Path
    """Private, on a disk with room for a copy of an SQLite database."""
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Made:
    """A set that was made."""

    manifest: Manifest
    removed: tuple[str, ...]
    """The sets that no rule kept any more."""
    bytes: int
    """That it has added to the place, new copies of artifacts among them."""


def backup(plan: Plan, progress: Progress) -> Made:
    """Make a set, and then remove what no rule keeps. Raises UserError, and leaves no set then."""
    keys = sealing.recipients(plan.recipients)
    for one in plan.databases:
        if problem := databases.unfit(one.uri):
            raise UserError(f"{one.variable}: {problem}")
    with lease.held(plan.place, progress.say) as held, _scratch(plan.folder) as scratch:
        run = _Run(plan, progress, held, scratch, keys)
        made = run.make()
        removed: list[str] = []
        try:
            run.prune(made, removed)
        except UserError as error:
            # The set is there all the same; the next run removes them.
            progress.say(f"what no rule keeps could not be removed: {error}")
        return Made(made, tuple(removed), made.stored_bytes + run.copied_bytes)


class _Run:
    def __init__(
        self, plan: Plan, progress: Progress, held: lease.Lease, scratch: Path, keys: Sequence[Any]
    ) -> None:
        self._plan = plan
        self._place = plan.place
        self._progress = progress
        self._lease = held
        self._scratch = scratch
        self._keys = keys
        self._suffix = streams.COMPRESSED + (sealing.SUFFIX if keys else "")
        self._began = time.time()
        self._set = manifests.new_name(self._began)
        self._parts: list[Stored] = []
        self.copied_bytes = 0

    def make(self) -> Manifest:
        self._clear_debris()
        try:
            entries = self._databases()
            artifacts = self._artifacts()
            manifest = self._manifest(entries, artifacts)
            if problem := reading.incomplete(self._place, manifest):
                raise UserError(f"{problem}, although it was just written")
            self._lease.check()
        except BaseException:
            with contextlib.suppress(UserError):
                self._remove_set(self._set)
            raise
        self._place.put(manifest.name, manifest.text())
        return manifest

    def prune(self, made: Manifest, removed: list[str]) -> None:
        """Remove what no rule keeps, adding the names of the sets to `removed`. The set just made is whole.

        Raises UserError.
        """
        sets = reading.sets(self._place)
        same = [one for one in sets if one.source == made.source]
        if others := len(sets) - len(same):
            self._progress.say(f"{others} backups of another database than {made.source} are here: they stay")
        old = retention.superseded(same, made.set, self._plan.keep)
        for one in old:
            self._lease.check()
            # The manifest first: what is half removed is no set.
            self._place.remove(one.name)
            self._remove_set(one.set)
            removed.append(one.set)
        if removed and any(one.artifacts and one.artifacts.copied for one in old):
            if unreadable := reading.unreadable(self._place):
                self._progress.say(f"{unreadable[0]}: copies of artifacts stay, as that one may need them")
                return
            gone = {*removed}
            with contextlib.closing(self._ledger("prune")) as ledger:
                left = [one for one in sets if one.set not in gone]
                number = copying.drop_unneeded(self._place, ledger, left, self._set, self._lease.check)
            self._progress.say(f"{number} copies of artifacts are needed by no backup any more: removed")

    def _clear_debris(self) -> None:
        """What broken-off runs left: nobody else writes here now."""
        # Not all that lies there: the place may hold other things of other people.
        for prefix in (manifests.FOLDER, copying.COPIES, lease.NAME):
            self._place.tidy(prefix)
        for name, whole in reading.names(self._place).items():
            if not whole:
                self._progress.say(f"the backup {name} had broken off: what is left of it is removed")
                self._remove_set(name)

    def _databases(self) -> list[DatabaseEntry]:
        with ExitStack() as stack:
            opened: list[tuple[Database, Snapshot]] = []
            for one in self._plan.databases:
                with named(one):
                    snapshot = databases.snapshot(one.uri, self._folder(one.role))
                    opened.append((one, stack.enter_context(snapshot)))
            about = sum(snapshot.size for _, snapshot in opened)
            self._progress.say(f"{len(opened)} databases, about {size(about)} to read")
            return [self._database(one, snapshot) for one, snapshot in opened]

    def _database(self, one: Database, snapshot: Snapshot) -> DatabaseEntry:
        name = f"{one.role}.dump{self._suffix}"
        self._progress.stage(one.role, snapshot.size)
        with named(one):
            with self._part(name) as writer:
                snapshot.dump(writer)
            self._progress.end()
            facts = snapshot.facts(self._progress.tick)
        return DatabaseEntry(
            role=one.role,
            roles=one.roles,
            kind=databases.kind(one.uri),
            server=facts.server,
            place=place_of(one.uri),
            revision=facts.revision,
            moment=facts.moment,
            part=name,
            tables=facts.tables,
        )

    def _artifacts(self) -> ArtifactsEntry:
        # After the databases: what they name was put there before them.
        plan, progress = self._plan, self._progress
        name, copies = f"artifacts.jsonl{self._suffix}", f"copies{streams.COMPRESSED}"
        with contextlib.closing(self._ledger("ledger")) as ledger:
            work = copying.Copying(
                plan.artifacts, self._place, ledger, self._set, self._keys, plan.folder / "digests.db"
            )
            count, total = work.find()
            progress.say(f"{count} artifacts, {size(total)}, in {plan.artifacts.text}")
            if links := plan.artifacts.links:
                progress.say(
                    f"not in it: what {len(links)} symbolic links among the artifacts lead to ({links[0]}"
                    f"{', …' if links[1:] else ''})"
                )
            progress.stage("artifacts", total)
            if plan.copy_artifacts:
                left, bytes_left = work.find_copies()
                progress.say(f"{left} of them, {size(bytes_left)}, were not copied before")
                with self._part(name) as writer, self._part(copies, sealed=False) as names:
                    count, total = work.copy_to(writer, names, progress.tick)
                self.copied_bytes = work.stored_bytes
            else:
                with self._part(name) as writer:
                    count, total = work.list_to(writer, progress.tick)
            progress.end()
        copied = plan.copy_artifacts
        return ArtifactsEntry(plan.artifacts.text, name, count, total, copied, copies if copied else "")

    def _manifest(self, entries: Sequence[DatabaseEntry], artifacts: ArtifactsEntry) -> Manifest:
        return Manifest(
            set=self._set,
            moment=min(entry.moment for entry in entries),
            began=self._began,
            finished=time.time(),
            host=socket.gethostname(),
            versions={**self._plan.versions, "python": platform.python_version()},
            encryption=tuple(self._plan.recipients),
            databases=tuple(entries),
            artifacts=artifacts,
            parts=tuple(self._parts),
        )

    @contextlib.contextmanager
    def _part(self, name: str, *, sealed: bool = True) -> Iterator[streams.Writer]:
        self._lease.check()
        full = f"{manifests.FOLDER}{self._set}/{name}"
        tick = self._progress.tick if name.partition(".")[0] in self._roles() else _nothing
        with streams.writing(self._place, full, self._keys if sealed else (), tick) as (writer, kept):
            yield writer
        self._parts.append(kept.stored._replace(name=name))

    def _roles(self) -> set[str]:
        return {one.role for one in self._plan.databases}

    def _remove_set(self, name: str) -> None:
        for entry in list(self._place.entries(f"{manifests.FOLDER}{name}/")):
            self._place.remove(entry.name)

    def _ledger(self, name: str) -> Ledger:
        return Ledger(self._scratch / f"{name}.db", self._suffix, self._plan.recipients)

    def _folder(self, role: str) -> Path:
        folder = self._scratch / role
        folder.mkdir(mode=0o700)
        return folder


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A private folder; those of runs that were killed go, as nobody else runs where there is the lock."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.glob("scratch-*"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=folder) as name:
        yield Path(name)


def _nothing(_number: int) -> None:
    pass
