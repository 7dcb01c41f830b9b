"""`mlflow-proxy audit`: whether the audit log is as it was written."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.cli.options import places_options, read


@click.group("audit")
def audit_group() -> None:
    """The audit log: who did what, in lines that can't be changed unnoticed."""


@audit_group.command("verify")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="All chains of all hosts have to be there, whole.")
@places_options
def verify(files: tuple[Path, ...], everything: bool, **given: str | None) -> None:
    """Look for changed, missing and cut lines: in FILES, or in all where this service writes them.

    Exit code 3: something is wrong; 4: nothing is, but not all could be looked at.
    """
    from proxy.audit.commands import text, verify_audit

    report = verify_audit(read(given).settings, files, everything=everything)
    click.echo(text(report))
    sys.exit(report.exit_code)
