"""`mlflow-proxy review`: what in the logs is unusual."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.errors import UserError


def _thresholds(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from proxy.review.thresholds import described

        for name, default, text in described():
            click.echo(f"{name:20} {default:>5}  {text}")
        context.exit()


@click.command("review")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "html"]), default="text", show_default=True,
    help="How to tell it; html is one page with charts, which needs nothing else.",
)  # fmt: skip
@click.option(
    "--learned", metavar="FILE", type=click.Path(path_type=Path),
    help="Keep what is usual in FILE: the next review goes on from there.",
)  # fmt: skip
@click.option(
    "--set", "given", metavar="NAME=VALUE", multiple=True, help="Another threshold; may be repeated."
)
@click.option(
    "--thresholds", is_flag=True, is_eager=True, expose_value=False, callback=_thresholds,
    help="List the thresholds, and end.",
)  # fmt: skip
def review_command(files: tuple[str, ...], form: str, learned: Path | None, given: tuple[str, ...]) -> None:
    """Look through access and audit logs for what is unusual.

    FILES are logs in JSON, of one service or several, in any order: plain, gzip or zstd; - is standard input,
    and a quoted pattern ('/var/log/mlflow/access.log*') stands for the files that match it. What is usual is
    learned from the log's first days; docs/review.md says what is found, and what can't be.

    Exit code 0: nothing found; 1: findings; 2: not all could be read, or a mistake in the options.
    """
    from proxy.review import learned as memory
    from proxy.review.page import as_html
    from proxy.review.review import review
    from proxy.review.telling import as_json, as_text
    from proxy.review.thresholds import Thresholds

    try:
        thresholds = Thresholds().changed(given)
        known = None if learned is None else memory.load(learned)
        report = review(files, thresholds, known, progress=sys.stderr.isatty())
        if form == "json":
            click.echo(as_json(report), nl=False)
        else:
            click.echo(as_text(report) if form == "text" else as_html(report))
        for trouble in report.troubles:
            click.echo(f"mlflow-proxy: not read: {trouble}", err=True)
        if learned is not None and not report.troubles:
            memory.save(learned, report.learned)
    except UserError as error:
        click.echo(f"mlflow-proxy: {error}", err=True)
        sys.exit(2)
    sys.exit(report.exit_code)
