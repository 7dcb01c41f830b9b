"""`mlflow-proxy drill`: restores the newest backup aside, starts MLflow on it, compares, and reports."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click

from proxy.cli.backup import progress_shown, to_environment
from proxy.cli.options import read
from proxy.errors import UserError
from proxy.settings import options

_PLACES = ("PROXY_ENV", "PROXY_ENV_FILE", "PROXY_DATA_DIR")
# Of the backup's settings those that only making one needs, and one that has an option of its own.
_NOT_OURS = (
    "PROXY_BACKUP_RECIPIENT",
    "PROXY_BACKUP_ARTIFACTS",
    "PROXY_BACKUP_KEEP_",
    "PROXY_BACKUP_METRICS_FILE",
)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """The settings that a drill hangs on, as options."""
    for flag, variable, text in reversed(options()):
        ours = variable.startswith(("PROXY_BACKUP_", "PROXY_DRILL_"))
        if variable in _PLACES or (ours and not variable.startswith(_NOT_OURS)):
            command = click.option(flag, variable, metavar="VALUE", help=f"{text} [{variable}]")(command)
    return command


@click.command("drill")
@_options
@click.option("--set", "name", metavar="NAME", help="Not the newest backup but this one.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures for node exporter's textfile collector there. [PROXY_BACKUP_METRICS_FILE]",
)
def drill_command(name: str | None, as_json: bool, metrics_file: Path | None, **given: str | None) -> None:
    """Restore the newest backup aside, start MLflow on it, and compare it table by table with its manifest.

    Reports how long a restore takes (RTO) and how old the data is (RPO). Nothing of what it makes is left.
    The exit code is 1 where anything is not as it should be, and one line says what.
    """
    from proxy.backup.drill import drill

    if metrics_file is not None:
        given["PROXY_BACKUP_METRICS_FILE"] = str(metrics_file.absolute())
    # What was made is removed at SIGTERM too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    loaded = read(given)
    to_environment(loaded)
    try:
        report = drill(loaded, progress_shown(), name=name)
    except UserError as error:
        if as_json:
            click.echo(json.dumps({"result": "failed", "problem": str(error)}))
        raise
    click.echo(json.dumps(report.json(), indent=1) if as_json else report.text())
