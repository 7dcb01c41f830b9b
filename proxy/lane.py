"""The lane for plain requests: small ones of a caller who is remembered, while MLflow is up and has a place.

Such a request is sent to MLflow, and its answer to the client, in the very calls by which the event loop
says that they are there: without a task and without ASGI, at half the cost. What is decided is decided by
the same functions as ever (edge, gate, headers, verified names, places); here they are only called in turn.
Whatever is not plain goes the ordinary way: from its beginning, where nothing was done yet, or on from where
it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from proxy import compression, gate
from proxy.edge import Edge
from proxy.exchange import Exchange, Refused
from proxy.forward import Forwarder, Sent
from proxy.headers import Asked, Headers, for_client, lines, passed_on, said_by_us
from proxy.http1 import Connection
from proxy.operations import Access
from proxy.slots import Slots
from proxy.watchdog import Passage

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHORT = compression.LEAST
"""Bytes: an answer of fewer is waited for as a whole; a longer one streams, or is compressed, as ever."""
# Below these are MLflow's API and nothing of its pages. Not the gateway: there, two credentials may come.
_BELOW = ("/api/", "/ajax-api/", "/graphql")
_PLAIN_ACCESS = frozenset({Access.READ, Access.WRITE})
# 204 and 304 have no body to frame; 500 and 503 may be words of MLflow's that are not passed on.
_NOT_PLAIN = frozenset({204, 304, 500, 503})
_ROUTES = 4096
# What the ways of so many paths may hold is bounded by this: nobody is known yet when one is looked up.
_LONGEST_PATH = 256

log = logging.getLogger("proxy.lane")


class Client(Protocol):
    """A client's connection (proxy.protocol)."""

    crossing: Crossing | None
    """What it waits for, where that is no application's answer."""

    def unsent(self) -> int: ...

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the request under way: those are all of its headers, but for Date."""

    def carry_on(self, app: App, scope: Scope, body: bytes) -> None:
        """Have that application answer it, in a task of its own."""


class House(Protocol):
    """Where the requests under way are counted."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...


class _Way(NamedTuple):
    route: gate.Route
    slots: Slots | None


class Lane:
    """One listener's. `edge`, `the_gate` and `forwarder` are those of the ordinary way."""

    def __init__(self, edge: Edge, the_gate: gate.Gate, forwarder: Forwarder) -> None:
        self.edge = edge
        self._gate = the_gate
        self.forwarder = forwarder
        self._way = lru_cache(_ROUTES)(self._way_of)
        self.now = asyncio.get_running_loop().time
        self._to_mlflow = lines([(b"host", forwarder.rules.authority)])

    def cross(self, client: Client, scope: Scope, asked: Asked, body: bytes, house: House) -> bool:
        """Take a request that has come as a whole. False where it is not plain, and nothing has happened."""
        ours = self.forwarder
        if len(scope["raw_path"]) > _LONGEST_PATH:
            return False
        way = self._way(scope["method"], scope["raw_path"])
        if way is None or not asked.plain or len(body) > ours.rules.body_limit:
            return False
        if not ours.hold.mlflow.up or not ours.pool.has_idle:
            return False
        exchange = self.edge.arrival(scope, asked)
        try:
            app = self._gate.at_once(way.route, exchange, asked)
            if app is None:
                return False
            scope["path"], scope["raw_path"] = way.route.path
            if self._send(client, scope, asked, body, way.slots, exchange, house):
                return True
        except Refused as refused:
            app = _raising(refused)
        self.edge.enters()
        house.enter()
        client.carry_on(self.carried(app, exchange, house), scope, body)
        return True

    def carried(self, app: App, exchange: Exchange, house: House) -> App:
        """`app` at the end of the ordinary way, for a request that has entered already."""

        async def carried(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await self.edge.carry(app, exchange, scope, receive, send)
            finally:
                house.leave()

        return carried

    def _send(
        self,
        client: Client,
        scope: Scope,
        asked: Asked,
        body: bytes,
        slots: Slots | None,
        exchange: Exchange,
        house: House,
    ) -> bool:
        """Send it to MLflow, if nothing is in the way. Raises Refused."""
        ours, identity = self.forwarder, exchange.identity
        assert identity is not None
        data = ours.verified(exchange, body)
        if slots is not None and not slots.enter(identity.user):
            return False
        connection = ours.pool.idle()
        if connection is None or not ours.hold.room_for(len(body)):
            if connection is not None:
                ours.pool.release(connection)
            if slots is not None:
                slots.leave(identity.user)
            return False
        self.edge.enters()
        house.enter()
        crossing = Crossing(self, client, scope, exchange, slots, connection, body, data, house)
        client.crossing = crossing
        crossing.send(self._head(scope, asked, exchange, len(data)))
        return True

    def _head(self, scope: Scope, asked: Asked, exchange: Exchange, length: int) -> bytes:
        """As Trip makes it, from what a connection's requests have in common."""
        traced = exchange.trace is not None
        if (passed := asked.passed.get(traced)) is None:
            passed = asked.passed[traced] = lines(
                passed_on(asked.headers, gateway=False, provider_key=False, traced=traced)
            )
        ours = said_by_us(
            exchange,
            exchange.identity,
            gateway=False,
            body_length=length if length or asked.length is not None else None,
            chunked=False,
        )
        query = scope["query_string"]
        return b"%s %s%s%s HTTP/1.1\r\n%s%s%s\r\n" % (
            scope["method"].encode("ascii"),
            scope["raw_path"],
            b"?" if query else b"",
            query,
            self._to_mlflow,
            passed,
            lines(ours),
        )

    def _way_of(self, method: str, raw_path: bytes) -> _Way | None:
        """Where a request goes, if that is plain; for any other one, refused ones too, None."""
        route = self._gate.route(method, raw_path)
        if route is None or method == "HEAD" or not route.path.decoded.startswith(_BELOW):
            return None
        operation = route.operation
        plain = (
            operation.access in _PLAIN_ACCESS
            and operation.answer == "plain"
            and operation.body != "stream"
            and not operation.submits_job
            and operation.name != "server-info"  # its answer is rewritten
        )
        if not plain:
            return None
        slots = self.forwarder.places.of(operation)
        return _Way(route, slots) if slots is None or slots.within is None else None


class Crossing(Passage):
    """One plain request that was sent to MLflow and waits for its answer."""

    __slots__ = (
        "_body",
        "_client",
        "_connection",
        "_data",
        "_house",
        "_lane",
        "_scope",
        "_slots",
        "_under_way",
    )

    def __init__(
        self,
        lane: Lane,
        client: Client,
        scope: Scope,
        exchange: Exchange,
        slots: Slots | None,
        connection: Connection,
        body: bytes,
        data: bytes,
        house: House,
    ) -> None:
        rules = lane.forwarder.rules
        super().__init__(None, exchange, abandon_for=rules.abandoned, stall=rules.stall, unsent=client.unsent)
        self._lane = lane
        self._client = client
        self._scope = scope
        self._slots = slots
        self._connection = connection
        self._body = body
        self._data = data
        self._house = house
        self._under_way = True

    def send(self, head: bytes) -> None:
        """Send it, and wait to be told."""
        ours, exchange = self._lane.forwarder, self.exchange
        assert exchange.operation is not None
        if self._body:
            exchange.bytes_in = len(self._body)
            ours.hold.take(len(self._body))
        ours.watchdog.passages.add(self)
        self.left_with_mlflow = not exchange.operation.native
        self.deadline = self._lane.now() + ours.rules.answer
        exchange.mlflow_started = time.perf_counter()
        self._connection.told = self._told
        self._connection.send_head(head + self._data, head_only=False)

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
        status = connection.status
        headers = for_client(
            connection.headers, status, authorities=ours.authorities, prefix=ours.rules.prefix
        )
        body = connection.whole()
        self._stop()
        exchange.mlflow_ended = time.perf_counter()
        ours.pool.release(connection)
        if self._body:
            ours.hold.give(len(self._body))
        if self._slots is not None:
            assert exchange.identity is not None
            self._slots.leave(exchange.identity.user)
        headers = self._lane.edge.begins(exchange, status, headers)
        exchange.bytes_out = len(body)
        self._client.answer(status, headers, body)
        self._lane.edge.over(exchange, self._scope["query_string"])
        self._house.leave()

    def _stop(self) -> None:
        self._under_way = False
        self._connection.told = None
        self._client.crossing = None
        self._lane.forwarder.watchdog.passages.discard(self)

    def carry_on(self) -> None:
        """Go on in the ordinary way: something is not plain any more."""
        if not self._under_way:
            return
        self._stop()
        lane = self._lane
        self._scope["sent"] = Sent(self, self._connection, self._data, len(self._body))
        app = lane.carried(lane.forwarder, self.exchange, self._house)
        self._client.carry_on(app, self._scope, b"")

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


def _raising(refused: Refused) -> App:
    async def raising(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise refused

    return raising
