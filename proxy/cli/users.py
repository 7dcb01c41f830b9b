"""`mlflow-proxy users`: the people and programs that sign in with a password."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.auth import passwords, users
from proxy.auth.leaving import Left, end_all
from proxy.cli.options import ROLES, read, say
from proxy.errors import UserError
from proxy.first_start import DEFAULT_USER
from proxy.identity import Role
from proxy.settings import Settings


@click.group("users")
def users_group() -> None:
    """The people and programs that sign in with a password: the file that PROXY_USERS_FILE names."""


_file_option = click.option(
    "--users-file",
    "PROXY_USERS_FILE",
    metavar="FILE",
    help="The file, where the settings name another one or none. [PROXY_USERS_FILE]",
)
_stdin_option = click.option(
    "--stdin", is_flag=True, help="Read the password from standard input instead of asking for it."
)


@users_group.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True)
@_stdin_option
@_file_option
def users_add(name: str, role: str, stdin: bool, **given: str | None) -> None:
    """Add a user; the password is asked for."""
    from proxy.audit.commands import commands_audit

    settings = read(given, may_be_absent=("PROXY_USERS_FILE",)).settings
    path = _path_of(settings)
    password = _new_password(name, stdin)
    with commands_audit(settings) as audit:
        left = Left()
        if not users.has(path, name) and name != (settings.username or DEFAULT_USER):
            # Before the name is somebody else's.
            left = end_all(settings, name, audit)
        say(users.add(path, name, password, Role.parse(role)))
        audit.record("user_added", target={"user": name}, role=role)
    click.echo(f"{name} was added to {path} as {role}.")
    if told := str(left):
        click.echo(f"Of somebody who had that name before, {told}.")
    if name == (settings.username or DEFAULT_USER):
        say([_first_user_note(name, role, generated=settings.password is None)])


@users_group.command("remove")
@click.argument("name")
@_file_option
def users_remove(name: str, **given: str | None) -> None:
    """Remove a user, who is refused from that moment on; tokens are revoked, sessions end within seconds."""
    from proxy.audit.commands import commands_audit

    settings = _users_settings(given)
    path = _path_of(settings)
    with commands_audit(settings) as audit:
        say(users.remove(path, name))
        audit.record("user_removed", target={"user": name})
        try:
            left = end_all(settings, name, audit)
        except UserError as error:
            raise UserError(
                f"{name} was removed from {path}, and what tokens there are could not be revoked: {error}; "
                f"run `mlflow-proxy token revoke {name}` when the database answers"
            ) from None
    click.echo(f"{name} was removed from {path}{f'; {told}' if (told := str(left)) else ''}.")


@users_group.command("passwd")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), help="Change the role instead of the password.")
@_stdin_option
@_file_option
def users_passwd(name: str, role: str | None, stdin: bool, **given: str | None) -> None:
    """Change a user's password, or, with --role, the role alone."""
    from proxy.audit.commands import commands_audit

    settings = _users_settings(given)
    path = _path_of(settings)
    if role is not None:
        with commands_audit(settings) as audit:
            say(users.change(path, name, role=Role.parse(role)))
            audit.record("role_changed", target={"user": name}, after=role)
        click.echo(f"{name} is {role} now.")
        return
    password = _new_password(name, stdin)
    with commands_audit(settings) as audit:
        say(users.change(path, name, password=password))
        audit.record("password_changed", target={"user": name})
    click.echo(f"The password of {name} was changed.")


@users_group.command("list")
@_file_option
def users_list(**given: str | None) -> None:
    """List the users and their roles."""
    for user in users.read(_path_of(_users_settings(given))).values():
        click.echo(f"{user.name}\t{user.role.name.lower()}")


def _users_settings(given: dict[str, str | None]) -> Settings:
    return read(given, may_be_absent=("PROXY_USERS_FILE",)).settings


def _path_of(settings: Settings) -> Path:
    if settings.users_file is None:
        raise UserError("PROXY_USERS_FILE is not set; name the file there, or with --users-file")
    return settings.users_file


def _first_user_note(name: str, role: str, *, generated: bool) -> str:
    if generated:
        return (
            f"note: this line takes the place of the user {name} whose password was generated: "
            f"{name} has the password given now and is {role}"
        )
    return (
        f"note: {name} is the user of MLFLOW_TRACKING_PASSWORD too, and a start with both is refused: "
        "unset MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or remove this line"
    )


def _new_password(name: str, stdin: bool) -> str:
    if stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        raise UserError("the password is asked for on a terminal, and this is none; give it with --stdin")
    if (weakness := passwords.weakness(password, name)) is not None:
        raise UserError(f"the password {weakness}; choose another one")
    return password
