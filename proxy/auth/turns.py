"""Turns: of the tokens that nobody here knows yet, a few are looked up at once, by address and in all."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque

from proxy.auth.login_limits import Attempt, LockedOut, LoginLimits

AT_ONCE = 4
"""As many as the store has threads (store.database.THREADS): more would only wait there, before the queries
of everybody else."""
WAITING = 2_000
"""Who waits for a turn at once, over all addresses."""


class TooMany(Exception):
    """WAITING are waiting already."""


class Turns:
    """One event loop's. Whoever has had a turn gives it back, with the failure counted before that.

    Until it is known what an attempt is, it counts as a failure: an address that may fail n times more has at
    most n turns. Right tokens give theirs back and leave nothing, so many new ones behind one address wait
    for each other's query and for nothing else. Addresses take turns, so that none waits for another's many.
    """

    def __init__(self, limits: LoginLimits) -> None:
        self._limits = limits
        self._under_way: Counter[str] = Counter()
        self._taken = 0
        self._lines: OrderedDict[str, deque[tuple[Attempt, asyncio.Future[bool]]]] = OrderedDict()
        self._waiting = 0

    async def take(self, attempt: Attempt) -> LockedOut | None:
        """Wait for a turn; None once it is there, else why there is none. Raises TooMany."""
        while (locked := self._limits.refused(attempt)) is None:
            if attempt.network not in self._lines and self._free(attempt):
                self._grant(attempt.network)
                return None
            if self._waiting >= WAITING:
                raise TooMany
            if await self._wait(attempt):
                return None
        return locked

    def give_back(self, network: str) -> None:
        """That network's turn is over."""
        self._taken -= 1
        self._under_way[network] -= 1
        if not self._under_way[network]:
            del self._under_way[network]
        self._hand_on()

    def _free(self, attempt: Attempt) -> bool:
        return self._taken < AT_ONCE and self._under_way[attempt.network] < self._limits.left(attempt)

    def _grant(self, network: str) -> None:
        self._taken += 1
        self._under_way[network] += 1

    async def _wait(self, attempt: Attempt) -> bool:
        """True with a turn, False where the limits are to be asked again."""
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(attempt.network, deque()).append((attempt, turn))
        self._waiting += 1
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give_back(attempt.network)
            raise
        finally:
            self._waiting -= 1

    def _hand_on(self) -> None:
        """Give what is free to those who wait. A line that can't have more has a turn under way, and is
        looked at again when that is given back."""
        full = []
        while self._lines and self._taken < AT_ONCE:
            network, line = self._lines.popitem(last=False)
            while line and line[0][1].done():  # its client has left
                line.popleft()
            if not line:
                continue
            attempt, turn = line[0]
            if self._limits.refused(attempt):
                for _, one in line:
                    if not one.done():
                        one.set_result(False)
            elif not self._free(attempt):
                full.append((network, line))
            else:
                line.popleft()
                self._grant(network)
                turn.set_result(True)
                if line:
                    self._lines[network] = line
        for network, line in reversed(full):
            self._lines[network] = line
            self._lines.move_to_end(network, last=False)
