"""Requests that wait: for MLflow to be up, for a place in it, and for memory to hold their bodies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from proxy.exchange import Refused

RETRY_SECONDS = 0.05


class Mlflow(Protocol):
    """What a waiting request needs to know of MLflow's process."""

    @property
    def up(self) -> bool:
        """Whether a generation has taken the socket and lives."""

    @property
    def reason(self) -> str:
        """Why it is not ready, for a person."""

    async def wait_up(self, timeout: float) -> bool:  # noqa: ASYNC109 - the caller's patience is the point
        """Wait for `up`, at most that many seconds."""


class Hold:
    """The bounds on waiting. `requests` may wait at once, each for `seconds`; together they hold `bytes`."""

    def __init__(self, mlflow: Mlflow, *, requests: int, seconds: float, held_bytes: int) -> None:
        self._mlflow = mlflow
        self._requests = requests
        self.seconds = seconds
        self._bytes = held_bytes
        self.waiting = 0
        """How many requests wait now, for MLflow or for a place in it."""
        self.bytes_held = 0
        """How many bytes of request bodies are in memory now, held or on their way."""

    async def until_up(self, since: float) -> None:
        """Wait until MLflow takes connections; `since` (loop time) is when this request began to wait.

        Raises Refused (503) when the wait is too long or too many wait already.
        """
        if self._mlflow.up:
            return
        left = self._left(since)
        with self._one_more():
            up = left > 0 and await self._mlflow.wait_up(left)
        if not up:
            raise self._not_ready(self._mlflow.reason)

    async def a_moment(self, since: float) -> None:
        """Wait a little, where MLflow is said to be up and takes no connection; raises as `until_up` does."""
        if self._left(since) <= 0:
            raise self._not_ready("it takes no connection")
        with self._one_more():
            await asyncio.sleep(RETRY_SECONDS)

    async def pause(self, since: float, seconds: float) -> bool:
        """Wait so long, before MLflow is asked the same again; False at once where the wait since `since`
        would be too long. Raises Refused (503) when too many wait already."""
        if self._left(since) <= seconds:
            return False
        with self._one_more():
            await asyncio.sleep(seconds)
        return True

    def _left(self, since: float) -> float:
        return since + self.seconds - asyncio.get_running_loop().time()

    def _not_ready(self, reason: str) -> Refused:
        return Refused(
            503,
            f"MLflow is not ready: {reason}. This request was held for "
            f"{self.seconds:g} s and was not sent. Try again.",
            reason="not_ready",
            retry_after=min(30, math.ceil(self.seconds)),
        )

    def take(self, size: int) -> None:
        """Count `size` bytes of a body into memory; `give` takes them out. Raises Refused (503)."""
        if self.bytes_held + size > self._bytes:
            raise Refused(
                503,
                "The server holds as many bytes of request bodies as it may (PROXY_BUFFER_BYTES). Try again.",
                reason="overloaded",
                retry_after=2,
            )
        self.bytes_held += size

    def give(self, size: int) -> None:
        self.bytes_held -= size

    def _one_more(self) -> _Waiting:
        if self.waiting >= self._requests:
            raise Refused(
                503,
                f"{self.waiting} requests are waiting already (PROXY_HOLD_REQUESTS). Try again.",
                reason="overloaded",
                retry_after=2,
            )
        return _Waiting(self)

    @asynccontextmanager
    async def place(self, slots: Slots | None) -> AsyncIterator[None]:
        """A place in MLflow, first come first served; none is needed where `slots` is None.

        Raises Refused (503) when too many wait already, or when the wait is too long.
        """
        if slots is None:
            yield
            return
        if slots.semaphore.locked():
            with self._one_more():
                try:
                    await asyncio.wait_for(slots.semaphore.acquire(), self.seconds)
                except TimeoutError:
                    raise Refused(
                        503,
                        f"MLflow has been busy with other requests for {self.seconds:g} s; this one was not "
                        "sent. Try again.",
                        reason="overloaded",
                        retry_after=2,
                    ) from None
        else:
            await slots.semaphore.acquire()
        slots.used += 1
        try:
            yield
        finally:
            slots.used -= 1
            slots.semaphore.release()


class _Waiting:
    __slots__ = ("_hold",)

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def __enter__(self) -> None:
        self._hold.waiting += 1

    def __exit__(self, *_: object) -> None:
        self._hold.waiting -= 1


class Slots:
    """So many requests of one kind may be inside MLflow at once."""

    __slots__ = ("semaphore", "used")

    def __init__(self, number: int) -> None:
        self.semaphore = asyncio.Semaphore(number)
        self.used = 0
