"""`mlflow-proxy restore`: says what it will do, asks, and brings a set back."""

from __future__ import annotations

import os
import signal
import sys
import time

import click

from proxy.cli.backup import MAKING, destination, given_of, options_without, progress_shown, to_environment
from proxy.cli.options import read
from proxy.errors import UserError
from proxy.settings import Loaded


@click.command("restore")
@click.argument("name", metavar="[SET]", default="")
@options_without(*MAKING)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option(
    "--replace-what-is-there",
    is_flag=True,
    help="Restore into databases and an artifact store that are not empty: what is in them is lost.",
)
@click.option("--without-artifacts", is_flag=True, help="Leave the copied artifacts where they are.")
@click.option(
    "--without-damaged-artifacts",
    is_flag=True,
    help="Name and leave out artifacts whose copies are missing or damaged, and bring back all others.",
)
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
    without_damaged_artifacts: bool,
    without: tuple[str, ...],
    **given: str | None,
) -> None:
    """Bring a set back (the newest unless named) into the empty databases that the settings name.

    The service is stopped for it. The set is checked first, and nothing is touched before it was. Run it
    again where it broke off: it goes on.
    """
    bring_back(
        read(given_of(given)),
        name,
        yes=yes,
        replace=replace_what_is_there,
        artifacts=not without_artifacts,
        leave_damaged=without_damaged_artifacts,
        without=without,
    )


def bring_back(
    loaded: Loaded,
    name: str,
    *,
    yes: bool,
    replace: bool,
    artifacts: bool,
    leave_damaged: bool,
    without: tuple[str, ...],
) -> None:
    """Raises UserError, also where the service runs on the data directory."""
    from proxy import data_dir
    from proxy.backup import planning, reading, restoring, sealing, sources, state
    from proxy.backup.progress import seconds

    settings = loaded.settings
    to_environment(loaded)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if unknown := set(without) - set(sources.ROLES):
        raise UserError(f"--without {sorted(unknown)[0]}: write one of {', '.join(sources.ROLES)}")
    place = destination(loaded)
    key = sealing.identity(settings.backup_identity_file)
    manifest = reading.set_named(place, name) if name else reading.newest(place)
    with data_dir.lock(settings.data_dir, "mlflow-proxy restore") as places, state.own_files(places.path):
        plan = planning.plan(
            place,
            manifest,
            key,
            sources.databases_of(loaded),
            sources.artifacts_of(loaded) if artifacts else None,
            state.folder(places.path),
            replace=replace,
            leave_damaged=leave_damaged,
            without=without,
        )
        for line in planning.what(plan):
            click.echo(line, err=True)
        if not yes:
            if not sys.stdin.isatty():
                raise UserError("nobody can be asked here: say --yes")
            click.confirm("No service uses these places, and this is what you want?", abort=True, err=True)
        began = time.monotonic()
        restoring.restore(plan, progress_shown())
    owner = places.path.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        click.echo(
            "root has made what was restored; give it to the service's user first: "
            f"chown -R {owner.st_uid}:{owner.st_gid} {places.path}",
            err=True,
        )
    click.echo(f"{manifest.set} was restored in {seconds(time.monotonic() - began)}.")
