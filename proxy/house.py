"""The applications and all that they stand on, built from the settings; exchanged whole when those change."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from proxy.auth.oidc import Provider
from proxy.callers import Callers
from proxy.edge import Edge
from proxy.headers import Asked
from proxy.lane import Client, Lane
from proxy.tasks import ended
from proxy.ways import Ways

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class House:
    """What one reading of the settings made; until ``close`` requests may be under way in it."""

    def __init__(
        self,
        callers: Callers,
        edges: dict[str, Edge],
        lanes: dict[str, Lane],
        ways: Ways,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self.callers = callers
        self.edges = edges
        """One application for each listener, by its name."""
        self.lanes = lanes
        """The lane for plain requests, of the listeners that have one."""
        self.ways = ways
        self.requests = 0
        self.emptied: asyncio.Event | None = None
        """To be set when the last request has left, once no further one comes."""
        self._stack = stack

    def enter(self) -> None:
        """A request is under way in it, until `leave`."""
        self.requests += 1

    def leave(self) -> None:
        """A request has ended."""
        self.requests -= 1
        if self.emptied is not None and not self.requests:
            self.emptied.set()

    async def close(self) -> None:
        await self._stack.aclose()


class Door:
    """One listener's application, for good: each request goes into the house that stands when it comes."""

    def __init__(self, listener: str) -> None:
        self._listener = listener
        self._house: House | None = None
        self._app: Edge | None = None
        self._lane: Lane | None = None

    def lead_to(self, house: House) -> None:
        self._house, self._app = house, house.edges[self._listener]
        self._lane = house.lanes.get(self._listener)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        house, app = self._house, self._app
        assert house is not None
        assert app is not None
        house.enter()
        try:
            await app(scope, receive, send)
        finally:
            house.leave()

    def cross(self, client: Client, scope: Scope, asked: Asked, body: bytes) -> bool:
        """As Lane.cross."""
        if self._lane is None:
            return False
        assert self._house is not None
        return self._lane.cross(client, scope, asked, body, self._house)

    def unparsed(self, *what: Any) -> bytes:
        """As Edge.unparsed."""
        assert self._app is not None
        return self._app.unparsed(*what)


class Houses:
    """The house that stands and those that are being left."""

    def __init__(self, doors: list[Door]) -> None:
        self.doors = doors
        self.standing: House | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def provider(self) -> Provider | None:
        """The identity provider of the one that stands, where it has one."""
        sign_in = None if self.standing is None else self.standing.callers.sign_in
        return None if sign_in is None else sign_in.provider

    def move_into(self, house: House) -> None:
        """From now on requests go into this one; the one before is closed when its last request has ended."""
        before, self.standing = self.standing, house
        for door in self.doors:
            door.lead_to(house)
        if before is not None:
            if before.ways is not house.ways:
                before.ways.pool.close()
            task = asyncio.create_task(_leave(before))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    @contextlib.asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """All of them are closed at the end."""
        try:
            yield
        finally:
            await ended(self._leaving)
            if self.standing is not None:
                await self.standing.close()
                self.standing.ways.pool.close()


async def _leave(house: House) -> None:
    house.emptied = asyncio.Event()
    try:
        if house.requests:
            await house.emptied.wait()
    finally:
        await house.close()
    # It was frozen with all that lives for ever (serve.py), and has ended now.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
