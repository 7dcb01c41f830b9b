"""Notices requests in which nothing moves: one sweep a second over all of them, so that each pays nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection

from proxy.exchange import Exchange

SWEEP_SECONDS = 1.0


class Passage:
    """One request's way through the forwarder, and what ends it early.

    The forwarder sets `deadline` (loop time) and `late` (the reason it then ends with, from
    exchange.ERRORS) before each wait; the connection calls `client_left`. `unsent` says how many bytes the
    client has not taken yet: while that changes, no wait of `stall` seconds for the client runs out.
    """

    __slots__ = (
        "_unsent",
        "_unsent_before",
        "abandon_for",
        "deadline",
        "exchange",
        "late",
        "left_with_mlflow",
        "stall",
        "task",
        "why",
    )

    def __init__(
        self,
        task: asyncio.Task[object] | None,
        exchange: Exchange,
        *,
        abandon_for: float,
        stall: float,
        unsent: Callable[[], int],
    ) -> None:
        self.task = task
        self.exchange = exchange
        self.abandon_for = abandon_for
        self.stall = stall
        self._unsent = unsent
        self._unsent_before = 0
        self.deadline = math.inf
        self.late = "stalled"
        self.left_with_mlflow = False
        """True while a thread of MLflow works on the request and can't be stopped."""
        self.why: str | None = None
        """Why the task was cancelled by us; None while it wasn't."""

    def client_left(self) -> None:
        """The client's connection ended. MLflow's thread, once it runs, is waited for; all else ends now."""
        if self.left_with_mlflow:
            if not self.exchange.abandoned:
                self.exchange.abandoned = True
                self.exchange.error = "client_gone"
                self.deadline = asyncio.get_running_loop().time() + self.abandon_for
                self.late = "client_gone"
        else:
            self.end("client_gone")

    def look(self, now: float) -> None:
        """Begin the wait for the client anew if it took a byte since the last look.

        The kernel takes more from us only when a third of its buffer, megabytes with a good line, is free
        again: of a slow client nothing is seen for minutes unless one looks into that buffer.
        """
        if self.late != "client_stalled" or self.exchange.abandoned:
            return
        unsent = self._unsent()
        if unsent != self._unsent_before:
            self._unsent_before = unsent
            self.deadline = now + self.stall

    def revoke(self) -> None:
        """Its credential counts no more: what still flows ends, but not what MLflow has whole already."""
        if not self.left_with_mlflow:
            self.end("revoked")

    def end(self, why: str) -> None:
        """Stop what works for the request, once."""
        if self.why is None:
            self.why = why
            self.stop()

    def stop(self) -> None:
        """Cancel the request's task."""
        assert self.task is not None
        self.task.cancel()

    def ours(self) -> bool:
        """In a CancelledError's handler: whether `end` raised it, which is then taken back."""
        if self.why is None:
            return False
        assert self.task is not None
        return self.task.uncancel() == 0


class Watchdog:
    """The passages under way; `run` ends those that are past their deadline."""

    def __init__(self) -> None:
        self.passages: set[Passage] = set()

    def end_credentials(self, ids: Collection[str]) -> None:
        """End what is under way with a credential, or a session, of those ids."""
        for passage in list(self.passages):
            identity, session = passage.exchange.identity, passage.exchange.session
            credential = None if identity is None else identity.credential
            if session in ids or (credential is not None and credential.id in ids):
                passage.revoke()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            for passage in list(self.passages):
                passage.look(now)
                if passage.deadline < now:
                    passage.end(passage.late)
