"""The command `mlflow-proxy`: the server's where that is installed, else login, logout and whoami alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from functools import wraps
from importlib.metadata import entry_points
from typing import Any

import click

from mlflow_proxy_client import __version__, mlflow_file
from mlflow_proxy_client import login as rooms
from mlflow_proxy_client.addresses import server_url
from mlflow_proxy_client.credentials import CredentialsFile
from mlflow_proxy_client.errors import Problem, plain
from mlflow_proxy_client.server import PASSWORD, PROVIDER, Server

_DAY = 86400


def main() -> None:
    """Run it. One script for both: two distributions that own one file take it away from each other."""
    for server in entry_points(group="mlflow_proxy.server"):
        server.load()()
        return
    client()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mlflow-proxy-client")
def client() -> None:
    """Sign MLflow's client in to a server behind mlflow-proxy."""


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """A person's problem is printed as it is, without a stack, and the exit code is 1."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except Problem as error:
            _say(str(error))
            sys.exit(1)
        except KeyboardInterrupt:
            _say("stopped")
            sys.exit(130)

    return run


def _say(text: str) -> None:
    click.echo(f"mlflow-proxy: {text}", err=True)


@client.command()
@click.argument("url")
@click.option("--device", "way", flag_value="device", help="Sign in with a browser on another machine.")
@click.option("--browser", "way", flag_value="browser", help="Sign in with the browser of this machine.")
@click.option("--no-browser", is_flag=True, help="As --browser, but only show the address to open.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port of 127.0.0.1 it comes back to. [any]")
@click.option("--with-token", is_flag=True, help="Read a token from standard input and keep that.")
@click.option("--username", metavar="NAME", help="Sign in with a password; it is asked for.")
@click.option("--name", metavar="NAME", help="What to call the token. [login on <this machine>]")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="How long the token is to last.")
@click.option("--no-token", is_flag=True, help="Make no token: for MLFLOW_TRACKING_AUTH=mlflow-proxy alone.")
@click.option(
    "--force", is_flag=True, help="Replace another credential, or sign in with another server's audience."
)
@_told
def login(
    url: str,
    way: str | None,
    no_browser: bool,
    port: int | None,
    with_token: bool,
    username: str | None,
    name: str | None,
    days: float | None,
    no_token: bool,
    force: bool,
) -> None:
    """Sign in to the MLflow server at URL, for every later call of MLflow's client.

    With its identity provider: in the browser of this machine where there is one, else with a code that is
    entered on another. What comes of it is kept in ~/.mlflow, for you alone.
    """
    _check_choice(with_token=with_token, username=username, way=way or no_browser, no_token=no_token)
    server, file = Server(server_url(url)), CredentialsFile()
    wishes = rooms.Wishes(
        way="browser" if no_browser else way,
        open_browser=not no_browser,
        port=port or 0,
        keep_token=not no_token,
        name=name,
        lifetime=None if days is None else days * _DAY,
        any_audience=force,
    )
    if not (no_token or force):
        rooms.check_mlflow_file(file)
    if with_token:
        entry = rooms.by_token(server, sys.stdin.readline().strip())
    else:
        if username is None and not wishes.way and sys.stdin.isatty():
            username = _asked_user(server)
        entry = (
            rooms.by_provider(server, wishes, file.read(), _say)
            if username is None
            else rooms.by_password(server, username, _asked_password(), wishes)
        )
    rooms.keep(file, server, entry, _say)
    click.echo(f"Signed in to {server.url} as {plain(entry.user)}.")
    if entry.token is not None:
        click.echo(
            f"The token {plain(entry.token.name)!r} is in {mlflow_file.path()}{_until(entry.token.expires)}; "
            f"MLflow's client takes it from there."
        )
    else:
        click.echo(f"The sign-in is in {file.path}; MLFLOW_TRACKING_AUTH=mlflow-proxy uses and renews it.")
    if os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/") != server.url:
        click.echo(f"Set MLFLOW_TRACKING_URI={server.url} where it is to be used.")
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        if entry.token is not None and os.environ.get(variable):
            _say(f"note: {variable} is set and counts before ~/.mlflow/credentials; unset it")


@client.command()
@click.argument("url", required=False)
@_told
def logout(url: str | None) -> None:
    """Revoke and remove what login left here for the server at URL."""
    file = CredentialsFile()
    server = rooms.chosen_server(file, url)
    problems = rooms.logout(file, server)
    click.echo(f"Signed out of {server.url} here.")
    for problem in problems:
        _say(f"could not be revoked, and counts until it expires: {problem}")
    if problems:
        sys.exit(1)


@client.command()
@click.argument("url", required=False)
@_told
def whoami(url: str | None) -> None:
    """Show who the server at URL takes MLflow's client for here, and until when."""
    file = CredentialsFile()
    server = rooms.chosen_server(file, url)
    answer, source = rooms.whoami(file, server)
    if answer.status != 200:
        raise Problem(
            plain(answer.text("message") or f"{server.url} does not take the credential of {source}")
        )
    click.echo(f"{plain(answer.text('user'))} ({plain(answer.text('role'))}) at {server.url}")
    credential = answer.data.get("credential")
    if isinstance(credential, dict):
        name = plain(credential.get("name") or credential.get("id"))
        only = ", read-only" if credential.get("read_only") is True else ""
        kind = "token" if answer.text("method") == "token" else "access token of"
        click.echo(f"with the {kind} {name!r}{only}{_until(credential.get('expires'))}")
    click.echo(f"from {source}")


def _check_choice(*, with_token: bool, username: str | None, way: str | bool, no_token: bool) -> None:
    if sum(map(bool, (with_token, username, way))) > 1:
        raise Problem("--with-token, --username and the identity provider exclude each other; choose one")
    if no_token and (with_token or username):
        raise Problem("--no-token keeps a sign-in with the identity provider alone, and this is none")


def _asked_user(server: Server) -> str | None:
    methods = server.sign_in().methods
    return click.prompt("User name", err=True) if PROVIDER not in methods and PASSWORD in methods else None


def _asked_password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def _until(expires: object) -> str:
    """Until when, for a person, in their own time zone."""
    if not isinstance(expires, (int, float)):
        return ""
    try:
        return f" until {datetime.fromtimestamp(expires, timezone.utc).astimezone():%Y-%m-%d %H:%M %Z}"
    except (OverflowError, ValueError, OSError):
        return ""
