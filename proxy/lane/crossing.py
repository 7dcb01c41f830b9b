"""One plain request that was sent to MLflow and waits for its answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from proxy import compression
from proxy.exchange import Exchange, Refused
from proxy.forward import ClientGone, Sent
from proxy.headers import Asked, Headers, lines
from proxy.http1 import Connection
from proxy.slots import Slots
from proxy.watchdog import Passage

if TYPE_CHECKING:
    from proxy.lane.lane import Lane
    from proxy.lane.queued import Queued

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHORT = compression.LEAST
"""Bytes: an answer of fewer is waited for as a whole; a longer one streams, or is compressed, as ever."""
# 204 and 304 have no body to frame; 500 and 503 may be words of MLflow's that are not passed on.
_NOT_PLAIN = frozenset({204, 304, 500, 503})


class Client(Protocol):
    """A client's connection (proxy.protocol)."""

    crossing: Crossing | Queued | None
    """What it waits for, where that is no application's answer."""

    def unsent(self) -> int: ...

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Answer the request under way: `head` has all of its headers' lines, but for Date."""

    def carry_on(self, app: App, scope: Scope, body: bytes) -> None:
        """Have that application answer it, in a task of its own."""


class House(Protocol):
    """Where the requests under way are counted."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...


class Request(NamedTuple):
    """A plain request that is let through."""

    client: Client
    scope: Scope
    asked: Asked
    exchange: Exchange
    slots: Slots | None
    body: bytes
    """As it came."""
    data: bytes
    """As MLflow gets it."""
    house: House


class Crossing(Passage):
    """Such a request, with a place taken for it, from when it is sent."""

    __slots__ = ("_connection", "_lane", "_request", "_under_way")

    def __init__(self, lane: Lane, request: Request, connection: Connection) -> None:
        rules = lane.forwarder.rules
        super().__init__(
            None,
            request.exchange,
            abandon_for=rules.abandoned,
            stall=rules.stall,
            unsent=request.client.unsent,
        )
        self._lane = lane
        self._request = request
        self._connection = connection
        self._under_way = True

    def send(self, head: bytes) -> None:
        """Send it, and wait to be told."""
        ours, exchange, request = self._lane.forwarder, self.exchange, self._request
        assert exchange.operation is not None
        request.client.crossing = self
        if request.body:
            exchange.bytes_in = len(request.body)
            ours.hold.take(len(request.body))
        ours.watchdog.passages.add(self)
        self.left_with_mlflow = not exchange.operation.native
        self.deadline = self._lane.now() + ours.rules.answer
        exchange.mlflow_started = time.perf_counter()
        self._connection.told = self._told
        self._connection.send_head(head + request.data, head_only=False)

    def _told(self) -> None:
        connection = self._connection
        if connection.complete:
            if connection.status not in _NOT_PLAIN and (connection.length or SHORT) < SHORT:
                self._answer()
                return
        elif connection.open and (not connection.status or (connection.length or SHORT) < SHORT):
            return  # the rest is on its way
        self.carry_on()

    def _answer(self) -> None:
        ours, exchange, connection = self._lane.forwarder, self.exchange, self._connection
        request = self._request
        status = connection.status
        headers: Headers = []
        if connection.known is not None:
            head = self._lane.passed_back(connection.known)
        else:
            head = b""
            headers = self._lane.for_client(connection.headers, status)
        body = connection.whole()
        self._stop()
        exchange.mlflow_ended = time.perf_counter()
        ours.pool.release(connection)
        if request.body:
            ours.hold.give(len(request.body))
        if request.slots is not None:
            assert exchange.identity is not None
            request.slots.leave(exchange.identity.user)
        headers = self._lane.edge.begins(exchange, status, headers)
        exchange.bytes_out = len(body)
        request.client.answer(status, head + lines(headers), body)
        self._lane.edge.over(exchange, request.scope["query_string"])
        request.house.leave()

    def _stop(self) -> None:
        self._under_way = False
        self._connection.told = None
        self._request.client.crossing = None
        self._lane.forwarder.watchdog.passages.discard(self)

    def carry_on(self) -> None:
        """Go on in the ordinary way: something is not plain any more."""
        if not self._under_way:
            return
        self._stop()
        lane, request = self._lane, self._request
        request.scope["sent"] = Sent(self, self._connection, request.data, len(request.body))
        lane.carry_on(request, lane.forwarder, b"")

    def client_left(self) -> None:
        """As ever; and there is nobody any more who could be answered at once."""
        super().client_left()
        self.carry_on()

    def stop(self) -> None:
        """Have what ends it, which `why` tells, be dealt with in the ordinary way."""
        if self.task is None:
            self.carry_on()
        else:
            super().stop()


def raising(error: Refused | ClientGone) -> App:
    """An application that ends with that."""

    async def raising(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return raising
