"""/-/admin: how the service is now and was in the last hours, for admins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.exchange import Refused
from proxy.history import History
from proxy.metrics import Metrics
from proxy.pages.answers import HTML, App, Receive, Scope, Send, answer
from proxy.pages.charts import HEIGHT, WIDTH, amount, chart
from proxy.pages.health import Readiness, other_method
from proxy.pages.templating import Page
from proxy.pages.wording import ahead, moment, span

ADMIN = "/-/admin"
SECONDS = 3600.0
"""What the table of operations is about."""
OPERATIONS = 20
"""How many of them it has."""
_PAGE = Page("admin.html")


class State(Readiness, Protocol):
    """MLflow, as `proxy.mlflow_server.MlflowServer` tells of it."""

    @property
    def generation(self) -> int: ...
    @property
    def started_at(self) -> float | None: ...
    @property
    def restarts(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """What the page shows; `sessions` lists those that run and raises Refused; None where nobody has one."""

    prefix: str
    mlflow: State
    metrics: Metrics
    history: History
    probes: Callable[[], Mapping[str, str | None]]
    others: Mapping[str, Callable[[], str | None]]
    """Further checks, as /readyz has them."""
    sessions: Callable[[], Awaitable[Sequence[object]]] | None
    backups: Callable[[], Mapping[str, Mapping[str, Any]]]
    """What is known of the latest ``backup`` and the latest ``drill`` (proxy.backup.state); reads a file."""


def admin(sources: Sources) -> App:
    """The application; who may see it is decided before it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await other_method(scope, send):
            return
        sessions: int | None = None
        if sources.sessions is not None:
            try:
                sessions = len(await sources.sessions())
            except Refused:
                sessions = None  # the database is away, which the page tells
        backups = await asyncio.to_thread(sources.backups)
        body = _PAGE.render(**_values(sources, sessions, backups, time.time()))
        await answer(scope, send, 200, body, HTML, policy=_PAGE.policy)

    return app


def _values(
    sources: Sources, sessions: int | None, backups: Mapping[str, Mapping[str, Any]], now: float
) -> dict[str, object]:
    mlflow, metrics, history = sources.mlflow, sources.metrics, sources.history
    checks = {
        **mlflow.checks(),
        **{name: look() for name, look in sources.others.items()},
        **sources.probes(),
    }
    minutes = list(history.minutes)
    times = [minute.at for minute in minutes]
    since, shares = history.shares(SECONDS)
    tally = metrics.tally()
    active = metrics.active()
    expiry = metrics.certificate_expiry()
    started = mlflow.started_at
    return {
        "prefix": sources.prefix,
        "at": moment(now),
        "width": WIDTH,
        "height": HEIGHT,
        "ready": mlflow.ready,
        "reason": mlflow.reason,
        "failing": any(checks.values()),
        "checks": dict(sorted(checks.items(), key=lambda check: check[1] is None)),
        "generation": mlflow.generation,
        "started": None if started is None else span(now - started),
        "restarts": {reason: number for reason, number in mlflow.restarts.items() if number},
        "memory": amount(minutes[-1].memory, "bytes") if minutes and minutes[-1].memory else None,
        "in_flight": metrics.in_flight - 1,  # this request is none that anybody asks about
        "held": {reason: number for reason, number in metrics.held_requests().items() if number},
        "people": {within: _sum(active, within, "session", "basic") for within in ("15m", "1d")},
        "programs": {within: _sum(active, within, "token", "jwt") for within in ("15m", "1d")},
        "sessions": sessions,
        "certificate": None if expiry is None else (moment(expiry), ahead(expiry - now), expiry < now),
        "backup": _last(backups.get("backup", {}), now),
        "drill": _last(backups.get("drill", {}), now),
        "charts": [
            one
            for one in (
                chart(
                    "Requests a second",
                    times,
                    {
                        "all": [minute.requests for minute in minutes],
                        "failed": [minute.failed for minute in minutes],
                    },
                    "/s",
                ),
                chart(
                    "Duration",
                    times,
                    {
                        "median": [minute.median for minute in minutes],
                        "95 of 100": [minute.slow for minute in minutes],
                    },
                    "s",
                ),
                chart("MLflow's memory", times, {"all": [minute.memory for minute in minutes]}, "bytes"),
            )
            if one is not None
        ],
        "since": span(now - since),
        "shares": [
            {
                "name": share.name,
                "requests": share.requests,
                "failed": share.failed,
                "times": [amount(seconds, "s") for seconds in (share.median, share.slow, share.slowest)],
            }
            for share in shares[:OPERATIONS]
        ],
        "left_out": max(0, len(shares) - OPERATIONS),
        "errors": {name: number for name, number in tally.errors.items() if number},
        "refusals": {name: number for name, number in tally.refusals.items() if number},
        "bytes": (amount(tally.bytes_in, "bytes"), amount(tally.bytes_out, "bytes")),
    }


def _last(known: Mapping[str, Any], now: float) -> dict[str, str | None] | None:
    """When the last good one was, what it came to, and why the latest failed; None where none was begun."""
    if not known:
        return None

    def shown(name: str, unit: str) -> str | None:
        value = known.get(name)
        return amount(value, unit) if isinstance(value, int | float) else None

    good, error = known.get("last_success"), known.get("error")
    return {
        "good": f"{moment(good)}, {span(now - good)}" if isinstance(good, int | float) else None,
        "bytes": shown("bytes", "bytes"),
        "restored_in": shown("restore_seconds", "s"),
        "error": None if error is None else str(error),
    }


def _sum(active: Mapping[tuple[str, str], int], within: str, *methods: str) -> int:
    return sum(active.get((method, within), 0) for method in methods)
