"""`mlflow-proxy backup` and `mlflow-proxy restore`: made, listed, checked, brought back."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from proxy.cli.options import read
from proxy.errors import UserError
from proxy.settings import Loaded, Settings, options

_PLACES = ("PROXY_ENV", "PROXY_ENV_FILE", "PROXY_DATA_DIR", "MLFLOW_DEFAULT_ARTIFACT_ROOT")


def backup_options(command: Callable[..., None]) -> Callable[..., None]:
    """The settings that a backup hangs on, as options."""
    for flag, variable, text in reversed(options()):
        if variable in _PLACES or variable.startswith("PROXY_BACKUP_"):
            command = click.option(flag, variable, metavar="VALUE", help=f"{text} [{variable}]")(command)
    return command


@click.group("backup", invoke_without_command=True)
@backup_options
@click.option("--artifacts", is_flag=True, help="Copy the artifacts too (PROXY_BACKUP_ARTIFACTS).")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@click.pass_context
def backup_group(context: click.Context, /, artifacts: bool, as_json: bool, **given: str | None) -> None:
    """Back up the databases and the list of artifacts, or the artifacts too, while the service runs.

    A set holds all databases as they were at one moment; only a whole one counts. What PROXY_BACKUP_KEEP_*
    does not keep is removed after it. docs/disaster-recovery.md tells more.
    """
    context.obj = given
    if context.invoked_subcommand is None:
        run(read(_given(given)), artifacts=artifacts, as_json=as_json)


@backup_group.command("list")
@backup_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_command(context: click.Context, /, as_json: bool, **given: str | None) -> None:
    """The sets at the destination, the oldest first."""
    from proxy.backup import reading
    from proxy.backup.progress import size

    place = _destination(read(_given(given, context.obj)))
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
@backup_options
@click.pass_context
def verify_command(context: click.Context, /, name: str, **given: str | None) -> None:
    """Read a set (the newest unless named) and compare it with its manifest; needs no key.

    Copies of artifacts are compared by `mlflow-proxy drill`, and when they are restored.
    """
    from proxy.backup import reading

    place = _destination(read(_given(given, context.obj)))
    manifest = reading.set_named(place, name) if name else reading.newest(place)
    progress = _progress()
    progress.stage(manifest.set, manifest.stored_bytes)
    if problem := reading.damage(place, manifest, progress.tick):
        raise UserError(problem)
    progress.end()
    click.echo(f"{manifest.set} is as it was written.")


@backup_group.command("keygen")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def keygen_command(file: Path) -> None:
    """Make a key pair: the secret key is written to FILE, the public one is printed.

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


@click.command("restore")
@click.argument("name", metavar="[SET]", default="")
@backup_options
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option(
    "--replace-what-is-there",
    is_flag=True,
    help="Restore into databases and an artifact store that are not empty: what is in them is lost.",
)
@click.option("--without-artifacts", is_flag=True, help="Leave the copied artifacts where they are.")
@click.option(
    "--without",
    multiple=True,
    metavar="DATABASE",
    help="Leave that database of the set out: tracking, registry, workspaces, proxy, permissions.",
)
def restore_command(
    name: str,
    yes: bool,
    replace_what_is_there: bool,
    without_artifacts: bool,
    without: tuple[str, ...],
    **given: str | None,
) -> None:
    """Bring a set back (the newest unless named) into the empty databases that the settings name.

    The service is stopped for it. The set is checked first, and nothing is touched before it was. Run it
    again where it broke off: it goes on.
    """
    bring_back(
        read(_given(given)),
        name,
        yes=yes,
        replace=replace_what_is_there,
        artifacts=not without_artifacts,
        without=without,
    )


def run(loaded: Loaded, *, artifacts: bool, as_json: bool) -> None:
    """Make a set and note in the data directory what came of it. Raises UserError."""
    from proxy import __version__, data_dir
    from proxy.backup import sources, state, writing
    from proxy.backup.progress import seconds, size
    from proxy.backup.retention import Keep

    settings = loaded.settings
    _to_environment(loaded)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = data_dir.prepare(settings.data_dir).path / "backup"
    place = _destination(loaded)
    progress = _progress()
    if not settings.backup_recipient:
        progress.say("PROXY_BACKUP_RECIPIENT is not set: the backup is not encrypted")
    keep = Keep(settings.backup_keep_daily, settings.backup_keep_weekly, settings.backup_keep_monthly)
    there, absent = sources.made(sources.databases_of(loaded))
    for one in absent:
        progress.say(f"{one.variable}: there is no {one.role} database yet, and none is in the backup")
    began = time.time()
    try:
        made = writing.backup(
            writing.Plan(
                databases=there,
                artifacts=sources.artifacts_of(loaded),
                place=place,
                copy_artifacts=artifacts or settings.backup_artifacts,
                recipients=settings.backup_recipient,
                keep=keep,
                folder=folder,
                versions={"mlflow-proxy": __version__, "mlflow": importlib.metadata.version("mlflow")},
            ),
            progress,
        )
    except UserError as error:
        state.note(settings.data_dir, "backup", {"last_attempt": began, "error": str(error).splitlines()[0]})
        _write_figures(settings)
        raise
    manifest = made.manifest
    took = time.time() - began
    state.note(
        settings.data_dir,
        "backup",
        {
            "last_attempt": began,
            "last_success": manifest.moment,
            "set": manifest.set,
            "destination": place.text,
            "bytes": made.bytes,
            "seconds": took,
            "error": None,
        },
    )
    _write_figures(settings)
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


def bring_back(
    loaded: Loaded, name: str, *, yes: bool, replace: bool, artifacts: bool, without: tuple[str, ...]
) -> None:
    """Raises UserError, also where the service runs on the data directory."""
    from proxy import data_dir
    from proxy.backup import reading, restoring, sealing, sources
    from proxy.backup.progress import seconds

    settings = loaded.settings
    _to_environment(loaded)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if unknown := set(without) - set(sources.ROLES):
        raise UserError(f"--without {sorted(unknown)[0]}: write one of {', '.join(sources.ROLES)}")
    place = _destination(loaded)
    key = sealing.identity(settings.backup_identity_file)
    manifest = reading.set_named(place, name) if name else reading.newest(place)
    with data_dir.lock(settings.data_dir, "mlflow-proxy restore") as places:
        plan = restoring.plan(
            place,
            manifest,
            key,
            sources.databases_of(loaded),
            sources.artifacts_of(loaded) if artifacts else None,
            places.path / "backup",
            replace=replace,
            without=without,
        )
        for line in restoring.what(plan):
            click.echo(line, err=True)
        if not yes:
            if not sys.stdin.isatty():
                raise UserError("nobody can be asked here: say --yes")
            click.confirm("No service uses these places, and this is what you want?", abort=True, err=True)
        began = time.monotonic()
        restoring.restore(plan, _progress())
    click.echo(f"{manifest.set} was restored in {seconds(time.monotonic() - began)}.")


def _write_figures(settings: Settings) -> None:
    from proxy.backup import figures

    if settings.backup_metrics_file is not None:
        figures.write(settings.backup_metrics_file, settings.data_dir)


def _destination(loaded: Loaded) -> Any:
    from proxy.backup import sources

    _to_environment(loaded)
    return sources.destination_of(loaded)


def _to_environment(loaded: Loaded) -> None:
    """The storages' libraries read some of what the settings' files say (profiles, endpoints) from there
    alone."""
    os.environ.update(loaded.passthrough)


def _given(given: dict[str, str | None], outer: dict[str, str | None] | None = None) -> dict[str, str | None]:
    return {**(outer or {}), **{name: value for name, value in given.items() if value is not None}}


def _progress() -> Any:
    from proxy.backup.progress import Progress

    def live(text: str) -> None:
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    return Progress(lambda text: click.echo(text, err=True), live if sys.stderr.isatty() else None)


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
