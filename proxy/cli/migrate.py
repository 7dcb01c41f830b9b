"""`mlflow-proxy migrate`: brings an older MLflow's database to the installed version, or waits for that."""

from __future__ import annotations

import os
import time

import click

from proxy import data_dir
from proxy.errors import UserError
from proxy.mlflow_server import schema
from proxy.mlflow_server.output import place_of
from proxy.mlflow_server.schema import Fit, Unreachable
from proxy.settings import Loaded, database_uri
from proxy.store import Store

AGAIN = 2.0
"""Seconds between two looks of who waits."""


def migrate(loaded: Loaded, *, yes: bool, create: bool = False) -> None:
    """Raises UserError where it can't be done, or the service runs."""
    settings = loaded.settings
    uri = database_uri(settings)
    with data_dir.lock(settings.data_dir, "mlflow-proxy migrate"):
        try:
            _migrate(uri, {**os.environ, **loaded.passthrough}, yes=yes, create=create)
        except Unreachable as error:
            raise UserError(f"{str(error).partition(';')[0]}: {error.reason}") from None
        if create:
            Store.open(settings).close()
            click.echo("The tables of sessions and tokens are those of this version.")


def wait(loaded: Loaded) -> None:
    """Return once the database has the tables of the installed MLflow, saying what is waited for.

    Raises UserError where they are a newer MLflow's, which nobody will change."""
    uri = database_uri(loaded.settings)
    said = ""
    while True:
        try:
            found = schema.look(uri)
        except Unreachable as error:
            text = f"{str(error).partition(';')[0]}: {error.reason}"
        else:
            if found is None or found.fit is Fit.CURRENT:
                return
            if found.fit is Fit.FOREIGN:
                raise UserError(schema.refusal(found, uri))
            tables = f"version {found.found}" if found.found else "no tables"
            text = f"{place_of(uri)} has {tables} and is to have version {found.wanted}"
        if text != said:
            click.echo(f"Waiting for `mlflow-proxy migrate`: {text}.")
        said = text
        time.sleep(AGAIN)


def _migrate(uri: str, environ: dict[str, str], *, yes: bool, create: bool) -> None:
    where, found = place_of(uri), schema.look(uri)
    if found is None:
        raise UserError(f"{where}: what MLflow's tables in it are can't be seen")
    if found.fit is Fit.FOREIGN:
        raise UserError(schema.refusal(found, uri))
    if found.fit is Fit.EMPTY and create:
        if not schema.upgrade(uri, environ, click.echo):
            raise UserError(f"{where}: its tables could not be made; what was said above is why")
        click.echo(f"{where} was given the tables of version {found.wanted}.")
        return
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
