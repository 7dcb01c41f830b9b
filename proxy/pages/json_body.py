"""What a program sent to an API of ours: one JSON object, read whole within a bound."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from proxy.exchange import Refused
from proxy.pages.answers import Receive, Scope

LIMIT = 16 * 1024
"""Bytes."""
SECONDS = 30.0
"""How long it may take to come."""


async def json_body(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The object. Raises Refused: 413 for a body over LIMIT, 400 for another type, for what is not one JSON
    object and where the client left before the end, 408 for one that takes over SECONDS.
    """
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    # A page of another site can send a form without asking, and this type only where it is allowed (CORS).
    if kind.split(b";", 1)[0].strip().lower() != b"application/json":
        raise _wrong("The body has to be application/json.")
    try:
        async with asyncio.timeout(SECONDS):
            body = await _body(receive)
    except TimeoutError:
        raise Refused(408, f"The body took over {SECONDS:g} s.", reason="bad_request") from None
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _wrong("The body can't be read as JSON.") from None
    if not isinstance(found, dict):
        raise _wrong("The body has to be one JSON object.")
    return found


async def _body(receive: Receive) -> bytearray:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _wrong("The body ended early.")
        body += message.get("body", b"")
        if len(body) > LIMIT:
            raise Refused(413, f"The body is over {LIMIT} bytes.", reason="body_too_large")
        more = message.get("more_body", False)
    return body


def _wrong(message: str) -> Refused:
    return Refused(400, message, reason="bad_request")
