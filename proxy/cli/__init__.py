"""The commands: they parse, call and print, and hold no logic."""

from __future__ import annotations

import sys
from typing import Any

import click
from mlflow_proxy_client import cli as client

from proxy import __version__
from proxy.cli.audit import audit_group
from proxy.cli.backup import backup_group
from proxy.cli.doctor import doctor_command
from proxy.cli.drill import drill_command
from proxy.cli.options import places_options, read, settings_options
from proxy.cli.restore import restore_command
from proxy.cli.review import review_command
from proxy.cli.sessions import sessions_group
from proxy.cli.tokens import service_accounts_group, tokens_group
from proxy.cli.users import users_group
from proxy.errors import UserError
from proxy.settings import table


class _Command(click.Group):
    """A person's mistake is printed as it is, without a stack, and the exit code is 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            for line in str(error).splitlines():
                click.echo(f"mlflow-proxy: {line}", err=True)
            sys.exit(1)


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mlflow-proxy")
def main() -> None:
    """An authenticating, measuring proxy that supervises MLflow's tracking server.

    Every setting is an environment variable, a line of mlflow.env or of config/settings.yaml, or an option
    of `serve` and `check`; docs/settings.md lists them.
    """


@main.command()
@settings_options
def serve(**given: str | None) -> None:
    """Start MLflow and serve it, until SIGTERM or Ctrl-C."""
    from proxy.serve import serve as run  # the service's libraries take a second to load

    run(lambda: read(given), (lambda text: click.confirm(text, err=True)) if sys.stdin.isatty() else None)


@main.command()
@settings_options
def check(**given: str | None) -> None:
    """Read the settings, say all that is wrong, or print what is in force and where it was set."""
    loaded = read(given)
    from proxy.check import check as look

    look(loaded)
    click.echo(table(loaded))
    for warning in loaded.warnings:
        click.echo(f"mlflow-proxy: warning: {warning}", err=True)


@main.command()
@places_options
@click.option("--roll", is_flag=True, help="Restart MLflow even where nothing of its part has changed.")
def reload(roll: bool, **given: str | None) -> None:
    """Have the running service read settings, secrets, users and certificates again.

    Where MLflow's part has changed, a second MLflow is started and takes over when it is ready; no request
    fails. A mistake changes nothing, is said here, and the exit code is 1. SIGHUP does the same, with the
    result in the log.
    """
    from proxy.cli.reload import reload as run

    run(given, roll=roll)


@main.command()
@settings_options
@click.option("--yes", is_flag=True, help="There is a backup: don't ask.")
@click.option("--create", is_flag=True, help="Make the tables of an empty database too, MLflow's and ours.")
@click.option("--wait", is_flag=True, help="Change nothing: wait until somebody else has done it.")
def migrate(yes: bool, create: bool, wait: bool, **given: str | None) -> None:
    """Bring the database of an older MLflow to the version of the installed one; the service is stopped.

    SQLite's file is copied aside first. Of any other database you make the backup. Where several replicas
    start on one database, one job runs this with --create and they wait for it with --wait.
    """
    from proxy.cli.migrate import migrate as run
    from proxy.cli.migrate import wait as wait_for

    if wait:
        wait_for(read(given))
    else:
        run(read(given), yes=yes, create=create)


@main.command()
@click.option(
    "--ready", is_flag=True, help="Whether MLflow can be used (/readyz), not only the proxy (/livez)."
)
@click.option(
    "--timeout", default=5.0, show_default=True, type=click.FloatRange(min=0.1, max=300),
    help="Seconds to wait for the answer.",
)  # fmt: skip
@settings_options
def healthcheck(ready: bool, timeout: float, **given: str | None) -> None:
    """Ask the service on this machine how it is; exit code 0: well, 1: not. For container engines."""
    from proxy.cli.healthcheck import healthcheck as run

    run(read(given).settings, ready=ready, seconds=timeout)


for _group in (users_group, sessions_group, tokens_group, service_accounts_group, audit_group):
    main.add_command(_group)
main.add_command(review_command)
main.add_command(backup_group)
main.add_command(restore_command)
main.add_command(drill_command)
main.add_command(doctor_command)
# The same as on machines that have the client alone.
for _command in (client.login, client.logout, client.whoami):
    main.add_command(_command)
