"""One request's trip to MLflow and back: body, wait, place, connection, head, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from proxy import headers as header_rules
from proxy import verified_names
from proxy.bodies import target_of
from proxy.exchange import Refused
from proxy.forward.endings import ClientGone, CutShort
from proxy.hold import Slots
from proxy.http1 import Broken, Connection, Headers
from proxy.identity import identity_of
from proxy.operations import Access, Operation
from proxy.server_info import without_direct_artifacts
from proxy.watchdog import Passage

if TYPE_CHECKING:
    from proxy.forward.forwarder import Forwarder

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The audit log says what such an operation was about.
TOLD_OF = frozenset({Access.DELETE, Access.DESTROY, Access.ADMIN})
# An answer of MLflow that is rewritten is read whole; server-info is some 300 bytes.
REWRITE_LIMIT = 1024 * 1024


class Trip:
    """One request through a Forwarder; its steps in the order of `run`."""

    __slots__ = (
        "_body",
        "_connection",
        "_exchange",
        "_forwarder",
        "_loop",
        "_operation",
        "_passage",
        "_pump",
        "_receive",
        "_scope",
        "_send",
        "_started",
    )

    def __init__(
        self, forwarder: Forwarder, scope: Scope, receive: Receive, send: Send, passage: Passage
    ) -> None:
        self._forwarder = forwarder
        self._scope = scope
        self._receive = receive
        self._send = send
        self._passage = passage
        self._exchange = passage.exchange
        operation = passage.exchange.operation
        assert operation is not None
        self._operation: Operation = operation
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._pump: asyncio.Task[None] | None = None
        self._started = False
        self._body = 0

    async def run(self) -> None:
        ours = self._forwarder
        length, chunked = _framing(self._scope["headers"])
        body = b""
        streams = self._operation.body == "stream" and (chunked or bool(length))
        if not streams and (chunked or length):
            body = await self._whole_body(length)
            chunked, length = False, len(body)
        if not streams:
            checked = self._checked(body)
            if checked is not body:
                body, length = checked, len(checked)
        began = self._loop.time()
        async with ours.hold.place(self._slots()):
            connection = await self._connect(began)
            self._exchange.mlflow_started = time.perf_counter()
            connection.send_head(self._head(length, chunked), head_only=self._scope["method"] == "HEAD")
            if body:
                connection.write(body)
                body = b""  # the connection has it, and lets it go when it is sent
            if streams:
                self._pump = asyncio.create_task(self._pump_body(connection, chunked))
            else:
                self._passage.left_with_mlflow = not self._operation.native
                self._wait_for_mlflow(ours.rules.answer)
            await connection.head()
            await self._answer(connection)
        if self._exchange.abandoned:
            raise Broken("client_gone")

    # Steps.

    async def _whole_body(self, length: int | None) -> bytes:
        """The body in memory: MLflow's Flask routes read no chunked one (Werkzeug sees it empty), and a
        slow or aborted upload never holds one of their threads."""
        ours = self._forwarder
        if length is not None and length > ours.rules.body_limit:
            raise self._too_large()
        pieces: list[bytes] = []
        while True:
            self._wait_for_client()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Broken("client_gone")
            piece: bytes = message.get("body", b"")
            if piece:
                ours.hold.take(len(piece))
                self._body += len(piece)
                self._exchange.bytes_in += len(piece)
                if self._body > ours.rules.body_limit:
                    raise self._too_large()
                pieces.append(piece)
            if not message.get("more_body", False):
                self._passage.deadline = float("inf")
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _checked(self, body: bytes) -> bytes:
        """The body to send, once names in it are the verified ones; what it is about is noted for the audit
        log."""
        operation, path = self._operation, self._exchange.path
        if operation.access in TOLD_OF:
            self._exchange.target = target_of(operation, path, self._scope["query_string"], body)
        if self._forwarder.rules.verified_names and operation.name in verified_names.OPERATIONS:
            identity = identity_of(self._scope)
            assert identity is not None  # none of those is open to everybody
            return verified_names.checked(operation, path, body, identity)
        return body

    def _slots(self) -> Slots | None:
        if self._operation.native:
            return None
        if self._operation.answer == "whole":
            return self._forwarder.whole_slots
        return self._forwarder.flask_slots

    async def _connect(self, began: float) -> Connection:
        """A connection to MLflow, waiting while it is away. Nothing was sent yet, so trying again is safe."""
        ours = self._forwarder
        while True:
            await ours.hold.until_up(began)
            try:
                self._connection = await ours.pool.acquire()
                return self._connection
            except Broken:
                # Its end has not been noticed yet, or it has just been replaced.
                await ours.hold.a_moment(began)

    def _head(self, length: int | None, chunked: bool) -> bytes:
        exchange = self._exchange
        gateway = exchange.path.startswith("/gateway/")
        target: bytes = self._scope["raw_path"]
        if query := self._scope["query_string"]:
            target = b"%s?%s" % (target, query)
        return header_rules.head(
            self._scope["method"],
            target,
            header_rules.for_mlflow(
                self._scope["headers"],
                exchange,
                identity_of(self._scope),
                authority=self._forwarder.rules.authority,
                gateway=gateway,
                provider_key=self._scope.get("provider_key", False),
                body_length=length,
                chunked=chunked,
            ),
        )

    async def _pump_body(self, connection: Connection, chunked: bool) -> None:
        """Carry a streamed body over as it comes. One that breaks off is never completed towards MLflow."""
        try:
            while True:
                self._wait_for_client()
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._passage.client_left()
                    return
                piece: bytes = message.get("body", b"")
                if piece:
                    self._exchange.bytes_in += len(piece)
                    connection.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                    self._wait_for_mlflow(self._forwarder.rules.stall)
                    await connection.drain()
                if not message.get("more_body", False):
                    if chunked:
                        connection.write(b"0\r\n\r\n")
                    self._wait_for_mlflow(self._forwarder.rules.answer)
                    return
        except Broken:
            # The answer, or its absence, is what counts; whoever waits for it learns the same.
            return

    async def _answer(self, connection: Connection) -> None:
        if self._pump is not None and not self._pump.done():
            # MLflow answered early (a 413, say): its answer passes, the rest of the body does not.
            self._pump.cancel()
            connection.reusable = False
        ours = self._forwarder
        answer_headers = header_rules.for_client(
            connection.headers, connection.status, authorities=ours.authorities, prefix=ours.rules.prefix
        )
        if (
            self._operation.name == "server-info"
            and self._scope["method"] == "GET"
            and not ours.rules.direct_artifacts
            and connection.status == 200
        ):
            await self._rewritten(connection, answer_headers)
            return
        self._started = True
        await self._to_client(
            {"type": "http.response.start", "status": connection.status, "headers": answer_headers}
        )
        # A stream's silence is a stall; between the events of an SSE stream there may be long ones.
        patience = ours.rules.stall if self._operation.answer in ("stream", "whole") else ours.rules.answer
        while True:
            if not connection.has_pieces and not connection.complete:
                self._wait_for_mlflow(patience)
            piece = await connection.piece()
            last = connection.complete and not connection.has_pieces
            if last:
                self._exchange.mlflow_ended = time.perf_counter()
                self._give_back(connection)
            await self._to_client({"type": "http.response.body", "body": piece, "more_body": not last})
            if last:
                return

    async def _rewritten(self, connection: Connection, answer_headers: Headers) -> None:
        pieces: list[bytes] = []
        size = 0
        while piece := await connection.piece():
            pieces.append(piece)
            size += len(piece)
            if size > REWRITE_LIMIT:
                raise Broken("bad_answer", "MLflow's server-info is too large")
        self._exchange.mlflow_ended = time.perf_counter()
        self._give_back(connection)
        body = without_direct_artifacts(b"".join(pieces))
        kept = [header for header in answer_headers if header[0] not in (b"content-length", b"etag")]
        kept.append((b"content-length", b"%d" % len(body)))
        self._started = True
        await self._to_client({"type": "http.response.start", "status": connection.status, "headers": kept})
        await self._to_client({"type": "http.response.body", "body": body, "more_body": False})

    async def _to_client(self, message: MutableMapping[str, Any]) -> None:
        if self._exchange.abandoned:
            return  # read to its end and thrown away: MLflow's thread is busy until then
        self._wait_for_client()
        await self._send(message)

    # Clocks, and the end.

    def _wait_for_client(self) -> None:
        if not self._exchange.abandoned:
            self._passage.late = "client_stalled"
            self._passage.deadline = self._loop.time() + self._forwarder.rules.stall

    def _wait_for_mlflow(self, seconds: float) -> None:
        if not self._exchange.abandoned:
            self._passage.late = "stalled"
            self._passage.deadline = self._loop.time() + seconds

    def _give_back(self, connection: Connection) -> None:
        self._connection = None
        self._passage.left_with_mlflow = False
        self._forwarder.pool.release(connection)

    def clean_up(self) -> None:
        """Whatever happened: no connection, task or counted byte stays behind."""
        if self._exchange.mlflow_started is not None and self._exchange.mlflow_ended is None:
            self._exchange.mlflow_ended = time.perf_counter()
        if self._pump is not None:
            self._pump.cancel()
        if self._connection is not None:
            self._connection.close()
        if self._body:
            self._forwarder.hold.give(self._body)

    def fail(self, why: str) -> None:
        """Raise what ends the exchange: an answer of ours, or, once one has begun, its cutting off."""
        self._exchange.error = why
        if why == "client_gone":
            raise ClientGone
        if self._started:
            raise CutShort
        if why == "revoked":
            raise Refused(
                401,
                "The credential of this request was revoked, or its session ended, while it was under way. "
                "What it had sent so far is dropped.",
                reason=why,
            )
        if why == "client_stalled":
            raise Refused(
                408, "No byte of the request's body came for too long (PROXY_STALL_TIMEOUT).", reason=why
            )
        if why == "stalled":
            raise Refused(
                504,
                "MLflow did not answer in time (PROXY_ANSWER_TIMEOUT); it may have acted on the request.",
                reason=why,
            )
        raise Refused(
            502,
            "MLflow ended the connection before it answered; it may have acted on the request.",
            reason=why,
        )

    def _too_large(self) -> Refused:
        return Refused(
            413,
            f"The request's body is larger than {self._forwarder.rules.body_limit} bytes (PROXY_BODY_LIMIT). "
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
