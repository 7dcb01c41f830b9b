"""The last hours in numbers, for a person who has no other program to look at them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from proxy.metrics import BOUNDS, Tally

EVERY = 60.0
"""Seconds between two samples."""
KEPT = 360
"""Samples, of a minute each."""
STRIDE = 15
"""Every so many samples the durations by operation are kept as well, which are larger."""


class Minute(NamedTuple):
    """One sample: what came since the one before."""

    at: float
    """Its end, Unix time."""
    requests: float
    """A second."""
    failed: float
    """Of these answered with 5xx, a second."""
    median: float | None
    """Seconds; None where nothing came."""
    slow: float | None
    """The 95th percentile, as well."""
    memory: int
    """Bytes that MLflow's processes have."""


class Share(NamedTuple):
    """One operation's part of a time."""

    name: str
    requests: int
    failed: int
    median: float
    slow: float
    slowest: float
    """The 99th percentile."""


class History:
    """Samples of a Tally. `memory` tells MLflow's bytes and may block; `every` is EVERY but in tests."""

    def __init__(
        self, tally: Callable[[], Tally], memory: Callable[[], int], *, every: float = EVERY
    ) -> None:
        self._tally = tally
        self._memory = memory
        self._every = every
        self._last = tally()
        self._marks: deque[Tally] = deque([self._last], maxlen=KEPT // STRIDE + 1)
        self._taken = 0
        self.minutes: deque[Minute] = deque(maxlen=KEPT)

    async def run(self) -> None:
        """Take samples, for ever."""
        while True:
            await asyncio.sleep(self._every)
            await self.take()

    async def take(self) -> None:
        """Take one sample."""
        memory = await asyncio.to_thread(self._memory)
        before, now = self._last, self._tally()
        seconds = max(now.at - before.at, 1e-3)
        buckets = _together(_between(before.operations, now.operations).values())
        self.minutes.append(
            Minute(
                now.at,
                sum(buckets) / seconds,
                (now.statuses.get("5", 0) - before.statuses.get("5", 0)) / seconds,
                quantile(0.5, buckets),
                quantile(0.95, buckets),
                memory,
            )
        )
        self._last = now
        self._taken += 1
        if self._taken % STRIDE == 0:
            self._marks.append(now)

    def shares(self, seconds: float) -> tuple[float, list[Share]]:
        """Since when, in Unix time, and what came by operation, the most frequent first; about so many
        seconds back."""
        now = self._tally()
        since = min(self._marks, key=lambda mark: abs(now.at - mark.at - seconds))
        found = []
        for name, buckets in _between(since.operations, now.operations).items():
            median = quantile(0.5, buckets)
            if median is None:
                continue
            slow, slowest = quantile(0.95, buckets), quantile(0.99, buckets)
            assert slow is not None
            assert slowest is not None
            failed = now.failed.get(name, 0) - since.failed.get(name, 0)
            found.append(Share(name, sum(buckets), failed, median, slow, slowest))
        return since.at, sorted(found, key=lambda share: -share.requests)


def quantile(part: float, buckets: Sequence[int]) -> float | None:
    """An estimate as Prometheus makes it (histogram_quantile): even within a bucket, and the highest bound
    where it lies above. None of nothing."""
    total = sum(buckets)
    if not total:
        return None
    wanted = part * total
    below = 0
    low = 0.0
    for bound, number in zip(BOUNDS, buckets, strict=False):
        if number and below + number >= wanted:
            return low + (bound - low) * (wanted - below) / number
        below += number
        low = bound
    return BOUNDS[-1]


def _between(
    before: Mapping[str, Sequence[int]], now: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    none = (0,) * (len(BOUNDS) + 1)
    return {
        name: tuple(late - early for early, late in zip(before.get(name, none), buckets, strict=True))
        for name, buckets in now.items()
    }


def _together(many: Iterable[Sequence[int]]) -> tuple[int, ...]:
    none = (0,) * (len(BOUNDS) + 1)
    return tuple(map(sum, zip(none, *many, strict=True)))
