"""uvicorn's httptools protocol, where its parser hides or refuses what we must see."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import sys
import termios
from collections.abc import Callable
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.held_back import HeldBack

# MLflow takes headers without a limit (1 MB was fine); nginx takes 32 KiB, Apache 100 lines of 8 KiB.
HEADER_LIMIT = 64 * 1024
# How long a request's head may take, in seconds: one that trickles in holds a connection for ever otherwise.
HEAD_SECONDS = 30.0
# How often a connection that is to end is looked at, in seconds.
ENDING_SECONDS = 0.2


class Unparsed(Protocol):
    """What the application does of a request that never becomes one: log it, count it, word the answer."""

    def unparsed(self, client: str, target: bytes, status: int, message: str) -> bytes:
        """The answer's whole bytes, head and body."""


class ProxyProtocol(HttpToolsProtocol):
    """Adds to the ASGI scope:

    ``connection_lost``: a Departure, so that no task need wait on ``receive()`` for it; ``cut``: ends the
    connection at once, so that an answer which can't be completed is seen to be incomplete; ``unsent``: how
    many bytes of what was sent the client has not taken yet; ``hidden``: why the target can't be told from
    what ASGI shows of it (absolute form, fragment), or None.
    """

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lost = Departure()
        self._head_size = 0
        self._in_head = False
        self._unread = 0
        self._told = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._held_back = HeldBack(self._read_ahead, self._read_on, self._gone)
        self._refusal = (400, "This is not a valid HTTP/1.1 request.")
        self.url = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_idleness()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._held_back.end()
        self.lost.over = True
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for left in list(self.lost):
            left()
        self.lost.clear()

    def data_received(self, data: bytes) -> None:
        self._told = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.flow.read_paused and not self._held_back.watched:
            self._held_back.begin(self.transport.get_extra_info("socket").fileno())
        self._unread = 0 if self._told else self._unread + len(data)
        if self._unread > 2 * HEADER_LIMIT:
            self._refusal = (431, f"One of the request's headers is larger than {HEADER_LIMIT} bytes.")
            self.send_400_response("")
        elif self._in_head:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_seconds, self._head_too_slow)
        else:
            self._stop_head_timer()
            if self.cycle is None or self.cycle.response_complete:
                self._watch_idleness()

    def _read_ahead(self) -> int | None:
        """Bytes of a body that wait for the application while nothing is read; None where that is over."""
        if not self.flow.read_paused or self.pipeline or self.transport.is_closing():
            return None
        return len(self.cycle.body)

    def _read_on(self) -> None:
        self.flow.resume_reading()  # until the next piece is there

    def _gone(self) -> None:
        self.transport.abort()

    def _watch_idleness(self) -> None:
        # uvicorn does so only after an answer, and stops with the next byte, were it the last one ever.
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._told = True
        self._in_head = True
        self._head_size = 0
        self.scope["connection_lost"] = self.lost  # type: ignore[typeddict-unknown-key]
        self.scope["unsent"] = self._unsent  # type: ignore[typeddict-unknown-key]

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > HEADER_LIMIT - 1:
            self._refuse(414, f"The request's target is longer than {HEADER_LIMIT - 1} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > HEADER_LIMIT:
            self._refuse(431, f"The request's headers are larger than {HEADER_LIMIT} bytes.")
        self._told = True
        if self._in_head:  # else it is a trailer, which must not pass for a header (RFC 9110, section 6.5.1)
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._told = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._told = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._told = True
        self._in_head = False
        hidden = None
        if not self.url.startswith(b"/"):
            hidden = "its target is not a path: a request in absolute form is for a forward proxy"
        elif b"#" in self.url:
            hidden = "its target has a fragment, which is never sent"
        self.scope["hidden"] = hidden  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        self.scope["cut"] = functools.partial(self._cut, self.cycle)  # type: ignore[typeddict-unknown-key]
        if self.scope["http_version"] == "1.0":
            _speak_1_0(self.cycle)
        elif self.cycle.waiting_for_100_continue:
            _end_if_not_continued(self.cycle)
        if self.parser.should_upgrade():
            # Nothing here is upgraded; what follows on such a connection would not be parsed as requests.
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this when its parser gives up; `msg` is its own wording."""
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is under way on this connection: another one must not be written into it.
            self.transport.abort()
            return
        status, message = self._refusal
        app = cast(Unparsed, self.config.loaded_app)
        self.transport.write(app.unparsed(self.client[0] if self.client else "", self.url, status, message))
        self.transport.close()

    def shutdown(self) -> None:
        """End once the request under way is answered. uvicorn calls this when it is asked to end."""
        super().shutdown()
        self.loop.call_later(ENDING_SECONDS, self._end_soon)

    def _end_soon(self) -> None:
        # A closed TLS connection waits for the client's own goodbye, up to 30 s (uvloop); an idle client's
        # library says none until it is used again, and the whole service would wait for it.
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.transport.abort()
        elif self in self.connections:
            self.loop.call_later(ENDING_SECONDS, self._end_soon)

    def _refuse(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        raise ValueError(message)  # the parser stops, and data_received calls send_400_response

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refusal = (408, f"The request's head took longer than {HEAD_SECONDS:g} s.")
            self.send_400_response("")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True  # so that uvicorn does not report an answer left incomplete
        self.transport.abort()

    def _unsent(self) -> int:
        """Bytes in our buffer and in the kernel's (tcp(7), SIOCOUTQ) that the client has not taken yet."""
        if self.lost.over or self.transport.is_closing():
            return 0
        in_kernel = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)
        return self.transport.get_write_buffer_size() + int.from_bytes(in_kernel, sys.byteorder)


class Departure(set[Callable[[], None]]):
    """Functions called when the client's connection ends; `over` says that it has."""

    over = False


def _end_if_not_continued(cycle: RequestResponseCycle) -> None:
    """Close after an answer that came in place of 100 Continue: whether the body still follows, or the next
    request, is the client's choice (RFC 9110, section 10.1.1), and taking one for the other is smuggling."""
    go_on = cycle.send

    async def send(message: Any) -> None:
        if cycle.waiting_for_100_continue:
            cycle.keep_alive = False
        await go_on(message)

    cycle.send = send  # type: ignore[method-assign]


def _speak_1_0(cycle: RequestResponseCycle) -> None:
    """Make a cycle speak HTTP/1.0: no chunks, a body without Content-Length ends with the connection
    (RFC 9112, section 6.1); no 100 Continue. uvicorn knows no difference."""
    cycle.chunked_encoding = False
    cycle.waiting_for_100_continue = False
    in_1_1 = cycle.send

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await in_1_1(message)

    cycle.send = send  # type: ignore[method-assign]
