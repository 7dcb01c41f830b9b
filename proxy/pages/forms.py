"""What a form of ours sent: read whole within a bound, each field once."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from proxy.exchange import Refused
from proxy.pages.answers import Receive, Scope

LIMIT = 64 * 1024
"""Bytes of a form's body."""
SECONDS = 30.0
"""How long a form may take to come: anybody may send one, and each holds a connection."""


async def form(scope: Scope, receive: Receive, limit: int = LIMIT) -> dict[str, str]:
    """The fields of an ``application/x-www-form-urlencoded`` body.

    Raises Refused: 413 for a body over `limit`, 400 for another type, for what is no UTF-8 form, for a field
    that comes twice, and where the client left before the end; 408 for one that takes over SECONDS.
    """
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value.split(b";", 1)[0].strip().lower()
            break
    else:
        kind = b""
    if kind != b"application/x-www-form-urlencoded":
        raise Refused(400, "The body has to be application/x-www-form-urlencoded.", reason="bad_request")
    try:
        async with asyncio.timeout(SECONDS):
            body = await _body(receive, limit)
    except TimeoutError:
        raise Refused(408, f"The form took over {SECONDS:g} s.", reason="bad_request") from None
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise Refused(400, "The form can't be read.", reason="bad_request") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refused(400, "A field of the form comes twice.", reason="bad_request")
    return fields


async def _body(receive: Receive, limit: int) -> bytearray:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The form ended early.", reason="bad_request")
        body += message.get("body", b"")
        if len(body) > limit:
            raise Refused(413, f"The form is over {limit} bytes.", reason="body_too_large")
        more = message.get("more_body", False)
    return body
