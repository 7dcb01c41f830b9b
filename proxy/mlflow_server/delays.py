"""How long to wait before MLflow is started again: longer and longer where it can't start, else a moment."""

from __future__ import annotations

FIRST, LONGEST = 1.0, 30.0
"""Seconds: the first wait, which is doubled with each start that does not become ready, and the longest."""
LONGEST_ONCE_READY = 4.0
"""The longest after one that had become ready: what ended it did not keep it from starting, and clients wait.
One that becomes ready and ends at once, again and again, is damped by this and by the time a start takes."""
HEALTHY = 60.0
"""After so many seconds of being ready, what went before counts no more."""


class Delays:
    """The waits of one supervisor, one after the other."""

    def __init__(self) -> None:
        self._next = FIRST

    def after(self, ready_for: float | None) -> float:
        """Seconds to wait now; `ready_for` is how long the one that has ended had been ready, None where it
        never was."""
        if ready_for is None:
            longest = LONGEST
        else:
            longest = LONGEST_ONCE_READY
            if ready_for >= HEALTHY:
                self._next = FIRST
        delay = min(self._next, longest)
        self._next = min(delay * 2, longest)
        return delay
