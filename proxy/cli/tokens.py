"""`mlflow-proxy token` and `service-account`: programs' credentials, through the service's database."""

from __future__ import annotations

import time

import click

from proxy.auth.tokens import TokenInfo
from proxy.cli.options import ROLES, places_options, read, say
from proxy.errors import UserError
from proxy.identity import Role

_DAY = 86400.0
USUAL_DAYS = 90.0


@click.group("token")
def tokens_group() -> None:
    """What programs send in place of a password: personal access tokens and service accounts' tokens."""


@tokens_group.command("create")
@click.option("--user", metavar="NAME", help="Whose: a user with a password, or somebody who has signed in.")
@click.option("--service-account", metavar="NAME", help="Whose: a service account.")
@click.option("--name", required=True, metavar="NAME", help="What it is called, among its owner's.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="How long it lasts.  [default: 90]")
@click.option("--role", type=click.Choice(ROLES), help="At most its owner's.  [default: its owner's]")
@click.option("--read-only", is_flag=True, help="It reads and searches, and changes nothing.")
@places_options
def create(
    user: str | None,
    service_account: str | None,
    name: str,
    days: float | None,
    role: str | None,
    read_only: bool,
    **given: str | None,
) -> None:
    """Make a token and print it, this once."""
    from proxy.audit.commands import commands_audit
    from proxy.auth.tokens import commands

    if (user is None) == (service_account is None):
        raise UserError("say whose token it is: --user NAME or --service-account NAME")
    settings = read(given).settings
    usual = min(USUAL_DAYS * _DAY, settings.token_max_lifetime)
    with commands_audit(settings) as audit:
        secret, made = commands.create_token(
            settings,
            user=user,
            service_account=service_account,
            name=name,
            lifetime=usual if days is None else days * _DAY,
            role=None if role is None else Role.parse(role),
            read_only=read_only,
            audit=audit,
        )
    _show(secret, made)


@tokens_group.command("list")
@click.option("--user", metavar="NAME", help="One user's alone; service:NAME for a service account's.")
@places_options
def list_(user: str | None, **given: str | None) -> None:
    """List the tokens, those that count first."""
    from proxy.auth.tokens import commands

    click.echo(commands.table(commands.list_tokens(read(given).settings, user)))


@tokens_group.command("renew")
@click.argument("which")
@click.option("--overlap", metavar="HOURS", type=click.FloatRange(min=0), help="The old one goes on so long.")
@places_options
def renew(which: str, overlap: float | None, **given: str | None) -> None:
    """Make a new token in place of one, by the beginning of its id, and print it, this once."""
    from proxy.audit.commands import commands_audit
    from proxy.auth.tokens import commands

    settings = read(given).settings
    with commands_audit(settings) as audit:
        seconds = None if overlap is None else overlap * 3600
        _show(*commands.renew_token(settings, which, seconds, audit))


@tokens_group.command("revoke")
@click.argument("which")
@places_options
def revoke(which: str, **given: str | None) -> None:
    """Revoke a token, by the beginning of its id, or all of a user's, by name."""
    from proxy.audit.commands import commands_audit
    from proxy.auth.tokens import commands

    settings = read(given).settings
    with commands_audit(settings) as audit:
        for revoked in commands.revoke_tokens(settings, which, audit):
            click.echo(f"revoked: {revoked.name} of {revoked.user} ({revoked.id})")


@click.group("service-account")
def service_accounts_group() -> None:
    """Accounts that belong to no person, for jobs and CI; their users are called service:NAME."""


@service_accounts_group.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="editor", show_default=True)
@click.option("--description", default="", metavar="TEXT", help="What it is for, and whom to ask about it.")
@places_options
def add_account(name: str, role: str, description: str, **given: str | None) -> None:
    """Make a service account; `mlflow-proxy token create --service-account NAME` gives it a token."""
    from proxy.audit.commands import commands_audit
    from proxy.auth.tokens import commands

    settings = read(given).settings
    with commands_audit(settings) as audit:
        made = commands.add_service_account(settings, name, Role.parse(role), description, audit)
    click.echo(f"{made.name} was made, as {made.role.name.lower()}; its user name is {made.user}.")


@service_accounts_group.command("remove")
@click.argument("name")
@places_options
def remove_account(name: str, **given: str | None) -> None:
    """Remove a service account and revoke its tokens."""
    from proxy.audit.commands import commands_audit
    from proxy.auth.tokens import commands

    settings = read(given).settings
    with commands_audit(settings) as audit:
        ended = commands.remove_service_account(settings, name, audit)
    click.echo(f"{name} was removed, and {ended} {'token was' if ended == 1 else 'tokens were'} revoked.")


@service_accounts_group.command("list")
@places_options
def list_accounts(**given: str | None) -> None:
    """List the service accounts."""
    from proxy.auth.tokens import commands

    click.echo(commands.accounts_table(commands.list_service_accounts(read(given).settings)))


def _show(secret: str, made: TokenInfo) -> None:
    """The secret alone on standard output, so that it can be piped to where it belongs."""
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.expires))
    only = ", read-only" if made.read_only else ""
    role = made.role.name.lower()
    say(
        [f"token {made.id} ({made.name}) of {made.user}, {role}{only}, until {until}; it is shown this once:"]
    )
    click.echo(secret)
