"""`mlflow-proxy doctor`: looks at everything the service hangs on, and says how to mend what fails."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from proxy.cli.options import settings_options
from proxy.errors import UserError

_MOST = 256 * 1024


def _listed(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from proxy.doctor.checks import CHECKS

        for check in CHECKS:
            click.echo(f"{check.name:10} {check.about}")
        context.exit()


@click.command("doctor")
@click.argument("checks", nargs=-1, metavar="[CHECK]...")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_listed,
    help="List the checks, and end.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Tell it as JSON.")
@click.option("--quick", is_flag=True, help="Leave out what takes a minute: how long the terminator waits.")
@click.option("--url", metavar="URL", help="Another address to look at the service from outside.")
@click.option(
    "--ca", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of authorities to believe at the public URL, beside the system's.",
)  # fmt: skip
@click.option(
    "--token-file", metavar="FILE", help="A token of the identity provider's to look at; - is standard input."
)
@click.option(
    "--patience", type=click.FloatRange(0.1, 100), default=1.0, show_default=True, metavar="FACTOR",
    help="What every check's time limit is multiplied with.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print where a check itself has failed.")
@settings_options
def doctor_command(
    checks: tuple[str, ...],
    as_json: bool,
    quick: bool,
    url: str | None,
    ca: Path | None,
    token_file: str | None,
    patience: float,
    verbose: bool,
    **given: str | None,
) -> None:
    """Look at everything the service hangs on, and say how to mend what fails.

    Without CHECK all are made; --list names them. Safe in production: it changes no setting, restarts
    nothing, and removes what it makes. Run it as the service's user; where a service manager gives the
    service its settings, name its data directory (--data-dir), and they are read as the service reads them.

    Exit code 0: nothing is wrong; 1: warnings; 2: something fails, or can't be looked at.
    """
    from proxy.doctor.case import Asked, open_case
    from proxy.doctor.checks import CHECKS, NAMES
    from proxy.doctor.examination import examine
    from proxy.doctor.result import exit_code
    from proxy.doctor.telling import as_json as in_json
    from proxy.doctor.telling import as_text, heading, summary

    logging.basicConfig(level=logging.DEBUG if verbose else logging.CRITICAL)
    logging.getLogger("proxy").setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    try:
        if unknown := [name for name in checks if name not in NAMES]:
            raise UserError(f"there is no check {unknown[0]!r}: {', '.join(NAMES)}")
        if url is not None and not url.startswith(("http://", "https://")):
            raise UserError("--url: begins with http:// or https://")
        asked = Asked(url, ca, None if token_file is None else _token(token_file), quick, patience)
        case = open_case({name: value for name, value in given.items() if value is not None}, asked)
    except UserError as error:
        for line in str(error).splitlines():
            click.echo(f"mlflow-proxy: {line}", err=True)
        sys.exit(2)
    mask = case.masked()
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    reports = []
    if not as_json:
        click.echo(heading(case))
    for report in examine(case, [check for check in CHECKS if not checks or check.name in checks]):
        reports.append(report)
        if not as_json:
            click.echo(as_text(report, mask, colours=colours), color=colours)
    click.echo(in_json(case, reports, mask) if as_json else summary(reports, colours=colours), color=colours)
    code = exit_code({result.outcome for report in reports for result in report.results})
    sys.stdout.flush()
    # Threads of checks that stand still are left to themselves, and would be waited for.
    os._exit(code)


def _token(path: str) -> str:
    """Raises UserError. Never an argument: any local user can read those."""
    try:
        if path == "-":
            text = sys.stdin.read(_MOST)
        else:
            with Path(path).open(encoding="ascii") as file:
                text = file.read(_MOST)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise UserError(f"--token-file: {path} can't be read ({reason})") from None
    token = text.strip().removeprefix("Bearer ").strip()
    if not token or any(character.isspace() for character in token):
        raise UserError("--token-file: holds one token and nothing else")
    return token
