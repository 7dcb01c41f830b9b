"""The application that answers for the UI's files, and hands on to MLflow what it has no answer for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from proxy.codings import IDENTITY, choose, compressed, takes_identity
from proxy.exchange import Exchange
from proxy.ui import conditions
from proxy.ui.files import INDEX, File, opened, unchanged
from proxy.ui.keeper import Keeper

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_PIECE = 64 * 1024
_READ = 512 * 1024
# Where MLflow has them; the second is Flask's own route for its static folder (mlflow/server/__init__.py).
_PLACES = ("/static-files/", "/build/")
# A notebook shows this one in a frame (mlflow/server/fastapi_security.py).
_FRAMED = "/static-files/lib/notebook-trace-renderer"
_LASTING = (b"cache-control", b"public, max-age=31536000, immutable")
# MLflow gives these 28 days, and pages, which name all the others, none.
_FOR_A_DAY = (b"cache-control", b"public, max-age=86400")
_ASK_AGAIN = (b"cache-control", b"no-cache")
_VARY = (b"vary", b"Accept-Encoding")
_NOSNIFF = (b"x-content-type-options", b"nosniff")


@dataclass(frozen=True, slots=True)
class Page:
    """The index as it is served, in all codings: it is small, and may have something of ours in it."""

    of: str
    """The digest of the file that it was made of."""
    bodies: dict[str, tuple[bytes, bytes]]
    """By coding, identity among them: its ETag and its bytes."""


class Ui:
    """An ASGI application for the operation ``ui``, between the gate and `mlflow`.

    `changed` makes of the index what is served. `left_to_mlflow` says of a request for the index that it is
    not answered from here just now. `frame_options` is what MLflow says of frames; empty for nothing. A
    client that takes nothing for `stall` seconds is left.
    """

    def __init__(
        self,
        keeper: Keeper,
        mlflow: App,
        *,
        changed: Callable[[bytes], bytes],
        left_to_mlflow: Callable[[Scope], bool],
        frame_options: Callable[[], str],
        stall: float,
        compress: bool,
    ) -> None:
        self._keeper = keeper
        self._mlflow = mlflow
        self._changed = changed
        self._left_to_mlflow = left_to_mlflow
        self._frame_options = frame_options
        self._stall = stall
        self._compress = compress
        self._page: Page | None = None
        if compress:
            keeper.want_compressed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        file = self._file(path)
        if file is None or (path == "/" and self._left_to_mlflow(scope)):
            await self._mlflow(scope, receive, send)
            return
        try:
            answer = await (self._for_page(file, scope) if path == "/" else self._for_file(file, scope))
        except OSError:
            answer = None
        if answer is None:
            await self._mlflow(scope, receive, send)  # it is gone, or another one by now
            return
        await answer(send)

    def _file(self, path: str) -> File | None:
        files = self._keeper.files
        if files is None:
            return None
        if path == "/":
            return files.by_name.get(INDEX)
        for place in _PLACES:
            if path.startswith(place):
                return files.by_name.get(path[len(place) :])
        return None

    async def _for_page(self, file: File, scope: Scope) -> Callable[[Send], Awaitable[None]] | None:
        page = self._page
        if page is None or page.of != file.digest:
            data = await asyncio.to_thread(_content, file)
            if data is None:
                return None
            page = self._page = await asyncio.to_thread(self._made, file, data)
        asked = conditions.asked(scope["headers"])
        coding = IDENTITY
        if asked.range is None or not takes_identity(asked.accept_encoding):
            coding = choose(
                asked.accept_encoding, {coding: len(body) for coding, (_, body) in page.bodies.items()}
            )
        etag, body = page.bodies[coding]
        return self._answer(scope, file, asked, coding, etag, len(body), body, varies=len(page.bodies) > 1)

    def _made(self, file: File, data: bytes) -> Page:
        page = self._changed(data)
        digest = hashlib.sha256(page).hexdigest()[:20]
        bodies = {IDENTITY: (f'"{digest}"'.encode("ascii"), page)}
        if self._compress:
            for coding, level in (("br", 11), ("zstd", 19), ("gzip", 9)):
                body = compressed(page, coding, level)
                tag = hashlib.sha256(body).hexdigest()[:20]
                bodies[coding] = (f'"{tag}-{coding}"'.encode("ascii"), body)
        return Page(file.digest, bodies)

    async def _for_file(self, file: File, scope: Scope) -> Callable[[Send], Awaitable[None]] | None:
        asked = conditions.asked(scope["headers"])
        bodies = self._keeper.bodies(file) if self._compress else {}
        varies = self._compress and file.compressible
        if bodies and (asked.range is None or not takes_identity(asked.accept_encoding)):
            coding = choose(asked.accept_encoding, {coding: body.size for coding, body in bodies.items()})
            if coding != IDENTITY:
                kept = bodies[coding]
                data = None
                if scope["method"] == "GET" and not _known(asked, kept.etag):
                    kept, data = await self._keeper.read(file, coding)
                return self._answer(scope, file, asked, coding, kept.etag, kept.size, data, varies=varies)
        etag = f'"{file.digest[:20]}"'.encode("ascii")
        return self._answer(scope, file, asked, IDENTITY, etag, file.size, None, varies=varies)

    def _answer(
        self,
        scope: Scope,
        file: File,
        asked: conditions.Asked,
        coding: str,
        etag: bytes,
        size: int,
        data: bytes | None,
        *,
        varies: bool,
    ) -> Callable[[Send], Awaitable[None]] | None:
        """What is to be sent; None where the file is not any more what it was."""
        headers: Headers = [
            (b"etag", etag),
            _kept_for(file),
            *([_VARY] if varies else []),
            _NOSNIFF,
        ]
        path: str = scope["path"]
        frames = self._frame_options().upper()
        if frames and frames != "NONE" and not path.startswith(_FRAMED):
            headers.append((b"x-frame-options", frames.encode("latin-1")))
        if asked.if_match is not None and not conditions.matches(asked.if_match, etag, weakly=False):
            return functools.partial(_nothing, 412, [*headers, (b"content-length", b"0")])
        if _known(asked, etag):
            return functools.partial(_nothing, 304, headers)
        headers.append((b"content-type", file.content_type))
        head = scope["method"] == "HEAD"
        part: conditions.Part | bool | None = None
        if coding == IDENTITY:
            headers.append((b"accept-ranges", b"bytes"))
            # RFC 9110, section 14.2: of GET alone.
            part = None if head else conditions.part(asked, etag, size)
        else:
            headers.append((b"content-encoding", coding.encode("ascii")))
        if part is False:
            what = (b"content-range", b"bytes */%d" % size)
            return functools.partial(_nothing, 416, [*headers, what, (b"content-length", b"0")])
        status, first, end = 200, 0, size
        if isinstance(part, conditions.Part):
            status, first, end = 206, part.first, part.last + 1
            headers.append((b"content-range", b"bytes %d-%d/%d" % (part.first, part.last, size)))
        headers.append((b"content-length", b"%d" % (end - first)))
        if head:
            return functools.partial(_nothing, status, headers)
        if data is not None:
            pieces = _pieces(data, first, end)
        else:
            descriptor = opened(file.source)
            if not unchanged(file, descriptor):
                os.close(descriptor)
                return None
            pieces = _read(descriptor, first, end)
        return functools.partial(self._send, scope, status, headers, pieces, end - first)

    async def _send(
        self,
        scope: Scope,
        status: int,
        headers: Headers,
        pieces: AsyncGenerator[bytes, None],
        left: int,
        send: Send,
    ) -> None:
        """In pieces, so that a slow client holds little of it. What can't go on is cut, and is seen to be."""
        exchange: Exchange = scope["exchange"]
        lost = scope["connection_lost"]
        async with contextlib.aclosing(pieces):
            try:
                await send({"type": "http.response.start", "status": status, "headers": headers})
                async for piece in pieces:
                    left -= len(piece)
                    async with asyncio.timeout(self._stall):
                        await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
                    if left > 0 and lost.over:
                        exchange.error = "client_gone"
                        break
            except TimeoutError:
                exchange.error = "client_stalled"
            except OSError:
                exchange.error = "crashed"
        if left > 0 and exchange.error is None:
            exchange.error = "crashed"  # the file has become shorter
        if exchange.error is not None:
            scope["cut"]()


def _kept_for(file: File) -> tuple[bytes, bytes]:
    """How long a browser keeps it without asking."""
    if file.lasting:
        return _LASTING
    return _ASK_AGAIN if file.content_type.startswith(b"text/html") else _FOR_A_DAY


def _known(asked: conditions.Asked, etag: bytes) -> bool:
    return asked.if_none_match is not None and conditions.matches(asked.if_none_match, etag, weakly=True)


async def _nothing(status: int, headers: Headers, send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _pieces(data: bytes, first: int, end: int) -> AsyncGenerator[bytes, None]:
    for at in range(first, max(end, first + 1), _PIECE):
        yield data[at : min(end, at + _PIECE)]


async def _read(descriptor: int, first: int, end: int) -> AsyncGenerator[bytes, None]:
    """The same out of a file, which is closed at the end."""
    try:
        while True:
            block = await asyncio.to_thread(os.pread, descriptor, min(_READ, end - first), first)
            async for piece in _pieces(block, 0, len(block)):
                yield piece
            first += len(block)
            if first >= end or not block:
                return
    finally:
        os.close(descriptor)


def _content(file: File) -> bytes | None:
    """The whole of it; None where it is not any more what it was."""
    with open(opened(file.source), "rb") as stream:  # noqa: PTH123 - opened without following a link
        return stream.read() if unchanged(file, stream.fileno()) else None
