"""One HTTP/1.1 connection, which carries one exchange at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from proxy.http1 import known
from proxy.http1.known import Headers, Known

# 979 MB/s down with pieces of this size, 758 with 256 KiB, 796 with 4 MiB (shared/DESIGN.md).
PIECE = 64 * 1024
# What is handed on without a copy comes in one buffer for all connections, as each part of it is done with
# before the next is read. A Unix socket gives some 220 KiB at once (net.core.wmem_default).
_LARGE = bytearray(256 * 1024)
_LARGE_VIEW = memoryview(_LARGE)


class Broken(Exception):
    """MLflow's side of an exchange failed; `reason` is one of exchange.ERRORS."""

    def __init__(self, reason: str, detail: str = "", *, unread: bool = False) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.unread = unread
        """Whether it is certain that MLflow has not read the request to its end."""


def _unread(error: Exception | None) -> bool:
    """Whether what ended a connection tells that the other side closed it with bytes of ours unread.

    For Unix sockets Linux says so (net/unix/af_unix.c): unix_release_sock gives the peer ECONNRESET where
    something lay unread, and also where the connection was not accepted yet; unix_stream_sendmsg fails with
    EPIPE where the other end was closed before the write. Where all was read, the stream just ends.
    """
    return sys.platform == "linux" and isinstance(error, ConnectionResetError | BrokenPipeError)


class Connection(asyncio.BufferedProtocol):
    """One connection; it carries one request and its answer at a time.

    After `send_head`, await `head()` once and `piece()` until it returns ``b""``; the request's body goes
    by `write` and `drain` meanwhile. All four raise Broken when MLflow's side fails.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.inode = 0
        self.idle_since = 0.0
        self._buffer = bytearray(PIECE)
        self._view = memoryview(self._buffer)
        self._parser = httptools.HttpResponseParser(self)
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False
        self._lost: Broken | None = None
        self._busy = False
        self._head_only = False
        self._spare: socket.socket | None = None
        self.told: Callable[[], None] | None = None
        """Called whenever more of the answer is there, or it has failed: for whoever does not wait in a task
        of its own."""
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.reusable = False
        self._have_head = False
        self._silent = True
        self._complete = False
        self.known: Known | None = None
        """The answer's head, where it was parsed before."""
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._seen = 0
        self._taker: Callable[[memoryview], bool] | None = None
        self._left = 0

    # The exchange.

    def send_head(self, head: bytes, *, head_only: bool) -> None:
        """Begin an exchange. `head_only`: the answer has no body whatever its headers say (HEAD)."""
        self._begin()
        self._busy = True
        if self._head_only:
            # The parser still waits for the body that the last answer announced and did not have.
            self._parser = httptools.HttpResponseParser(self)
        self._head_only = head_only
        self._write(head)

    def write(self, data: bytes) -> None:
        """Send a part of the request's body."""
        if self._spare is None and self.open:
            assert self.transport is not None
            # Where MLflow answers early and closes, a write fails, and the transport is gone with all that
            # was not read yet. What is still to be read can be, by a second descriptor.
            self._spare = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        assert self.transport is not None
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until MLflow has taken most of what was written."""
        if self._lost is not None:
            raise self._lost
        if self._write_paused:
            self._writer = self._loop.create_future()
            await self._writer

    async def head(self) -> None:
        """Wait for the final answer's status and headers; 1xx answers are passed over."""
        while not self._have_head:
            await self._wait()

    async def piece(self) -> bytes:
        """The next part of the answer's body, ``b""`` at its end."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if self._read_paused:
            self._read_on()
        return piece

    def left(self) -> int:
        """Bytes of the answer's body that have not come yet, where its head says how many it has; else 0."""
        if any(name == b"transfer-encoding" for name, _ in self.headers):
            return 0
        return max(0, (self.length or 0) - self._seen)

    async def hand_on(self, take: Callable[[memoryview], bool]) -> None:
        """Give `take` what comes of a body whose length is known (`left`), and of which no pieces wait, as it
        comes: a view that is valid during the call. Return when `take` has returned False, which says that it
        wants no more for now, and at the answer's end. Raises Broken."""
        if self._lost is not None:
            raise self._lost  # while nothing was wanted
        if self._taker is None:
            self._left = self.left()
        self._taker = take
        if self._read_paused:
            self._read_on()
        while not self._complete and not self._read_paused:
            await self._wait()

    def _handed_on(self, size: int, take: Callable[[memoryview], bool]) -> None:
        if size > self._left:
            size = self._left
            self.reusable = False  # what else it says is no answer to anything
        self._left -= size
        if not self._left:
            self._complete = True
            self._taker = None
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for the body still
        wants_more = take(_LARGE_VIEW[:size])
        if self._complete:
            self._wake()
        elif not wants_more:
            if not self._read_paused and self.transport is not None:
                self._read_paused = True
                self.transport.pause_reading()
            self._wake()

    def _read_on(self) -> None:
        if self._held < PIECE and self.transport is not None and self._lost is None:
            self._read_paused = False
            self.transport.resume_reading()

    @property
    def complete(self) -> bool:
        """Whether the whole answer has arrived (parts of it may not have been taken yet)."""
        return self._complete

    @property
    def has_pieces(self) -> bool:
        return bool(self._pieces)

    @property
    def length(self) -> int | None:
        """The answer's Content-Length, once its head is there; None without one."""
        for name, value in self.headers:
            if name == b"content-length":
                return int(value)
        return None

    def whole(self) -> bytes:
        """The whole body of a complete answer, of which nothing was taken yet."""
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._held = 0
        if self._read_paused:
            self._read_on()
        return body

    @property
    def held(self) -> int:
        """Bytes of the answer's body that have arrived and were not taken yet."""
        return self._held

    @property
    def open(self) -> bool:
        return self._lost is None and self.transport is not None and not self.transport.is_closing()

    def finish(self) -> bool:
        """End the exchange. Whether the connection can carry another one."""
        self._busy = False
        self._drop_spare()
        return self._complete and self.reusable and not self._pieces and not self._write_paused and self.open

    def close(self) -> None:
        """End the connection at once, whatever is under way."""
        self._busy = False
        self._drop_spare()
        if self.transport is not None:
            self.transport.abort()

    async def _wait(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._reader = self._loop.create_future()
        await self._reader

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer if self._taker is None else _LARGE

    def buffer_updated(self, nbytes: int) -> None:
        if not self._busy:
            self.close()  # nobody asked
            return
        first, self._silent = self._silent, False
        if self._taker is not None:
            self._handed_on(nbytes, self._taker)
        elif first and self.told is not None and nbytes <= known.LONGEST and not self._head_only:
            if self._whole_at_once(bytes(self._view[:nbytes])):
                self.told()
        elif self._parse(self._view[:nbytes]) and self.told is not None:
            self.told()

    def _whole_at_once(self, data: bytes) -> bool:
        """Take the first of an answer, which may be all of it, with a head that was parsed before.

        False where it failed."""
        if (found := known.known(data)) is None:
            if not self._parse(data):
                return False
            if self._complete:
                self.known = known.keep(data, self.status, self.headers, self.reusable)
            return True
        self.known, body = found
        self.status, self.headers, self.reusable = self.known.status, self.known.headers, self.known.reusable
        self._have_head = self._complete = True
        if body:
            self._pieces.append(body)
            self._held = len(body)
        return True

    def _parse(self, data: bytes | memoryview) -> bool:
        """False where it is no HTTP, and the exchange has failed."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Broken("bad_answer", str(error)))
            self.close()
            return False
        return True

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._spare is not None:
            self._read_the_rest(self._spare)
            self._drop_spare()
        detail = str(exc) if exc else "MLflow closed the connection"
        self._fail(Broken("reset", detail, unread=self._silent and _unread(exc)))

    def _read_the_rest(self, spare: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while self._busy and not self._complete and (size := spare.recv_into(self.get_buffer(PIECE))):
                self.buffer_updated(size)

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _fail(self, why: Broken) -> None:
        if self._lost is None:
            self._lost = why
        self._wake()
        if self._writer is not None and not self._writer.done():
            self._writer.set_exception(self._lost)
        self._writer = None
        if self.told is not None:
            self.told()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    # The parser's side.

    def on_message_begin(self) -> None:
        if self._have_head:
            raise ValueError("more than one answer to one request")
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._have_head:  # else it is a trailer, which is no header (RFC 9110, section 6.5.1)
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not 100 <= status <= 599:
            raise ValueError(f"there is no status {status}")
        if status < 200:
            return
        self.status = status
        self.reusable = self._parser.should_keep_alive()
        self._have_head = True
        if self._head_only:
            self._complete = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._head_only:
            self.reusable = False
            return
        self._pieces.append(body)
        self._held += len(body)
        self._seen += len(body)
        if self._held >= PIECE and not self._read_paused and self.transport is not None:
            self._read_paused = True
            self.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._have_head:
            self._complete = True
            self.reusable = self.reusable and self._parser.should_keep_alive()
            self._wake()
