"""The page that a browser gets while MLflow is away: it says why, and shows MLflow when it is ready."""

from __future__ import annotations

from typing import Protocol

from proxy.exchange import Exchange
from proxy.pages.answers import HTML, App, Receive, Scope, Send, answer
from proxy.pages.errors import is_navigation
from proxy.pages.health import Readiness
from proxy.pages.templating import Page

RETRY_AFTER = 2
"""Seconds: how soon the page without scripts asks again, and what Retry-After says."""


class Mlflow(Readiness, Protocol):
    """Readiness, and whether requests reach it at all."""

    @property
    def up(self) -> bool: ...


_PAGE = Page("waiting.html", script="waiting.js")


def waiting(state: Readiness, prefix: str = "") -> App:
    """The application: 503 and the page, for any path that a browser navigates to (`errors.is_navigation`).

    The page asks `<prefix>/readyz` every second and then loads its own address again, fragment and all
    (MLflow's UI keeps its routes there). `prefix` is the public URL's path, without a slash at its end.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        exchange.status = 503
        exchange.refusal = "not_ready"
        body = _PAGE.render(
            ready=f"{prefix}/readyz",
            reason=state.reason or "MLflow is starting",
            request_id=exchange.request_id,
            retry_after=RETRY_AFTER,
        )
        headers = ((b"retry-after", b"%d" % RETRY_AFTER),)
        await answer(scope, send, 503, body, HTML, headers=headers, policy=_PAGE.policy)

    return app


def unless_up(state: Mlflow, app: App, prefix: str = "") -> App:
    """`app`, or the waiting page where a browser navigates while no MLflow would take its request."""
    page = waiting(state, prefix)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (page if not state.up and is_navigation(scope) else app)(scope, receive, send)

    return either
