"""A drill from its beginning to its end."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.backup import figures, places, reading, restoring, sealing, sources, state, streams
from proxy.backup.databases import DatabaseFailed
from proxy.backup.drill import service
from proxy.backup.drill.report import Compared, DrillFailed, Report
from proxy.backup.drill.scratch import Busy, Scratch, scratch
from proxy.backup.manifest import DatabaseEntry, Manifest
from proxy.backup.places import Place
from proxy.backup.places.place import READ
from proxy.backup.progress import Progress
from proxy.backup.reading import Artifact
from proxy.errors import UserError
from proxy.settings import Loaded, Settings
from proxy.settings.database import driver_uri

# Names that MLflow's client and server carry as they are; others (#, ?, %) it changes by itself.
_PLAIN = re.compile(r"[\w ./@+=,()~-]+")
# Seconds by which the clock of the machine that made a backup may be ahead of ours.
_CLOCKS_APART = 3600


def drill(loaded: Loaded, progress: Progress, *, name: str | None = None) -> Report:
    """Restore the newest backup, or that of this name, aside, and compare; notes the result for the metrics.

    Raises UserError for whatever is wrong with the backup or hinders the drill. Nothing of what it makes is
    left then either. Any other error is noted as well.
    """
    settings = loaded.settings
    began = time.time()
    try:
        report = _drill(loaded, progress, name, began)
        _note(settings, report.noted())
    except Busy:
        raise  # it says nothing of the backup
    except Exception as error:
        told = error
        if not isinstance(error, UserError):
            told = DrillFailed(f"the drill could not go on: {type(error).__name__}: {error}")
        with contextlib.suppress(UserError, OSError):
            _note(settings, {"last_attempt": began, "error": str(told)})
        if isinstance(error, UserError | OSError):
            raise told from None
        raise
    return report


def _note(settings: Settings, noted: Mapping[str, Any]) -> None:
    state.note(settings.data_dir, "drill", noted)
    if settings.backup_metrics_file is not None:
        figures.write(settings.backup_metrics_file, settings.data_dir)


def _drill(loaded: Loaded, progress: Progress, name: str | None, began: float) -> Report:
    settings = loaded.settings
    started = time.monotonic()
    place = sources.destination_of(loaded)
    key = sealing.identity(settings.backup_identity_file)
    with scratch(settings.data_dir, _server(loaded)) as made:
        manifest = reading.newest(place) if name is None else reading.set_named(place, name)
        if problem := reading.incomplete(place, manifest):
            raise DrillFailed(f"the backup {manifest.set} is not whole: {problem}")
        if manifest.moment > began + _CLOCKS_APART:
            raise DrillFailed(
                f"the backup {manifest.set} is of a moment that is still to come, and stays the newest until "
                "then: the clock here is wrong, or that of the machine that made it was"
            )
        _check_room(manifest, made.folder, everything=settings.drill_artifacts == "all")
        progress.say(f"restoring {manifest.set}")
        uris: dict[str, str] = {}
        compared = []
        for entry in manifest.databases:
            one, uri = _database(place, manifest, entry, key, made, progress)
            compared.append(one)
            uris |= dict.fromkeys(entry.roles, uri)
        if "tracking" not in uris:
            raise DrillFailed(f"the backup {manifest.set} holds no tracking database")
        listed, restored, root, sample = _artifacts(
            place, manifest, key, made, settings.drill_artifacts == "all", settings.drill_sample, progress
        )
        progress.say("starting MLflow on it")
        starting = time.monotonic()
        environ = service.environment(
            sources.environment(loaded), made.folder / "service", made.temporary, uris, root
        )
        with service.running(made.folder / "service", environ) as running:
            ready = time.monotonic()
            progress.say("reading through MLflow's client")
            found = running.ask({"artifacts": sample})
            if found["problem"]:
                raise DrillFailed(f"the backup {manifest.set}: {found['problem']}")
        return Report(
            manifest.set,
            began,
            began - manifest.moment,
            ready - started,
            ready - starting,
            time.monotonic() - started,
            tuple(compared),
            listed,
            restored,
            int(found["read"]),
        )


def _server(loaded: Loaded) -> str | None:
    url = loaded.settings.drill_server_url
    if url is None:
        return None
    try:
        return driver_uri(url.get_secret_value())
    except ValueError as error:
        raise UserError(f"PROXY_DRILL_SERVER_URL: {error}") from None


def _check_room(manifest: Manifest, folder: Path, *, everything: bool) -> None:
    files = [entry.part for entry in manifest.databases if entry.kind == "sqlite"]
    needed = sum(manifest.part(name).plain_bytes for name in files)
    if manifest.artifacts is not None and manifest.artifacts.copied and everything:
        needed += manifest.artifacts.bytes
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the drill needs {needed} bytes in {folder.parent}, and {free} are free: make room, or set "
            "PROXY_DRILL_ARTIFACTS=sample"
        )


def _database(
    place: Place,
    manifest: Manifest,
    entry: DatabaseEntry,
    key: sealing.Key | None,
    made: Scratch,
    progress: Progress,
) -> tuple[Compared, str]:
    """Restored and compared; with its URI."""
    uri = made.database(entry.role, entry.kind)
    began = time.monotonic()
    try:
        found = restoring.database(place, manifest, entry, uri, key, progress)
    except DatabaseFailed:
        # A dump that was changed can fail in the database before its end, and so its digest, was reached.
        if problem := streams.damage(place, manifest.part(entry.part), progress.tick):
            raise DrillFailed(f"the backup {manifest.set}: {problem}") from None
        raise
    rows = sum(table.rows for table in found.tables.values())
    seconds = time.monotonic() - began
    tables = len(found.tables)
    progress.say(f"{entry.role}: {tables} tables, {rows} rows, as in the manifest")
    return Compared(entry.role, entry.kind, entry.server, found.server, tables, rows, seconds), uri


def _artifacts(
    place: Place,
    manifest: Manifest,
    key: sealing.Key | None,
    made: Scratch,
    everything: bool,
    wanted: int,
    progress: Progress,
) -> tuple[int, int, str, list[Mapping[str, object]]]:
    """How many are listed and restored, where MLflow finds them, and which the client is to read."""
    folder = made.folder / "artifacts"
    folder.mkdir(mode=0o700)
    if manifest.artifacts is None:
        return 0, 0, str(folder), []
    copied = manifest.artifacts.copied
    # Nothing is restored from it; by it is known which copies have to stay.
    if copied and (problem := streams.damage(place, manifest.part(manifest.artifacts.copies), progress.tick)):
        raise DrillFailed(f"the backup {manifest.set}: {problem}")
    chosen: list[Artifact] = []
    seen = eligible = 0
    for artifact in reading.artifacts(place, manifest, key):
        seen += 1
        if copied and not everything and (problem := streams.missing(place, artifact.stored)):
            raise DrillFailed(f"the artifact {artifact.path}: {problem}")
        if not _PLAIN.fullmatch(artifact.path):
            continue
        eligible += 1
        # Each has the same chance, however many there are; others each time.
        if len(chosen) < wanted:
            chosen.append(artifact)
        elif (at := random.randrange(eligible)) < wanted:  # noqa: S311 - no secret
            chosen[at] = artifact
    if seen != manifest.artifacts.count:
        raise DrillFailed(
            f"the backup {manifest.set} lists {seen} artifacts and should list {manifest.artifacts.count}"
        )
    sample: list[Mapping[str, object]] = [
        {"path": each.path, "size": each.size, "digest": each.digest} for each in chosen
    ]
    if not copied:
        return seen, 0, manifest.artifacts.root, sample
    target = places.open_place(str(folder), {})
    if everything:
        return seen, restoring.copies(place, manifest, key, target, progress), str(folder), sample
    for each in chosen:
        with reading.copy(place, each, key) as reader, target.create(each.path) as sink:
            while data := reader.read(READ):
                sink.write(data)
            sink.commit()
    return seen, len(chosen), str(folder), sample
