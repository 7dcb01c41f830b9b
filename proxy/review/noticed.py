"""Where the watchers put what they notice, and what they share: thresholds, and what was learned."""

from __future__ import annotations

import time

from proxy.review.findings import LINES_SHOWN, MOST_SIGNALS, Evidence, Signal
from proxy.review.profiles import DAY, Learned
from proxy.review.thresholds import Thresholds

GIGABYTE = 1e9


class Noticed:
    """The signals so far."""

    def __init__(self, thresholds: Thresholds, learned: Learned) -> None:
        self.thresholds = thresholds
        self.learned = learned
        self.signals: list[Signal] = []
        self.left_out = 0
        """Signals beyond those that are kept."""

    def learning(self, t: float) -> bool:
        """Whether too little is known of what is usual at that time (Unix, seconds)."""
        begin = self.learned.begin
        return begin is None or t < begin + self.thresholds.learn_days * DAY

    def add(self, signal: Signal) -> None:
        signal.learning = self.learning(signal.begin)
        if len(self.signals) < MOST_SIGNALS:
            self.signals.append(signal)
        else:
            self.left_out += 1


def keep(lines: list[Evidence], line: Evidence) -> None:
    """Among the first lines of something, and then among its last."""
    if len(lines) >= LINES_SHOWN:
        del lines[LINES_SHOWN // 2]
    lines.append(line)


def clock(t: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(t))


def lasted(begin: float, end: float) -> str:
    """How long that is, in words."""
    seconds = max(end - begin, 1)
    for unit, length in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
