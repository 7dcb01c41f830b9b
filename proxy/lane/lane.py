"""Which requests are plain, and where one goes that is."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import NamedTuple

from proxy import gate
from proxy.edge import Edge
from proxy.exchange import Refused
from proxy.forward import Forwarder
from proxy.headers import Asked, Headers, for_client, lines, passed_on, said_of_caller
from proxy.http1 import Known
from proxy.lane.crossing import App, Client, Crossing, House, Receive, Request, Scope, Send, raising
from proxy.lane.queued import Queued
from proxy.operations import Access
from proxy.slots import Slots

# Below these are MLflow's API and nothing of its pages. Not the gateway: there, two credentials may come.
_BELOW = ("/api/", "/ajax-api/", "/graphql")
_PLAIN_ACCESS = frozenset({Access.READ, Access.WRITE})
_ROUTES = 4096
_HEADS = 512
# What the ways of so many paths may hold is bounded by this: nobody is known yet when one is looked up.
_LONGEST_PATH = 256


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
        self.passed_back = lru_cache(_HEADS)(self._passed_back)
        self._to_mlflow = lines([(b"host", forwarder.rules.authority)])

    def cross(self, client: Client, scope: Scope, asked: Asked, body: bytes, house: House) -> bool:
        """Take a request that has come as a whole. False where it is not plain, and nothing has happened."""
        ours = self.forwarder
        if len(scope["raw_path"]) > _LONGEST_PATH:
            return False
        way = self._way(scope["method"], scope["raw_path"])
        if way is None or not asked.plain or len(body) > ours.rules.body_limit:
            return False
        if not ours.hold.mlflow.up:
            return False
        exchange = self.edge.arrival(scope, asked)
        try:
            app = self._gate.at_once(way.route, exchange, asked)
            if app is None:
                return False
            scope["path"], scope["raw_path"] = way.route.path
            data = ours.verified(exchange, body)
            if self._begin(Request(client, scope, asked, exchange, way.slots, body, data, house)):
                return True
        except Refused as refused:
            app = raising(refused)
        self.edge.enters()
        house.enter()
        self.carry_on(Request(client, scope, asked, exchange, way.slots, body, body, house), app, body)
        return True

    def carry_on(self, request: Request, app: App, body: bytes) -> None:
        """Have `app` answer it, at the end of the ordinary way; it has entered already. `body` is what is
        still to be read of it."""
        exchange, house = request.exchange, request.house

        async def carried(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await self.edge.carry(app, exchange, scope, receive, send)
            finally:
                house.leave()

        request.client.carry_on(carried, request.scope, body)

    def _begin(self, request: Request) -> bool:
        """Send it to MLflow, or have it wait for a place there. False where something else is in the way, and
        nothing has happened. Raises Refused."""
        ours, slots, exchange = self.forwarder, request.slots, request.exchange
        assert exchange.identity is not None
        if not ours.hold.room_for(len(request.body)):
            return False
        if slots is not None and not slots.enter(exchange.identity.user):
            waiting = Queued(self, request, slots)
            self.edge.enters()
            request.house.enter()
            waiting.wait()
            return True
        if self.send(request):
            self.edge.enters()
            request.house.enter()
            return True
        if slots is not None:
            slots.leave(exchange.identity.user)
        return False

    def send(self, request: Request) -> bool:
        """Send it to MLflow, where there is an idle connection; its place is taken."""
        connection = self.forwarder.pool.idle()
        if connection is None:
            return False
        Crossing(self, request, connection).send(self._head(request))
        return True

    def _head(self, request: Request) -> bytes:
        """As Trip makes it, from what a connection's requests have in common."""
        scope, asked, exchange, length = request.scope, request.asked, request.exchange, len(request.data)
        trace = exchange.trace
        assert exchange.identity is not None
        key = (exchange.client, exchange.identity.user, trace is not None)
        if (same := asked.passed.get(key)) is None:
            passed = passed_on(asked.headers, gateway=False, provider_key=False, traced=trace is not None)
            same = lines(passed + said_of_caller(exchange.client, exchange.identity.user))
            asked.passed = {key: same}
        query = scope["query_string"]
        return b"%s %s%s%s HTTP/1.1\r\n%s%s%sx-request-id: %s\r\n%s\r\n" % (
            scope["method"].encode("ascii"),
            scope["raw_path"],
            b"?" if query else b"",
            query,
            self._to_mlflow,
            same,
            b"" if trace is None else lines(trace.headers()),
            exchange.request_id.encode("latin-1", "replace"),
            b"content-length: %d\r\n" % length if length or asked.length is not None else b"",
        )

    def for_client(self, headers: Headers, status: int) -> Headers:
        """The headers of an answer of MLflow's, as the client gets them."""
        ours = self.forwarder
        return for_client(headers, status, authorities=ours.authorities, prefix=ours.rules.prefix)

    def _passed_back(self, head: Known) -> bytes:
        """Their lines, where the head was parsed before."""
        return lines(self.for_client(head.headers, head.status))

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
