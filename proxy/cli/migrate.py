"""`mlflow-proxy migrate`: brings an older MLflow's database to the installed version, after a backup."""

from __future__ import annotations

import os

import click

from proxy import data_dir
from proxy.errors import UserError
from proxy.mlflow_server import schema
from proxy.mlflow_server.output import place_of
from proxy.mlflow_server.schema import Fit, Unreachable
from proxy.settings import Loaded, database_uri


def migrate(loaded: Loaded, *, yes: bool) -> None:
    """Raises UserError where it can't be done, or the service runs."""
    settings = loaded.settings
    uri = database_uri(settings)
    with data_dir.lock(settings.data_dir, "mlflow-proxy migrate"):
        try:
            _migrate(uri, {**os.environ, **loaded.passthrough}, yes=yes)
        except Unreachable as error:
            raise UserError(f"{str(error).partition(';')[0]}: {error.reason}") from None


def _migrate(uri: str, environ: dict[str, str], *, yes: bool) -> None:
    where, found = place_of(uri), schema.look(uri)
    if found is None:
        raise UserError(f"{where}: what MLflow's tables in it are can't be seen")
    if found.fit is Fit.FOREIGN:
        raise UserError(schema.refusal(found, uri))
    if found.fit is not Fit.OLD:
        click.echo(f"{where} needs no migration ({found.fit.value}).")
        return
    click.echo(f"{where} has version {found.found}; this MLflow has {found.wanted}.")
    copy = schema.copy_aside(uri, found)
    if copy is not None:
        click.echo(f"As it is it was copied to {copy}.")
    elif not yes:
        click.confirm(
            "Is there a backup that can be restored, and is no other MLflow running on it?", abort=True
        )
    if not schema.upgrade(uri, environ, click.echo):
        kept = f" As it was it is in {copy}." if copy is not None else ""
        raise UserError(f"{where} could not be migrated; what was said above is why.{kept}")
    click.echo(f"{where} was migrated to version {found.wanted}.")
