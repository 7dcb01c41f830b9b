"""How each operation does, hour by hour: how slow its slowest tenth begins, and which share fails."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from proxy.operations import OPERATIONS
from proxy.review.findings import Evidence, Kind, Signal
from proxy.review.noticed import Noticed, clock
from proxy.review.profiles import Usual

HOUR = 3600.0
FINE = 4
"""Buckets for each doubling of the time."""
BUCKETS = 32 * FINE
LONGEST_MS = 1e9
_ENOUGH_HOURS = 24
THEIRS = frozenset({"client_gone", "client_stalled", "revoked"})
# What takes as long as its body does says nothing of how the server is.
_STREAMED = {each.name for each in OPERATIONS if each.body == "stream" or each.answer == "sse"}


@dataclass(slots=True, eq=False)
class Hour:
    """One operation in the hour that is now."""

    name: str
    timed: bool
    hour: int = -1
    count: int = 0
    failed: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    slowest: list[Evidence] = field(default_factory=list)
    slowest_ms: float = 0.0
    lines: list[Evidence] = field(default_factory=list)

    def slow(self) -> float:
        """Milliseconds that a tenth took longer than, to a fifth exactly."""
        left = sum(self.buckets) / 10
        for bucket in range(BUCKETS - 1, -1, -1):
            left -= self.buckets[bucket]
            if left <= 0:
                return float(2 ** ((bucket + 0.5) / FINE) - 1)
        return 0.0


class Health:
    """Of all operations."""

    def __init__(self, noticed: Noticed) -> None:
        self._noticed = noticed
        self._limits = noticed.thresholds
        self._usual = noticed.learned.operations
        self.operations = {each.name: Hour(each.name, each.name not in _STREAMED) for each in OPERATIONS}

    def turn(self, now: Hour, hour: int) -> None:
        """Another hour has begun for that operation."""
        if hour < now.hour:
            return  # a long request that began in the hour before
        if now.count:
            self._judge(now)
        now.hour, now.count, now.failed = hour, 0, 0
        now.buckets, now.lines, now.slowest, now.slowest_ms = [0] * BUCKETS, [], [], 0.0

    def end(self) -> None:
        """The log is over."""
        for now in self.operations.values():
            self.turn(now, now.hour + 1)

    def _judge(self, now: Hour) -> None:
        limits, usual = self._limits, self._usual.setdefault(now.name, Usual())
        begin = now.hour * HOUR
        share = now.failed / now.count
        enough = len(usual.failed) >= _ENOUGH_HOURS
        failing = sorted(usual.failed)[int(len(usual.failed) * 0.98)] if enough else 0.0
        if now.failed >= limits.errors and share >= max(limits.error_share, 3 * failing):
            why = (
                f"{now.failed} of {now.count} requests of {now.name} failed in the hour of {clock(begin)} "
                f"UTC; usually {failing:.1%} at most"
            )
            self._say("errors", now, begin, why, now.lines)
        slow = None
        if now.timed and now.count >= limits.slower_requests:
            slow = now.slow()
            if len(usual.slow) >= _ENOUGH_HOURS:
                middle, most = statistics.median(usual.slow), sorted(usual.slow)[int(len(usual.slow) * 0.98)]
                if (
                    slow >= limits.slower * middle
                    and slow >= 1.4 * most
                    and slow >= middle + limits.slower_ms
                ):
                    why = (
                        f"a tenth of {now.count} answers of {now.name} began after {slow:.0f} ms and more in "
                        f"the hour of {clock(begin)} UTC; usually {middle:.0f} ms"
                    )
                    self._say("latency", now, begin, why, now.slowest)
        usual.add(slow, share)

    def _say(self, kind: Kind, now: Hour, begin: float, why: str, lines: list[Evidence]) -> None:
        signal = Signal(kind, 3.0, begin, begin + HOUR, why, list(lines), operation=now.name)
        self._noticed.add(signal)
