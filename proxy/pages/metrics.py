"""/metrics: the page that Prometheus scrapes; who may is decided before it."""

from __future__ import annotations

import asyncio

from proxy.metrics import Metrics
from proxy.pages.answers import App, Receive, Scope, Send, answer
from proxy.pages.health import other_method


def metrics(source: Metrics) -> App:
    """The application: the numbers in OpenMetrics or Prometheus' own format, built in a thread."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await other_method(scope, send):
            return
        accept = b", ".join(value for name, value in scope["headers"] if name == b"accept")
        content_type, body = await asyncio.to_thread(source.render, accept.decode("latin-1"))
        await answer(scope, send, 200, body, content_type)

    return app
