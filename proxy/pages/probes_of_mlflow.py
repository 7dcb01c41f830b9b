"""MLflow's own /version and /health, answered here: both are asked without a credential, so neither waits."""

from __future__ import annotations

import importlib.metadata
from typing import Protocol

from proxy.pages.answers import TEXT, App, Receive, Scope, Send, answer

_VERSION = importlib.metadata.version("mlflow").encode("ascii")
_RETRY_AFTER = ((b"retry-after", b"2"),)


class Mlflow(Protocol):
    """Whether requests reach it."""

    @property
    def up(self) -> bool: ...


async def version(scope: Scope, receive: Receive, send: Send) -> None:
    """The installed MLflow's version, as mlflow/server/__init__.py answers it.

    MLflow's client waits 3 s for it and asks once (mlflow/store/tracking/rest_store.py); without an answer
    it logs traces in an older way.
    """
    await answer(scope, send, 200, _VERSION, TEXT)


def health(mlflow: Mlflow) -> App:
    """The application: 200 and "OK" while requests reach MLflow, else 503 at once.

    A load balancer that asks MLflow's own probe learns what MLflow would say, and nobody without a
    credential takes a place among those who wait. /readyz says more: whether the database is reached.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if mlflow.up:
            await answer(scope, send, 200, b"OK", TEXT)
        else:
            await answer(scope, send, 503, b"MLflow is not up", TEXT, headers=_RETRY_AFTER)

    return app
