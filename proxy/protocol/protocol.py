"""One connection: uvicorn's httptools protocol, where its parser hides or refuses what we must see."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import sys
import termios
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from proxy.headers import Asked, Headers, lines
from proxy.held_back import HeldBack
from proxy.protocol.cycles import Departure, end_if_not_continued, speak_1_0
from proxy.protocol.known import Known, known_of

# MLflow takes headers without a limit (1 MB was fine); nginx takes 32 KiB, Apache 100 lines of 8 KiB.
HEADER_LIMIT = 64 * 1024
# How long a request's head may take, in seconds: one that trickles in holds a connection for ever otherwise.
HEAD_SECONDS = 30.0
# How often a connection that is to end is looked at, in seconds.
ENDING_SECONDS = 0.2


# Bytes that wait for a client at most, beside what the kernel holds. uvloop's own limit for TLS is 512 KiB,
# and what waits when a client leaves is in a reference cycle then, which is there for long.
WRITE_AHEAD = 64 * 1024
# Of a request that may be carried past ASGI: the bytes of its body at most.
LANE_BODY = 64 * 1024


class Application(Protocol):
    """What is asked of the application beside what ASGI says."""

    def unparsed(self, client: str, target: bytes, status: int, message: str) -> bytes:
        """Log and count a request that never became one. The answer's whole bytes, head and body."""

    def cross(self, client: ProxyProtocol, scope: Any, asked: Asked, body: bytes) -> bool:
        """Take a request that has come as a whole, and answer it past ASGI. False: it was not taken."""


class Crossing(Protocol):
    """A request on its way past ASGI."""

    def carry_on(self) -> None:
        """Have it answered in a task after all, by `ProxyProtocol.carry_on`."""

    def client_left(self) -> None: ...


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
        self.crossing: Crossing | None = None
        self._application = cast(Application, self.config.loaded_app)
        self._crosses = hasattr(self._application, "cross")
        self._kept_back: list[bytes] | None = None
        """The body so far of a request that may be plain, of which ASGI has heard nothing yet."""
        self._asked: Asked | None = None
        self._known: Known | None = None
        self._begun = 0
        """How many requests began in what is being parsed."""
        self._between = True
        """Whether the parser has seen the last request's end, and nothing of the next one."""
        self._plain = False
        """Whether the latest request was one that may be carried past ASGI."""
        self._defaults: Headers = []
        self._default_lines = b""
        """How they go over the wire."""
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_AHEAD)
        self._idle_since = self.loop.time()
        self._look_whether_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._held_back.end()
        self.lost.over = True
        if self.crossing is not None:
            self.crossing.client_left()
        super().connection_lost(exc)
        for left in list(self.lost):
            left()
        self.lost.clear()

    def data_received(self, data: bytes) -> None:
        if self._known is not None and self._between and not self._busy() and not self.flow.write_paused:
            again = self._known.again(data)
            if again is not None:
                scope, body = again
                if not self._application.cross(self, scope, self._known.asked, body):
                    self.carry_on(self.app, scope, body)
                return
        self._told = False
        self._begun = 0
        between = self._between
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._kept_back is not None:
            self._let_go(complete=False)
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
            if self._head_timer is not None:
                self._stop_head_timer()
            self._idle_since = self.loop.time()
            # What came while a body was under way may begin with the end of that body.
            if between and self._plain and self._between and self._begun == 1:
                assert self._asked is not None
                self._known = known_of(data, cast(dict[str, Any], self.scope), self._asked)

    def _read_ahead(self) -> int | None:
        """Bytes of a body that wait for the application while nothing is read; None where that is over."""
        if not self.flow.read_paused or self.pipeline or self.transport.is_closing():
            return None
        return len(self.cycle.body)

    def _read_on(self) -> None:
        self.flow.resume_reading()  # until the next piece is there

    def _gone(self) -> None:
        self.transport.abort()

    def _look_whether_idle(self) -> None:
        # One timer for all of a connection's life: uvicorn makes one after each answer, none before the
        # first, and stops it with the next byte, were that the last one ever.
        if self.transport.is_closing():
            return
        now = self.loop.time()
        if self._busy() or self._in_head:
            self._idle_since = now
        left = self._idle_since + self.timeout_keep_alive - now
        if left <= 0:
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_later(left, self._look_whether_idle)

    def _busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self.crossing is not None or (self.cycle is not None and not self.cycle.response_complete)

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def on_message_begin(self) -> None:
        self._begun += 1
        self._between = self._plain = False
        if self.crossing is not None:
            self.crossing.carry_on()  # from here on uvicorn keeps them in order
        super().on_message_begin()
        self._told = True
        self._in_head = True
        self._head_size = 0
        self.scope["connection_lost"] = self.lost  # type: ignore[typeddict-unknown-key]
        self.scope["unsent"] = self.unsent  # type: ignore[typeddict-unknown-key]

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
        if self._kept_back is not None:
            self._kept_back.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._told = self._between = True
        if self._kept_back is not None:
            self._let_go(complete=True)
        else:
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
        if self._crosses and hidden is None and self._may_be_plain():
            self._kept_back = []
            return
        super().on_headers_complete()
        self._offer(self.scope, self.cycle)
        if self.scope["http_version"] == "1.0":
            speak_1_0(self.cycle)
        elif self.cycle.waiting_for_100_continue:
            end_if_not_continued(self.cycle)
        if self.parser.should_upgrade():
            # Nothing here is upgraded; what follows on such a connection would not be parsed as requests.
            self.cycle.keep_alive = False

    def _may_be_plain(self) -> bool:
        """Whether the request may be carried past ASGI: nothing is under way, and nothing in it is special.

        Where that is so, what uvicorn would have said of it stands in its scope."""
        parser = self.parser
        if (
            b"%" in self.url
            or self.expect_100_continue
            or self.flow.write_paused
            or self._busy()
            or not parser.should_keep_alive()
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
        ):
            return False
        path, _, query = self.url.partition(b"?")
        self.scope["method"] = parser.get_method().decode("ascii")
        self.scope["path"] = path.decode("ascii")
        self.scope["raw_path"] = path
        self.scope["query_string"] = query
        return True

    def _let_go(self, *, complete: bool) -> None:
        """Hand over what was kept back, past ASGI where that is possible."""
        kept = self._kept_back
        assert kept is not None
        self._kept_back = None
        body = b"".join(kept)
        if complete and len(body) <= LANE_BODY:
            if self._asked is None or self._asked.headers != self.headers:
                self._asked = Asked(self.headers)
            self._plain = True
            if self._application.cross(self, self.scope, self._asked, body):
                return
        self.carry_on(self.app, self.scope, body, complete=complete)

    def carry_on(self, app: Any, scope: Any, body: bytes, *, complete: bool = True) -> None:
        """Have `app` answer a request of which uvicorn knows nothing yet."""
        self.cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        self._offer(scope, self.cycle)
        super().on_body(body)
        self.cycle.more_body = not complete
        self._start_asgi_task(self.cycle, app)

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Answer the request that crosses: `head` has all of its headers' lines, but for Date."""
        if self._defaults is not self.server_state.default_headers:  # uvicorn makes them anew each second
            self._defaults = self.server_state.default_headers
            self._default_lines = lines(self._defaults)
        self.transport.write(b"%s%s%s\r\n%s" % (STATUS_LINE[status], self._default_lines, head, body))
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this when its parser gives up; `msg` is its own wording."""
        if self._busy():
            # An answer is under way on this connection: another one must not be written into it.
            self.transport.abort()
            return
        status, message = self._refusal
        client = self.client[0] if self.client else ""
        self.transport.write(self._application.unparsed(client, self.url, status, message))
        self.transport.close()

    def shutdown(self) -> None:
        """End once the request under way is answered. uvicorn calls this when it is asked to end."""
        if self.crossing is not None:
            self.crossing.carry_on()  # uvicorn knows how to wait for it
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

    def _offer(self, scope: Any, cycle: RequestResponseCycle) -> None:
        """What an application may do beside ASGI's `send`."""
        scope["cut"] = functools.partial(self._cut, cycle)
        if self.scheme == "http":
            scope["give"] = functools.partial(self._give, cycle)

    def _give(self, cycle: RequestResponseCycle, data: memoryview) -> int:
        """Send so much of an answer's body as the kernel takes at once, without a copy; so many bytes.

        None while something else waits to be sent, or where the client is gone: `send` deals with both.
        """
        transport = self.transport
        if cycle.disconnected or cycle.chunked_encoding or transport.is_closing():
            return 0
        if transport.get_write_buffer_size():
            return 0
        try:
            sent = os.write(transport.get_extra_info("socket").fileno(), data)
        except OSError:
            return 0
        cycle.expected_content_length -= sent
        return sent

    def _cut(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True  # so that uvicorn does not report an answer left incomplete
        self.transport.abort()

    def unsent(self) -> int:
        """Bytes in our buffer and in the kernel's (tcp(7), SIOCOUTQ) that the client has not taken yet."""
        if self.lost.over or self.transport.is_closing():
            return 0
        in_kernel = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)
        return self.transport.get_write_buffer_size() + int.from_bytes(in_kernel, sys.byteorder)
