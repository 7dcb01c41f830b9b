"""What a restore would bring where: refused where it does not fit, and told to the person who is asked."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.backup import databases, sealing
from proxy.backup.journal import Journal
from proxy.backup.manifest import DatabaseEntry, Manifest
from proxy.backup.places import Place
from proxy.backup.progress import size
from proxy.backup.sources import Database, identity, named, place_of
from proxy.errors import UserError
from proxy.mlflow_server import schema


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
    leave_damaged: bool
    """Whether artifacts are left out whose copies are missing or damaged; said in words too."""

    def journal(self) -> Journal:
        """Of this restore, as an earlier call may have left it."""
        return Journal(self.folder, {"place": self.place.text, "set": self.manifest.set})


def plan(
    place: Place,
    manifest: Manifest,
    key: sealing.Key | None,
    targets: Sequence[Database],
    artifacts: Place | None,
    folder: Path,
    *,
    replace: bool,
    leave_damaged: bool = False,
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
    return Plan(place, manifest, key, pairs, artifacts if copied else None, folder, replace, leave_damaged)


def what(plan: Plan) -> list[str]:
    """What it will do, a line each, for the person who is asked. Raises UserError where a place is not empty
    and nobody said that what is in it may go."""
    journal = plan.journal()
    manifest = plan.manifest
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.moment))
    lines = [f"The backup {manifest.set} of {moment}, of MLflow {manifest.versions.get('mlflow', '?')}:"]
    if journal.goes_on:
        lines.append("  a restore of it had broken off here, and goes on where it was")
    for entry, target in plan.databases:
        rows = sum(table.rows for table in entry.tables.values())
        state = journal.state(step(entry, target))
        do = "restored"
        if is_done(journal, entry, target):
            do = "done already"
        elif not check_empty(plan, journal, entry, target):
            do = "cleared (it was begun) and restored" if state == "begun" else "EMPTIED and restored"
        lines.append(
            f"  {' and '.join(entry.roles)}: {place_of(target.uri)} is {do}: {len(entry.tables)} tables, "
            f"{rows} rows"
        )
    if plan.artifacts is not None and manifest.artifacts is not None:
        check_artifacts(plan, journal, plan.artifacts)
        told = manifest.artifacts
        lines.append(f"  {told.count} artifacts, {size(told.bytes)}, go to {plan.artifacts.text}")
    elif manifest.artifacts is not None and not manifest.artifacts.copied:
        lines.append(f"  artifacts were not copied: they are expected in {manifest.artifacts.root}")
    lines += [f"  {note}" for note in _notes(plan)]
    return lines


def step(entry: DatabaseEntry, target: Database) -> str:
    """What the journal calls the one in the other."""
    return f"{entry.role} in {identity(target.uri)}"


def artifacts_step(place: Place) -> str:
    """What the journal calls the artifacts there."""
    return f"artifacts in {place.text}"


def is_done(journal: Journal, entry: DatabaseEntry, target: Database) -> bool:
    """Whether an earlier call has brought that one back, and it was not emptied since."""
    return journal.state(step(entry, target)) == "done" and not databases.is_empty(target.uri)


def check_empty(plan: Plan, journal: Journal, entry: DatabaseEntry, target: Database) -> bool:
    """Whether that database is empty. Raises UserError where it is not and what is in it may not be lost."""
    with named(target):
        if databases.is_empty(target.uri):
            return True
    if journal.state(step(entry, target)) != "begun" and not plan.replace:
        raise UserError(
            f"{target.variable}: {place_of(target.uri)} is not empty: name an empty database, or say "
            "--replace-what-is-there, and all that is in it now is lost"
        )
    return False


def check_artifacts(plan: Plan, journal: Journal, place: Place) -> None:
    """Raises UserError where artifacts are there already and may not be replaced."""
    if plan.replace or journal.state(artifacts_step(place)):
        return
    if next(iter(place.entries("")), None) is not None:
        raise UserError(
            f"MLFLOW_DEFAULT_ARTIFACT_ROOT: {place.text} is not empty: name an empty place, leave what is "
            "there as it is with --without-artifacts, or say --replace-what-is-there, and artifacts of the "
            "same names are replaced"
        )


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
