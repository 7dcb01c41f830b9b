"""Whom a request waits for now, as the watchdog is to see it."""

from __future__ import annotations

import asyncio
import math

from proxy.watchdog import Passage


class Clock:
    """Sets the passage's deadline before each wait; once the client has left, that is not moved any more."""

    __slots__ = ("_exchange", "_passage", "_stall", "_time")

    def __init__(self, passage: Passage, stall: float) -> None:
        self._time = asyncio.get_running_loop().time
        self._passage = passage
        self._exchange = passage.exchange
        self._stall = stall

    def client(self) -> None:
        """A wait for the client begins."""
        if not self._exchange.abandoned:
            self._passage.late = "client_stalled"
            self._passage.deadline = self._time() + self._stall

    def mlflow(self, seconds: float) -> None:
        """A wait for MLflow begins, and may be so long."""
        if not self._exchange.abandoned:
            self._passage.late = "stalled"
            self._passage.deadline = self._time() + seconds

    def stop(self) -> None:
        """What is waited for now has a bound of its own."""
        if not self._exchange.abandoned:
            self._passage.deadline = math.inf
