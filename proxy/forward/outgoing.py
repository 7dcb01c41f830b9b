"""A request's body on its way from the client to MLflow: read whole beforehand, or passed on as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from proxy.exchange import Refused
from proxy.forward.clock import Clock
from proxy.forward.resending import Kept, Phase
from proxy.forward.spool import KeptBody
from proxy.http1 import Broken, Connection, Headers
from proxy.watchdog import Passage

if TYPE_CHECKING:
    from proxy.forward.forwarder import Forwarder

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Outgoing:
    """The body of one request. Raises Refused (413, 501, 503) where it can't be taken."""

    __slots__ = (
        "_began",
        "_clock",
        "_data",
        "_ended",
        "_forwarder",
        "_in_memory",
        "_kept",
        "_passage",
        "_pump",
        "_receive",
        "chunked",
        "length",
        "phase",
        "streams",
    )

    def __init__(
        self, forwarder: Forwarder, headers: Headers, receive: Receive, passage: Passage, clock: Clock
    ) -> None:
        operation = passage.exchange.operation
        assert operation is not None
        self._forwarder = forwarder
        self._receive = receive
        self._passage = passage
        self._clock = clock
        self._pump: asyncio.Task[None] | None = None
        self._began: float | None = None
        """When it began to come, while it does."""
        self._data = b""
        self._in_memory = 0
        self._ended = False
        self.phase = Phase.NOTHING
        """How much of the request was sent, the last time."""
        self.length, self.chunked = _framing(headers)
        self.streams = operation.body == "stream" and (self.chunked or bool(self.length))
        self._kept: KeptBody | None = None
        if self.streams and (self.length or 0) <= forwarder.spool.each:
            self._kept = KeptBody(forwarder.spool, forwarder.hold)

    @property
    def kept(self) -> Kept:
        """What is left of it to be sent again; of one that streams, nothing is taken at first."""
        if self.streams:
            if self._kept is None:
                return Kept.MEMORY if self.phase is Phase.NOTHING else Kept.GONE
            return self._kept.kept
        if not self.length:
            return Kept.NONE
        return Kept.MEMORY if self._data else Kept.GONE

    async def read(self) -> bytes:
        """The whole body in memory: MLflow's Flask routes read no chunked one (Werkzeug sees it empty), and a
        slow or aborted upload never holds one of their threads."""
        if not self.chunked and not self.length:
            return b""
        self._began = time.perf_counter()
        limit = self._forwarder.rules.body_limit
        if self.length is not None and self.length > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        while True:
            self._clock.client()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Broken("client_gone")
            piece: bytes = message.get("body", b"")
            if piece:
                self._forwarder.hold.take(len(piece))
                self._in_memory += len(piece)
                self._passage.exchange.bytes_in += len(piece)
                if self._in_memory > limit:
                    raise _too_large(limit)
                pieces.append(piece)
            if not message.get("more_body", False):
                self._clock.stop()
                self._timed()
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def set(self, data: bytes) -> None:
        """What to send, once the whole was read, and names in it are the verified ones."""
        if data or self.chunked or self.length is not None:
            self._data, self.length, self.chunked = data, len(data), False

    def was_sent(self, data: bytes, in_memory: int) -> None:
        """The whole of it has been sent by somebody else, who had counted so many bytes as held."""
        self.set(data)
        self._in_memory = in_memory
        self.phase = Phase.WHOLE
        self._let_go()

    def send(self, connection: Connection) -> None:
        """Begin to send it, or begin again; the head was sent."""
        if self.streams:
            self.phase = Phase.PART
            self._began = time.perf_counter()
            self._pump = asyncio.create_task(self._pass_on(connection))
            return
        self.phase = Phase.WHOLE
        if self._data:
            connection.write(self._data)
        self._let_go()

    def _let_go(self) -> None:
        if len(self._data) > self._forwarder.spool.each:
            self._data = b""  # the connection has it, and lets it go when it is sent

    async def _pass_on(self, connection: Connection) -> None:
        """Carry a streamed body over as it comes. One that breaks off is never completed towards MLflow."""
        stall, kept = self._forwarder.rules.stall, self._kept
        try:
            if kept is not None:
                async for piece in kept.pieces():
                    self._clock.mlflow(stall)
                    self._write(connection, piece)
                    await connection.drain()
            while not self._ended:
                self._clock.client()
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._passage.client_left()
                    return
                self._ended = not message.get("more_body", False)
                if piece := message.get("body", b""):
                    self._passage.exchange.bytes_in += len(piece)
                    if kept is not None:
                        kept.put(piece)
                    self._clock.mlflow(stall)
                    self._write(connection, piece)
                    if kept is not None:
                        await kept.settle()
                    await connection.drain()
            if self.chunked:
                connection.write(b"0\r\n\r\n")
            self.phase = Phase.WHOLE
            self._timed()
            self._clock.mlflow(self._forwarder.rules.answer)
        except Broken:
            # The answer, or its absence, is what counts; whoever waits for it learns the same.
            return
        except OSError:
            connection.close()  # what was kept can't be read: the body has a hole, and must not be completed

    def _timed(self) -> None:
        """Note, for the trace, that it was on its way until now."""
        trace, began = self._passage.exchange.trace, self._began
        self._began = None
        if trace is not None and began is not None:
            trace.stretch("request body", began)

    def _write(self, connection: Connection, piece: bytes) -> None:
        connection.write(b"%x\r\n%s\r\n" % (len(piece), piece) if self.chunked else piece)

    def answered(self) -> bool:
        """MLflow answers: what it has not read by now it does not want (a 413, say). Whether it read all."""
        self._timed()  # MLflow may have read the last of it, and the pump not have heard of that yet
        if self._pump is None or self._pump.done():
            return True
        self._pump.cancel()
        return False

    async def stop(self) -> None:
        """Send no more on a connection that broke."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
        if self._kept is not None:
            await self._kept.written()

    def close(self) -> None:
        """It is not needed any more."""
        self._timed()
        if self._pump is not None:
            self._pump.cancel()
        if self._kept is not None:
            self._kept.drop()
        self._data = b""
        if self._in_memory:
            self._forwarder.hold.give(self._in_memory)
            self._in_memory = 0


def _too_large(limit: int) -> Refused:
    return Refused(
        413,
        f"The request's body is larger than {limit} bytes (PROXY_BODY_LIMIT). "
        "Artifacts of any size go through MLflow's artifact routes, which have no limit.",
        reason="body_too_large",
    )


def _framing(headers: Headers) -> tuple[int | None, bool]:
    """The body's Content-Length, and whether it is chunked (RFC 9112, section 6.3); the parser checked both.

    Raises Refused (501) for another transfer coding, which the parser leaves on the body it hands over.
    """
    length: int | None = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise Refused(
                    501, "Of the transfer codings only 'chunked' is understood here.", reason="bad_request"
                )
            return None, True
    return length, False
