"""The service's side of the doctor: for a while, a page at a path that nobody can guess says what arrived.

It is opened by the control socket alone, so by whoever may do with the service what they like, and is there
for as long as the doctor is. For everybody else nothing is at that path, as at any other. It tells what it
saw of that very request, takes a body and throws it away, and answers late or in pieces when asked to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from proxy import __version__
from proxy.addresses import is_trusted
from proxy.control import Command, Say
from proxy.errors import UserError
from proxy.exchange import Exchange, Refused
from proxy.gate import Page
from proxy.operations import OWN
from proxy.pages.answers import JSON, answer, head
from proxy.settings import Loaded
from proxy.settings.compare import compare

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("proxy.doctor")

PREFIX = "/-/doctor/"
MOST_OPEN = 8
LONGEST_SECONDS = 3600.0
"""That a visit may last at most."""
LONGEST_BODY = 64 * 2**20
LONGEST_WAIT = 900.0
PIECES = 3
PIECE = 1024
"""Bytes of a piece: what is held back until some kilobytes have come together is seen."""
PIECE_SECONDS = 10.0
"""That a piece may take to the doctor before it counts as held back."""
_FORWARDED = (
    b"forwarded",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"x-request-id",
)


class _Visit:
    def __init__(self, end: Callable[[], None], seconds: float) -> None:
        self.timer = asyncio.get_running_loop().call_later(seconds, end)
        self.arrived = 0
        """The number of the latest piece that the doctor has."""
        self.news = asyncio.Event()


class Visits:
    """Those that are open. `loaded` gives the settings in force, and `reread` reads them again, as a reload
    does."""

    def __init__(
        self, loaded: Callable[[], Loaded], reread: Callable[[], Loaded], mlflow_version: str
    ) -> None:
        self._loaded = loaded
        self._reread = reread
        self._mlflow_version = mlflow_version
        self._open: dict[str, _Visit] = {}
        self._pages: dict[str, Page] = {}

    @property
    def commands(self) -> dict[str, Command]:
        """For the control socket, by name."""
        return {"doctor": self.begin, "doctor-got": self.got, "doctor-end": self.end}

    def moves_to(self, pages: dict[str, Page]) -> None:
        """Be found among those pages from now on."""
        self._pages = pages
        for path in self._open:
            pages[path] = self._page(path)

    async def begin(self, asked: dict[str, Any], say: Say) -> bool:
        """The command ``doctor``: open a visit for ``seconds`` and tell of the service, in JSON."""
        if len(self._open) >= MOST_OPEN:
            say(f"{MOST_OPEN} doctors are at work already; they end by themselves")
            return False
        seconds = min(float(asked.get("seconds", 60.0)), LONGEST_SECONDS)
        changed, wrong = await asyncio.to_thread(self._changed)
        path = PREFIX + secrets.token_urlsafe(24)
        self._open[path] = _Visit(lambda: self._end(path), seconds)
        self._pages[path] = self._page(path)
        log.info("user id %s has the doctor look at this service, for %g s at most", asked["uid"], seconds)
        told = {
            "path": path,
            "version": __version__,
            "mlflow": self._mlflow_version,
            "changed": changed,
            "wrong": wrong,
            "warnings": list(self._loaded().warnings),
        }
        say(json.dumps(told))
        return True

    async def got(self, asked: dict[str, Any], say: Say) -> bool:
        """The command ``doctor-got``: the piece of that ``number`` has arrived."""
        visit = self._open.get(asked["path"])
        if visit is None:
            say("that visit is over")
            return False
        visit.arrived = int(asked["number"])
        visit.news.set()
        return True

    async def end(self, asked: dict[str, Any], _say: Say) -> bool:
        """The command ``doctor-end``."""
        self._end(asked["path"])
        return True

    def _changed(self) -> tuple[list[str], list[str]]:
        """Which settings would be other ones if they were read again, and what is wrong with them then."""
        try:
            again = self._reread()
        except UserError as error:
            return [], str(error).splitlines()
        return [change.variable for change in compare(self._loaded(), again).changes], []

    def _end(self, path: str) -> None:
        visit = self._open.pop(path, None)
        if visit is not None:
            visit.timer.cancel()
            self._pages.pop(path, None)

    def _page(self, path: str) -> Page:
        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            visit = self._open.get(path)
            if visit is None:
                raise Refused(404, "There is nothing here.", reason="bad_path")
            fields = parse_qs(scope["query_string"].decode("latin-1"))
            do = fields.get("do", ["echo"])[0]
            if do == "wait":
                await asyncio.sleep(min(_number(fields.get("late", ["0"])[0]), LONGEST_WAIT))
                await _say(scope, send, {"waited": True})
            elif do == "stream":
                await _stream(visit, scope, send)
            else:
                await _say(scope, send, {**self._seen(scope), "body": await _body(receive)})

        return Page(OWN["doctor"], page)

    def _seen(self, scope: Scope) -> dict[str, Any]:
        exchange: Exchange = scope["exchange"]
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        peer = scope["client"] or ("", 0)
        return {
            "peer": [peer[0], peer[1]],
            "trusted": is_trusted(peer[0], self._loaded().settings.trusted_proxies),
            "client": exchange.client,
            "scheme": exchange.scheme,
            "http": scope["http_version"],
            "method": scope["method"],
            "host": _values(headers, b"host"),
            "connection": _values(headers, b"connection"),
            "authorization": bool(_values(headers, b"authorization")),
            "cookie": bool(_values(headers, b"cookie")),
            "forwarded": {name.decode(): found for name in _FORWARDED if (found := _values(headers, name))},
        }


def _number(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text):
        raise Refused(400, "That is no number of seconds.", reason="bad_request")
    return float(text)


async def _body(receive: Receive) -> int:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if size > LONGEST_BODY:
            raise Refused(413, "That is more than a doctor sends.", reason="body_too_large")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return size


async def _stream(visit: _Visit, scope: Scope, send: Send) -> None:
    """Send pieces, each when the one before has arrived; the last line says how many of them did in time."""
    visit.arrived = 0
    size = PIECES * PIECE
    plain = [pair for pair in head("text/event-stream", size) if pair[0] != b"content-length"]
    await send({"type": "http.response.start", "status": 200, "headers": plain})
    in_time = 0
    for number in range(1, PIECES + 1):
        line = f"data: {number} ".encode()
        piece = line + b"." * (PIECE - len(line) - 2) + b"\n\n"
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                while visit.arrived < number:
                    visit.news.clear()
                    await visit.news.wait()
        except TimeoutError:
            break
        in_time = number
    await send({"type": "http.response.body", "body": f"data: in time {in_time}\n\n".encode()})
    scope["exchange"].status = 200


async def _say(scope: Scope, send: Send, what: dict[str, Any]) -> None:
    await answer(scope, send, 200, json.dumps(what).encode(), JSON)


def _values(headers: list[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in headers if name == wanted]
