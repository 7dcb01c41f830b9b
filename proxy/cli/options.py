"""What the commands have in common: the settings as options, and notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from proxy.identity import Role
from proxy.settings import Loaded, load, options

ROLES = [role.name.lower() for role in Role if role]


# Where the service's files and settings are.
_PLACES = ("PROXY_ENV", "PROXY_ENV_FILE", "PROXY_DATA_DIR", "PROXY_USERS_FILE", "PROXY_AUDIT_FILE")


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each setting that is no secret; stronger than every other source."""
    for flag, variable, text in reversed(options()):
        command = click.option(flag, variable, metavar="VALUE", help=f"{text} [{variable}]")(command)
    return command


def places_options(command: Callable[..., None]) -> Callable[..., None]:
    """Those alone that say where the service's files are, for what is done beside it."""
    for flag, variable, text in reversed(options()):
        if variable in _PLACES:
            command = click.option(flag, variable, metavar="VALUE", help=f"{text} [{variable}]")(command)
    return command


def read(given: dict[str, str | None], **more: Any) -> Loaded:
    return load({name: value for name, value in given.items() if value is not None}, **more)


def say(notes: list[str]) -> None:
    for note in notes:
        click.echo(f"mlflow-proxy: {note}", err=True)
