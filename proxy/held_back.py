"""Notices that a client has left whose upload is held back, when nothing is read that would tell of it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

LOOK_SECONDS = 0.5
"""Seconds between two looks at a connection from which nothing is read."""
AHEAD = 64 * 2**20
"""Bytes that may be taken out of all such connections before anybody wants them."""


class HeldBack:
    """One client's connection while nothing is read from it.

    The end of a connection stands behind the bytes that the client had sent before, and its system sends
    those only as ours takes some: a program killed in the middle of an upload looks alive for as long as
    nothing is read. So a piece is taken now and then, with which the end comes nearer: the client's buffer
    holds some 100 KB on a network and 3 MB within one machine. `take` reads the next piece, `ahead` says how
    many bytes were taken and not asked for, `gone` ends the connection.
    """

    _all_ahead = 0

    __slots__ = ("_ahead", "_counted", "_descriptor", "_gone", "_take", "_timer")

    def __init__(
        self, ahead: Callable[[], int | None], take: Callable[[], None], gone: Callable[[], None]
    ) -> None:
        self._ahead = ahead
        self._take = take
        self._gone = gone
        self._descriptor = -1
        self._counted = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def watched(self) -> bool:
        return self._timer is not None

    def begin(self, descriptor: int) -> None:
        """Nothing is read from now on; `ahead` returns None when that is over."""
        self._descriptor = descriptor
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def end(self) -> None:
        """The connection has ended, or is read from again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count(0)

    def _look(self) -> None:
        self._timer = None
        ahead = self._ahead()
        if ahead is None:
            self._count(0)
        elif _has_left(self._descriptor):
            self._count(0)
            self._gone()
        else:
            self._count(ahead)
            self.begin(self._descriptor)
            if HeldBack._all_ahead < AHEAD:
                self._take()

    def _count(self, ahead: int) -> None:
        HeldBack._all_ahead += ahead - self._counted
        self._counted = ahead


def _has_left(descriptor: int) -> bool:
    """Whether the other end has closed the connection, be there bytes to read before that or not."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))
