"""MLflow's index.html with one script of ours: the account menu; with sessions, signing out and in again."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SCRIPT = (Path(__file__).parent / "ui.js").read_bytes()
PATH = "/-/ui.js"
_VERSION = hashlib.sha256(SCRIPT).hexdigest()[:16]
# Relative, as MLflow's own addresses in that file are: the public URL may have a path.
_TAG = f'<script defer="defer" src="-/ui.js?v={_VERSION}"></script>'.encode()
# Where nobody signs in: a password comes with each request, and there is no session to end or to renew.
_TAG_WITHOUT_SESSIONS = _TAG.replace(b" src=", b" data-sessions=no src=")
_LARGEST_INDEX = 1 << 20
# What would let MLflow answer without the page, or with a part or a packed form of it.
_CONDITIONS = frozenset(
    (
        b"accept-encoding",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    )
)
_OF_THE_BODY = frozenset((b"content-length", b"etag", b"last-modified", b"accept-ranges", b"content-md5"))


def with_script(index_html: bytes, *, sessions: bool = True) -> bytes:
    """The page with the script's tag at the end of its head; as it was without a head, or with the tag.
    `sessions` is False where nobody signs in."""
    tag = _TAG if sessions else _TAG_WITHOUT_SESSIONS
    if tag in index_html:
        return index_html
    end = index_html.lower().find(b"</head>")
    return index_html if end < 0 else index_html[:end] + tag + index_html[end:]


def adding_script(mlflow: App, *, sessions: bool = True) -> App:
    """`mlflow` for ``GET /``, its HTML with the script in it; every other path and answer as it is."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
            await mlflow(scope, receive, send)
            return
        asked = [header for header in scope["headers"] if header[0] not in _CONDITIONS]
        tags = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
        head_only = scope["method"] == "HEAD"
        # GET for HEAD, too: the length and the tag are of a page that only MLflow knows.
        inner = {**scope, "headers": asked, "method": "GET"}
        start: MutableMapping[str, Any] | None = None
        body = bytearray()

        async def rewritten(message: MutableMapping[str, Any]) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if not _is_page(message):
                    await send(message)
                else:
                    start = message
                return
            if start is None:
                if head_only:
                    message = {**message, "body": b""}
                await send(message)
                return
            body.extend(message.get("body", b""))
            if len(body) > _LARGEST_INDEX:
                # No index of MLflow's: hand on what came, as it came.
                first, start = start, None
                await send(first)
                await send({**message, "body": b"" if head_only else bytes(body)})
                return
            if not message.get("more_body", False):
                await _send_page(send, start, with_script(bytes(body), sessions=sessions), tags, head_only)

        await mlflow(inner, receive, rewritten)

    return app


def _is_page(start: MutableMapping[str, Any]) -> bool:
    if start["status"] != 200:
        return False
    headers = {name.lower(): value for name, value in start["headers"]}
    return headers.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in headers


async def _send_page(
    send: Send, start: MutableMapping[str, Any], page: bytes, tags: bytes, head_only: bool
) -> None:
    tag = f'"{hashlib.sha256(page).hexdigest()[:32]}"'.encode()
    headers = [header for header in start["headers"] if header[0].lower() not in _OF_THE_BODY]
    headers.append((b"etag", tag))
    # RFC 9110, 13.1.2: weak comparison, as for every If-None-Match.
    if tag in tags or tags.strip() == b"*":
        await send({**start, "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    headers.append((b"content-length", b"%d" % len(page)))
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head_only else page})


async def script(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /-/ui.js``, for anybody: it holds nothing, and is wanted just when a session has ended."""
    scope["exchange"].status = 200
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/javascript; charset=utf-8"),
                (b"content-length", b"%d" % len(SCRIPT)),
                # Its address changes with it (`?v=`).
                (b"cache-control", b"public, max-age=31536000, immutable"),
                (b"x-content-type-options", b"nosniff"),
                (b"cross-origin-resource-policy", b"same-origin"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else SCRIPT})
