"""MLflow's answer on its way to the client: passed on as it comes, kept back where it can be asked anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from proxy import compression
from proxy import headers as header_rules
from proxy.codings import Compressor
from proxy.forward.answers import failure_of
from proxy.forward.clock import Clock
from proxy.forward.downloads import Download, download_of
from proxy.forward.resending import Failure
from proxy.http1 import Broken, Connection, Headers
from proxy.operations import Operation, operation_of
from proxy.server_info import without_direct_artifacts
from proxy.watchdog import Passage

if TYPE_CHECKING:
    from proxy.forward.forwarder import Forwarder

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEPT_BACK = 1024 * 1024
"""Bytes of an answer that wait for its end, so that another can be given where it breaks off, and of one that
is rewritten at most; server-info is some 300 bytes."""
LONG = 256 * 1024
"""Bytes still to come, from which on a body is handed on without a copy where that is possible."""
Give = Callable[[memoryview], int]
"""Sends what the client's side of the kernel takes at once; how many bytes that was (proxy.protocol)."""


class Unavailable(Exception):
    """MLflow's own answer that something failed; it was read to its end and not passed on."""

    def __init__(self, failure: Failure, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(status)
        self.failure = failure
        self.status = status
        self.headers = headers
        self.body = body


class Incoming:
    """The answer to one request. `begins` is called when its first part goes to the client, `ends` with the
    connection when MLflow has nothing more to say on it."""

    __slots__ = (
        "_asked",
        "_begins",
        "_clock",
        "_compressor",
        "_download",
        "_ends",
        "_exchange",
        "_forwarder",
        "_give",
        "_method",
        "_operation",
        "_send",
        "begun",
        "moved",
    )

    def __init__(
        self,
        forwarder: Forwarder,
        method: str,
        asked: Headers,
        send: Send,
        give: Give | None,
        passage: Passage,
        clock: Clock,
        begins: Callable[[], None],
        ends: Callable[[Connection], None],
    ) -> None:
        operation = passage.exchange.operation
        assert operation is not None
        self._forwarder = forwarder
        self._method = method
        self._asked = asked
        self._compressor: Compressor | None = None
        self._operation: Operation = operation
        self._send = send
        self._give = give
        self._exchange = passage.exchange
        self._clock = clock
        self._begins = begins
        self._ends = ends
        self._download: Download | None = None
        self.begun = False
        """Whether a part of it went to the client: it can't be another one any more."""
        self.moved = False
        """Whether anything of it came since the last time that was set to False."""

    @property
    def rest(self) -> Download | None:
        """What has to be asked for where it broke off; None where it can't go on."""
        return self._download if self.begun else None

    async def take(self, connection: Connection) -> None:
        """Pass on what comes, to its end. Raises Broken, and Unavailable."""
        if self.begun:
            await self._go_on(connection)
            return
        ours = self._forwarder
        operation = self._operation
        status = connection.status
        answer_headers = header_rules.for_client(
            connection.headers, status, authorities=ours.authorities, prefix=ours.rules.prefix
        )
        if (
            operation.name == "server-info"
            and self._method == "GET"
            and not ours.rules.direct_artifacts
            and status == 200
        ):
            await self._rewritten(connection, answer_headers)
            return
        pieces: list[bytes] = []
        if status in (500, 503) or (operation.answer == "plain" and not connection.complete):
            pieces = await self._kept_back(connection)
            if status >= 500 and connection.complete and (failure := failure_of(status, b"".join(pieces))):
                self._ends(connection)
                raise Unavailable(failure, status, answer_headers, b"".join(pieces))
        self._download = download_of(self._method, status, connection.headers)
        size = connection.held + sum(map(len, pieces))
        if size >= compression.LEAST or not connection.complete or self._method == "HEAD":
            answer_headers = self._perhaps_compressed(status, answer_headers)
        await self._begin(status, answer_headers)
        await self._pass_on(connection, pieces)

    def _perhaps_compressed(self, status: int, answer_headers: Headers) -> Headers:
        """The headers, and from now on the body, as the client wants them."""
        operation = self._operation
        if self._method == "HEAD":
            operation = operation_of("GET", self._exchange.path)  # whose answer's shape is said there
        if (
            not self._forwarder.rules.compress
            or operation.answer != "plain"
            or not compression.worth_it(status, answer_headers)
        ):
            return answer_headers
        coding = compression.coding_for(self._asked)
        if coding is not None and self._method != "HEAD":
            self._compressor = compression.compressor_for(coding)
        return compression.headers(answer_headers, coding)

    async def _begin(self, status: int, answer_headers: Headers) -> None:
        self.begun = self.moved = True
        self._begins()
        await self._to_client({"type": "http.response.start", "status": status, "headers": answer_headers})

    async def _kept_back(self, connection: Connection) -> list[bytes]:
        """The answer as far as it may be kept back: mostly all of it."""
        pieces: list[bytes] = []
        size = 0
        while size < KEPT_BACK:
            if not connection.has_pieces and not connection.complete:
                self._clock.mlflow(self._forwarder.rules.answer)
            piece = await connection.piece()
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if connection.complete and not connection.has_pieces:
                break
        return pieces

    async def _pass_on(self, connection: Connection, pieces: list[bytes]) -> None:
        """Pass on those pieces, and whatever comes after them."""
        rules = self._forwarder.rules
        # A stream's silence is a stall; between the events of an SSE stream there may be long ones.
        patience = rules.stall if self._operation.answer in ("stream", "whole") else rules.answer
        pieces.reverse()
        while True:
            if pieces:
                piece = pieces.pop()
            elif self._give is not None and self._is_long(connection):
                await self._hand_on(connection, self._give, patience)
                return
            else:
                if not connection.has_pieces and not connection.complete:
                    self._clock.mlflow(patience)
                piece = await connection.piece()
            last = connection.complete and not connection.has_pieces and not pieces
            if self._download is not None:
                self._download.sent += len(piece)
            if last:
                self._whole(self._download)
            self.moved = True
            if last:
                self._ends(connection)
            if self._compressor is not None:
                piece = self._compressor.compress(piece)
                if last:
                    piece += self._compressor.flush()
                await asyncio.sleep(0)  # a piece takes up to half a millisecond, and others want their turn
            await self._to_client({"type": "http.response.body", "body": piece, "more_body": not last})
            if last:
                return

    def _is_long(self, connection: Connection) -> bool:
        return (
            self._compressor is None
            and self._method != "HEAD"
            and not connection.has_pieces
            and not connection.complete
            and connection.left() >= LONG
        )

    async def _hand_on(self, connection: Connection, give: Give, patience: float) -> None:
        """Pass on the rest of a long body. What the client's side takes at once is neither copied nor waited
        for; the rest of a piece goes the ordinary way, and MLflow is not read meanwhile."""
        exchange, download = self._exchange, self._download
        rest = bytearray()

        def take(piece: memoryview) -> bool:
            self.moved = True
            self._clock.mlflow(patience)
            if download is not None:
                download.sent += len(piece)
            if exchange.abandoned:
                return True
            sent = 0 if rest else give(piece)
            exchange.bytes_out += sent
            if sent == len(piece):
                return True
            rest.extend(piece[sent:])
            return False

        self._clock.mlflow(patience)
        while True:
            await connection.hand_on(take)
            last = connection.complete
            if last:
                self._whole(download)
                self._ends(connection)
            piece = bytes(rest)
            rest.clear()
            await self._to_client({"type": "http.response.body", "body": piece, "more_body": not last})
            if last:
                return
            self._clock.mlflow(patience)

    def _whole(self, download: Download | None) -> None:
        """Raises Broken where a download's end has come too early, or too late."""
        if download is not None and download.sent != download.length:
            raise Broken("bad_answer", "a part of an artifact has another length than it said")

    async def _go_on(self, connection: Connection) -> None:
        download = self._download
        assert download is not None
        if not download.is_rest(connection.status, connection.headers):
            self._download = None
            raise Broken("reset", "MLflow has something else there now")
        await self._pass_on(connection, [])

    async def _rewritten(self, connection: Connection, answer_headers: Headers) -> None:
        pieces: list[bytes] = []
        size = 0
        while piece := await connection.piece():
            pieces.append(piece)
            size += len(piece)
            if size > KEPT_BACK:
                raise Broken("bad_answer", "MLflow's server-info is too large")
        status = connection.status
        self._ends(connection)
        body = without_direct_artifacts(b"".join(pieces))
        await self.say(status, answer_headers, body)

    async def say(self, status: int, answer_headers: Headers, body: bytes) -> None:
        """Answer with MLflow's headers and that body."""
        kept = [header for header in answer_headers if header[0] not in (b"content-length", b"etag")]
        kept.append((b"content-length", b"%d" % len(body)))
        await self._begin(status, kept)
        await self._to_client({"type": "http.response.body", "body": body, "more_body": False})

    async def _to_client(self, message: MutableMapping[str, Any]) -> None:
        if self._exchange.abandoned:
            return  # read to its end and thrown away: MLflow's thread is busy until then
        self._clock.client()
        await self._send(message)
