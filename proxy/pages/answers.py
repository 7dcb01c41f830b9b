"""One answer of our own, whole: its headers, its length, its body; nothing for HEAD but the headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"

CLOSED_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of an answer that is not a page (W3C CSP 3)."""


def head(content_type: str, length: int, policy: str = CLOSED_POLICY) -> list[tuple[bytes, bytes]]:
    """The headers of every answer of ours: kept by no cache, shown in no frame, taken for nothing else."""
    return [
        (b"content-type", content_type.encode("ascii")),
        (b"content-length", b"%d" % length),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        # Not no-referrer: a form of ours would then say `Origin: null`, as another site's page may.
        (b"referrer-policy", b"same-origin"),
        (b"content-security-policy", policy.encode("ascii")),
        (b"x-frame-options", b"DENY"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


async def answer(
    scope: Scope,
    send: Send,
    status: int,
    body: bytes,
    content_type: str,
    *,
    headers: Headers = (),
    policy: str = CLOSED_POLICY,
) -> None:
    """Send it. `headers` are added to ours."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*head(content_type, len(body), policy), *headers],
        }
    )
    # RFC 9110, 9.3.2: HEAD has the headers that GET would have, its length too, and no content.
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
