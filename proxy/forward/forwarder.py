"""The application: one trip for each request, and what ends it early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from proxy import verified_names
from proxy.exchange import Exchange
from proxy.forward.spool import Spool
from proxy.forward.trip import Sent, Trip
from proxy.hold import Hold
from proxy.http1 import Broken, Pool
from proxy.slots import Places
from proxy.watchdog import Passage, Watchdog

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What bounds and rewrites an exchange. Times are in seconds, sizes in bytes."""

    authority: bytes
    """MLflow's own ``host:port``: the Host it gets, and what its redirects name."""
    prefix: bytes
    """The public URL's path, without a slash at its end."""
    direct_artifacts: bool
    body_limit: int
    """Of a body on any route but the artifact streams, which `stall` alone bounds."""
    stall: float
    """How long a stream may stand still, on either side."""
    answer: float
    """How long MLflow may be silent once it has the whole request, or between two events."""
    abandoned: float
    """How long MLflow is waited for when the client has left."""
    verified_names: bool
    """Whether runs and logged models bear the verified names of who made them (PROXY_VERIFIED_NAMES)."""
    compress: bool
    """Whether larger JSON answers are compressed for clients that take them so (PROXY_COMPRESSION)."""


class Forwarder:
    """An ASGI application. The gate has put the canonical path in ``scope["raw_path"]``."""

    def __init__(
        self,
        pool: Pool,
        hold: Hold,
        watchdog: Watchdog,
        rules: Rules,
        *,
        places: Places,
        spool: Spool,
    ) -> None:
        self.pool = pool
        self.spool = spool
        self.hold = hold
        self.watchdog = watchdog
        self.rules = rules
        self.authorities = (rules.authority, b"localhost", b"127.0.0.1")
        self.places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        task = asyncio.current_task()
        assert task is not None
        lost = scope["connection_lost"]
        sent: Sent | None = scope.pop("sent", None)
        if sent is None:
            passage = Passage(
                task,
                exchange,
                abandon_for=self.rules.abandoned,
                stall=self.rules.stall,
                unsent=scope["unsent"],
            )
        else:
            passage, passage.task = sent.passage, task
        trip = Trip(self, scope, receive, send, passage, sent)
        if lost.over and sent is None:
            trip.fail("client_gone")  # it left while its password was looked at
        lost.add(passage.client_left)
        self.watchdog.passages.add(passage)
        try:
            await trip.run()
        except asyncio.CancelledError:
            if not passage.ours():
                exchange.error = "cut_short"
                raise
            assert passage.why is not None
            trip.fail(passage.why)
        except Broken as broken:
            trip.fail(broken.reason)
        finally:
            self.watchdog.passages.discard(passage)
            lost.discard(passage.client_left)
            trip.clean_up()

    def verified(self, exchange: Exchange, body: bytes) -> bytes:
        """The body to send, once names in it are the verified ones. Raises Refused."""
        operation = exchange.operation
        assert operation is not None
        if not self.rules.verified_names or operation.name not in verified_names.OPERATIONS:
            return body
        assert exchange.identity is not None  # none of those is open to everybody
        return verified_names.checked(operation, exchange.path, body, exchange.identity)
