"""The commands: they parse, call and print, and hold no logic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from proxy import __version__
from proxy.auth import passwords, users
from proxy.errors import UserError
from proxy.first_start import DEFAULT_USER
from proxy.identity import Role
from proxy.settings import Loaded, Settings, load, options, table

ROLES = [role.name.lower() for role in Role if role]


class _Command(click.Group):
    """A person's mistake is printed as it is, without a stack, and the exit code is 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            for line in str(error).splitlines():
                click.echo(f"mlflow-proxy: {line}", err=True)
            sys.exit(1)


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each setting that is no secret; stronger than every other source."""
    for flag, variable, text in reversed(options()):
        command = click.option(flag, variable, metavar="VALUE", help=f"{text} [{variable}]")(command)
    return command


def _load(given: dict[str, str | None], **more: Any) -> Loaded:
    return load({name: value for name, value in given.items() if value is not None}, **more)


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mlflow-proxy")
def main() -> None:
    """An authenticating, measuring proxy that supervises MLflow's tracking server.

    Every setting is an environment variable, a line of mlflow.env or of config/settings.yaml, or an option
    of `serve` and `check`; docs/settings.md lists them.
    """


@main.command()
@_settings_options
def serve(**given: str | None) -> None:
    """Start MLflow and serve it, until SIGTERM or Ctrl-C."""
    from proxy.serve import serve as run  # the service's libraries take a second to load

    run(_load(given))


@main.command()
@_settings_options
def check(**given: str | None) -> None:
    """Read the settings, say all that is wrong, or print what is in force and where it was set."""
    loaded = _load(given)
    from proxy.check import check as look

    look(loaded)
    click.echo(table(loaded))
    for warning in loaded.warnings:
        click.echo(f"mlflow-proxy: warning: {warning}", err=True)


@main.group("users")
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
    settings = _load(given, may_be_absent=("PROXY_USERS_FILE",)).settings
    path = _path_of(settings)
    _say(users.add(path, name, _new_password(name, stdin), Role.parse(role)))
    click.echo(f"{name} was added to {path} as {role}.")
    if name == (settings.username or DEFAULT_USER):
        _say([_first_user_note(name, role, generated=settings.password is None)])


@users_group.command("remove")
@click.argument("name")
@_file_option
def users_remove(name: str, **given: str | None) -> None:
    """Remove a user, who is refused from that moment on."""
    path = _users_file(given)
    _say(users.remove(path, name))
    click.echo(f"{name} was removed from {path}.")


@users_group.command("passwd")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), help="Change the role instead of the password.")
@_stdin_option
@_file_option
def users_passwd(name: str, role: str | None, stdin: bool, **given: str | None) -> None:
    """Change a user's password, or, with --role, the role alone."""
    path = _users_file(given)
    if role is not None:
        _say(users.change(path, name, role=Role.parse(role)))
        click.echo(f"{name} is {role} now.")
        return
    _say(users.change(path, name, password=_new_password(name, stdin)))
    click.echo(f"The password of {name} was changed.")


@users_group.command("list")
@_file_option
def users_list(**given: str | None) -> None:
    """List the users and their roles."""
    for user in users.read(_users_file(given)).values():
        click.echo(f"{user.name}\t{user.role.name.lower()}")


@main.group("sessions")
def sessions_group() -> None:
    """Who is signed in with a browser, on whatever replica."""


@sessions_group.command("list")
@_settings_options
def sessions_list(**given: str | None) -> None:
    """List the running sessions, the latest used first."""
    from proxy.auth import session

    click.echo(session.table(session.list_sessions(_load(given).settings)))


@sessions_group.command("end")
@click.argument("which")
@_settings_options
def sessions_end(which: str, **given: str | None) -> None:
    """End a session, by the beginning of its id, or all of a user's, by name."""
    from proxy.auth import session

    for ended in session.end_sessions(_load(given).settings, which):
        click.echo(f"ended: {ended.user} ({ended.id[:12]})")


def _users_file(given: dict[str, str | None]) -> Path:
    return _path_of(_load(given, may_be_absent=("PROXY_USERS_FILE",)).settings)


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


def _say(notes: list[str]) -> None:
    for note in notes:
        click.echo(f"mlflow-proxy: {note}", err=True)
