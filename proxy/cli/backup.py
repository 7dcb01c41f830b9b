"""`mlflow-proxy backup`: sets are made, listed, checked, and keys for them made."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli.options import read
from proxy.errors import UserError
from proxy.settings import Loaded, Settings, options

if TYPE_CHECKING:  # they take a second to load
    from proxy.backup.places import Place
    from proxy.backup.progress import Progress

_PLACES = ("PROXY_ENV", "PROXY_ENV_FILE", "PROXY_DATA_DIR", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
_OPENING = ("PROXY_BACKUP_IDENTITY_FILE",)
MAKING = (
    "PROXY_BACKUP_RECIPIENT",
    "PROXY_BACKUP_ARTIFACTS",
    "PROXY_BACKUP_KEEP_DAILY",
    "PROXY_BACKUP_KEEP_WEEKLY",
    "PROXY_BACKUP_KEEP_MONTHLY",
    "PROXY_BACKUP_METRICS_FILE",
)


def options_without(*others: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The settings that a backup hangs on, as options, without those that this command does not look at."""

    def added(command: Callable[..., None]) -> Callable[..., None]:
        for flag, variable, text in reversed(options()):
            if variable in _PLACES or (variable.startswith("PROXY_BACKUP_") and variable not in others):
                command = click.option(flag, variable, metavar="VALUE", help=f"{text} [{variable}]")(command)
        return command

    return added


@click.group("backup", invoke_without_command=True)
@options_without(*_OPENING)
@click.option("--artifacts", is_flag=True, help="Copy the artifacts too (PROXY_BACKUP_ARTIFACTS).")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@click.pass_context
def backup_group(context: click.Context, /, artifacts: bool, as_json: bool, **given: str | None) -> None:
    """Back up the databases and the list of artifacts, or the artifacts too, while the service runs.

    To be set is PROXY_BACKUP_DESTINATION, and best PROXY_BACKUP_RECIPIENT. A set holds all databases as they
    were at one moment; only a whole one counts. What PROXY_BACKUP_KEEP_* does not keep is removed after it.
    docs/disaster-recovery.md tells more.
    """
    context.obj = given
    if context.invoked_subcommand is None:
        run(read(given_of(given)), artifacts=artifacts, as_json=as_json)


@backup_group.command("list")
@options_without(*MAKING, *_OPENING)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_command(context: click.Context, /, as_json: bool, **given: str | None) -> None:
    """The sets at the destination, the oldest first."""
    from proxy.backup import reading
    from proxy.backup.progress import size

    place = destination(read(given_of(given, context.obj)))
    found = reading.sets(place)
    if as_json:
        click.echo(json.dumps([json.loads(one.text()) for one in found], indent=1))
    elif not found:
        click.echo(f"{place.text} holds no backup.")
    else:
        for one in found:
            told = one.artifacts
            artifacts = f"{told.count} artifacts {'copied' if told.copied else 'listed'}" if told else ""
            sealed = "encrypted" if one.encryption else "not encrypted"
            click.echo(f"{one.set}  {_utc(one.moment)}  {size(one.stored_bytes):>9}  {artifacts}, {sealed}")
    for problem in reading.unreadable(place):
        click.echo(f"mlflow-proxy: {problem}", err=True)


@backup_group.command("verify")
@click.argument("name", metavar="[SET]", default="")
@options_without(*MAKING, *_OPENING)
@click.pass_context
def verify_command(context: click.Context, /, name: str, **given: str | None) -> None:
    """Read a set and compare it with its manifest.

    It is the newest unless another is named. No key is needed. Copies of artifacts are compared by
    `mlflow-proxy drill`, and when they are restored.
    """
    from proxy.backup import reading

    place = destination(read(given_of(given, context.obj)))
    manifest = reading.set_named(place, name) if name else reading.newest(place)
    progress = progress_shown()
    progress.stage(manifest.set, manifest.stored_bytes)
    if problem := reading.damage(place, manifest, progress.tick):
        raise UserError(problem)
    progress.end()
    click.echo(f"{manifest.set} is as it was written.")


@backup_group.command("keygen")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def keygen_command(file: Path) -> None:
    """Write a new secret key to FILE and print the public one.

    The public one belongs into PROXY_BACKUP_RECIPIENT. Keep the file away from this machine: whoever has it
    reads the backups, and without it nobody does. The format is that of `age-keygen`.
    """
    from proxy.backup import sealing

    public, secret = sealing.keygen()
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w") as opened:
            opened.write(secret)
            opened.flush()
            os.fsync(handle)
    except OSError as error:
        raise UserError(f"{file} can't be made: {error.strerror}; a key is never written over") from None
    click.echo(f"PROXY_BACKUP_RECIPIENT={public}")


def run(loaded: Loaded, *, artifacts: bool, as_json: bool) -> None:
    """Make a set and note in the data directory what came of it. Raises UserError."""
    from proxy import __version__, data_dir
    from proxy.backup import journal, sources, state, writing
    from proxy.backup.progress import seconds, size
    from proxy.backup.retention import Keep

    settings = loaded.settings
    to_environment(loaded)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    journal.check_finished(settings.data_dir)
    home = data_dir.prepare(settings.data_dir).path
    place = destination(loaded)
    progress = progress_shown()
    if not settings.backup_recipient:
        progress.say("PROXY_BACKUP_RECIPIENT is not set: the backup is not encrypted")
    keep = Keep(settings.backup_keep_daily, settings.backup_keep_weekly, settings.backup_keep_monthly)
    there, absent = sources.made(sources.databases_of(loaded))
    for one in absent:
        progress.say(f"{one.variable}: there is no {one.role} database yet, and none is in the backup")
    began = time.time()
    try:
        with state.own_files(home):
            made = writing.backup(
                writing.Plan(
                    databases=there,
                    artifacts=sources.artifacts_of(loaded),
                    place=place,
                    copy_artifacts=artifacts or settings.backup_artifacts,
                    recipients=settings.backup_recipient,
                    keep=keep,
                    folder=state.folder(home),
                    versions={"mlflow-proxy": __version__, "mlflow": importlib.metadata.version("mlflow")},
                ),
                progress,
            )
    except UserError as error:
        with contextlib.suppress(OSError):
            state.note(home, "backup", {"last_attempt": began, "error": str(error).splitlines()[0]})
        try:
            _write_figures(settings)
        except UserError as another:
            progress.say(str(another))
        raise
    manifest = made.manifest
    took = time.time() - began
    came = {
        "last_attempt": began,
        "last_success": manifest.moment,
        "set": manifest.set,
        "destination": place.text,
        "bytes": made.bytes,
        "seconds": took,
        "error": None,
    }
    with state.own_files(home):
        state.note(home, "backup", came)
    for name in made.removed:
        progress.say(f"the backup {name} was removed: no rule keeps it any more")
    if secrets := sources.left_out(settings):
        progress.say(
            f"not in it: {', '.join(secrets)} of {settings.data_dir}; keep copies where you keep secrets"
        )
    if as_json:
        click.echo(json.dumps(json.loads(manifest.text()), indent=1))
    else:
        click.echo(f"{place.text}: {manifest.set}, {size(made.bytes)} in {seconds(took)}")
    # Last: where they can't be written, the backup is there all the same, and was said to be.
    _write_figures(settings)


def _write_figures(settings: Settings) -> None:
    from proxy.backup import figures

    if settings.backup_metrics_file is not None:
        figures.write(settings.backup_metrics_file, settings.data_dir)


def destination(loaded: Loaded) -> Place:
    """Where the sets are. Raises UserError."""
    from proxy.backup import sources

    to_environment(loaded)
    return sources.destination_of(loaded)


def to_environment(loaded: Loaded) -> None:
    """The storages' libraries read some of what the settings' files say (profiles, endpoints) from there
    alone."""
    os.environ.update(loaded.passthrough)


def given_of(
    given: dict[str, str | None], outer: dict[str, str | None] | None = None
) -> dict[str, str | None]:
    """The options that were given, those of the group among them."""
    return {**(outer or {}), **{name: value for name, value in given.items() if value is not None}}


def progress_shown() -> Progress:
    """What tells the person at the terminal, or the log, how far it is."""
    from proxy.backup.progress import Progress

    def live(text: str) -> None:
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    return Progress(lambda text: click.echo(text, err=True), live if sys.stderr.isatty() else None)


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
