"""What uvicorn's cycle, one request and its answer, does otherwise here; and the end of its connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Departure(set[Callable[[], None]]):
    """Functions called when the client's connection ends; `over` says that it has."""

    over = False


def end_if_not_continued(cycle: RequestResponseCycle) -> None:
    """Close after an answer that came in place of 100 Continue: whether the body still follows, or the next
    request, is the client's choice (RFC 9110, section 10.1.1), and taking one for the other is smuggling."""
    go_on = cycle.send

    async def send(message: Any) -> None:
        if cycle.waiting_for_100_continue:
            cycle.keep_alive = False
        await go_on(message)

    cycle.send = send  # type: ignore[method-assign]


def speak_1_0(cycle: RequestResponseCycle) -> None:
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
