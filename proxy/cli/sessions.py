"""`mlflow-proxy sessions`: who is signed in with a browser."""

from __future__ import annotations

import click

from proxy.cli.options import places_options, read


@click.group("sessions")
def sessions_group() -> None:
    """Who is signed in with a browser, on whatever replica."""


@sessions_group.command("list")
@places_options
def sessions_list(**given: str | None) -> None:
    """List the running sessions, the latest used first."""
    from proxy.auth import session

    click.echo(session.table(session.list_sessions(read(given).settings)))


@sessions_group.command("end")
@click.argument("which")
@places_options
def sessions_end(which: str, **given: str | None) -> None:
    """End a session, by the beginning of its id, or all of a user's, by name."""
    from proxy.audit.commands import commands_audit
    from proxy.auth import session

    settings = read(given).settings
    with commands_audit(settings) as audit:
        for ended in session.end_sessions(settings, which):
            audit.record("session_ended", target={"session": ended.id, "user": ended.user})
            click.echo(f"ended: {ended.user} ({ended.id[:12]})")
