"""`mlflow-proxy reload`: asks the running service, and prints what it says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from proxy import control
from proxy.cli.options import read


def reload(given: dict[str, str | None], *, roll: bool) -> None:
    """Raises UserError where no service runs on the data directory."""
    named = given.get("PROXY_DATA_DIR")
    # Where it is named, the settings need not be readable here: it is the service that reads them.
    directory = Path(named).absolute() if named else read(given).settings.data_dir
    for told in control.ask(directory, do="reload", roll=roll, sudo=os.environ.get("SUDO_USER")):
        if isinstance(told, bool):
            sys.exit(0 if told else 1)
        click.echo(f"mlflow-proxy: {told}")
