"""The outermost layer: every request has its exchange, log line and numbers, whatever becomes of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from proxy import addresses
from proxy.exchange import Exchange, Refused, Trace
from proxy.forward import ClientGone, CutShort
from proxy.headers import Asked, Headers
from proxy.operations import UNPARSED
from proxy.pages import errors

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("proxy.edge")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
# nginx's status for a client that left before it was answered; it is only ever logged and counted.
CLIENT_CLOSED_REQUEST = 499


class Observer(Protocol):
    """The metrics: told of every exchange."""

    def begin(self) -> None: ...
    def end(self) -> None: ...
    def observe(self, exchange: Exchange) -> None: ...


class Audit(Protocol):
    """The audit log: told of every exchange when it is over, it keeps those that are events."""

    def observe(self, exchange: Exchange) -> None: ...


class Log(Protocol):
    """The access log: told of every exchange when it is over."""

    def write(self, exchange: Exchange, query: bytes) -> None: ...


class Tracing(Protocol):
    """Tracing, where it is on: it begins each request's trace, and is told of it when it is over."""

    def begin(self, headers: Headers) -> Trace: ...
    def observe(self, exchange: Exchange) -> None: ...


class Edge:
    """An ASGI application around `app`; `internal` marks the listener that only MLflow's jobs use."""

    def __init__(
        self,
        app: App,
        metrics: Observer,
        access_log: Log,
        audit: Audit,
        trusted_proxies: Sequence[addresses.Network],
        *,
        internal: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = access_log
        self._audit = audit
        self._trusted = tuple(trusted_proxies)
        self._internal = internal
        self._tracing = tracing
        # Unique between processes by its first half, within one by its second: a tenth of uuid4's cost.
        self._id_prefix = secrets.token_hex(6)
        self._ids = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["asked"] = Asked(scope["headers"])
        exchange = self.arrival(scope, asked)
        self.enters()
        await self.carry(self._app, exchange, scope, receive, send)

    async def carry(self, app: App, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Have `app` answer a request that has entered, and see its exchange to the end."""
        scope["exchange"] = exchange
        started = False

        async def observed(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = self.begins(exchange, message["status"], message["headers"])
            else:
                exchange.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await app(scope, receive, observed)
        except Refused as refused:
            if started:
                scope["cut"]()
            else:
                await _answer(scope, observed, exchange, refused)
        except ClientGone:
            if not started:
                exchange.status = CLIENT_CLOSED_REQUEST
            scope["cut"]()
        except CutShort:
            scope["cut"]()
        except asyncio.CancelledError:
            exchange.error = exchange.error or "cut_short"
            scope["cut"]()
            raise
        except Exception:
            exchange.error = "crashed"
            log.exception("request %s crashed", exchange.request_id)
            if started:
                scope["cut"]()
            else:
                crash = Refused(500, "The proxy failed on this request; its log says why.", reason="crashed")
                await _answer(scope, observed, exchange, crash)
        finally:
            self.over(exchange, scope["query_string"])

    def arrival(self, scope: Scope, asked: Asked) -> Exchange:
        """The exchange of a request that has just come."""
        exchange = Exchange(scope["method"], scope["path"], time.perf_counter(), time.time())
        exchange.scheme = scope["scheme"]
        exchange.internal = self._internal
        exchange.user_agent = asked.user_agent
        peer = scope["client"]
        exchange.client = peer[0] if peer else ""
        if self._trusted and addresses.is_trusted(exchange.client, self._trusted):
            if _REQUEST_ID.match(asked.request_id):
                exchange.request_id = asked.request_id.decode("ascii")
            exchange.client = addresses.client_address(exchange.client, asked.forwarded_for, self._trusted)
        if not exchange.request_id:
            exchange.request_id = f"{self._id_prefix}{next(self._ids):08x}"
        if self._tracing is not None:
            exchange.trace = self._tracing.begin(asked.headers)
        return exchange

    def enters(self) -> None:
        """A request is worked on from now on, until `over`."""
        self._metrics.begin()

    def begins(self, exchange: Exchange, status: int, headers: Headers) -> Headers:
        """Note that the answer begins, and return its headers with those that are the edge's."""
        exchange.status = status
        exchange.first_byte = time.perf_counter()
        headers = [*headers, (b"x-request-id", exchange.request_id.encode("ascii"))]
        if exchange.identity is not None and exchange.identity.method == "session":
            _for_one_person(headers, exchange.set_cookie)
        return headers

    def over(self, exchange: Exchange, query: bytes) -> None:
        """The end of an exchange, however it ended: its log line and its numbers."""
        exchange.ended = time.perf_counter()
        if self._tracing is not None:
            self._tracing.observe(exchange)
        self._metrics.end()
        self._metrics.observe(exchange)
        self._log.write(exchange, query)
        self._audit.observe(exchange)

    def unparsed(self, client: str, target: bytes, status: int, message: str) -> bytes:
        """Log, count and word the answer to what never became a request (protocol.Unparsed)."""
        path = target.split(b"?", 1)[0].decode("utf-8", "replace")
        exchange = Exchange("", path, time.perf_counter(), time.time())
        exchange.request_id = f"{self._id_prefix}{next(self._ids):08x}"
        exchange.client = client
        exchange.internal = self._internal
        exchange.operation = UNPARSED
        exchange.refusal = "unparsed"
        exchange.status = status
        answer = errors.raw_refusal(status, message, exchange.request_id)
        exchange.bytes_out = len(answer.partition(b"\r\n\r\n")[2])
        self._metrics.begin()
        self.over(exchange, b"")
        return answer


def _for_one_person(headers: Headers, set_cookie: bytes | None) -> None:
    """Keep an answer that a cookie asked for out of the caches that others share (RFC 9111, section 5.2.2):
    they know of Authorization, and not of cookies. What MLflow says is public gets no cookie instead."""
    said = [value.lower() for name, value in headers if name == b"cache-control"]
    if not any(word in value for value in said for word in (b"public", b"private", b"no-store")):
        headers.append((b"cache-control", b"private"))
    if set_cookie is not None and not any(b"public" in value for value in said):
        headers.append((b"set-cookie", set_cookie))


async def _answer(scope: Scope, send: Send, exchange: Exchange, refused: Refused) -> None:
    if exchange.error is None:
        exchange.refusal = refused.reason
    await errors.refuse(
        scope,
        send,
        refused.status,
        refused.message,
        retry_after=refused.retry_after,
        headers=refused.headers,
    )
