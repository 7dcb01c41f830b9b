"""A review from its beginning to its end: files in, findings out."""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from proxy.review.findings import Finding, Signal, gathered
from proxy.review.noticed import Noticed
from proxy.review.profiles import DAY, Learned
from proxy.review.reading import Stream, files_named, size_of
from proxy.review.thresholds import Thresholds
from proxy.review.watch import Seen, Watch

FOUND_NOTHING, FOUND, NOT_READ = 0, 1, 2
_SAY_EVERY = 0.5
_SLACK = timedelta(seconds=5)
"""By how much lines of two files may change places, so that the reading doesn't change files at each."""
# What needs nothing learned: a log too short to learn from is judged by these alone.
_WITHOUT_LEARNING = frozenset({"downloads", "deletions", "experiments"})
_ALWAYS = frozenset({"refusals", "guessing", "success-after-failures", "forbidden"})


@dataclass(slots=True)
class Report:
    """What came of it."""

    seen: Seen
    learned: Learned
    thresholds: Thresholds
    files: list[str]
    findings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    """What is unusual and has an ordinary explanation, or too few points."""
    troubles: list[str] = field(default_factory=list)
    """What could not be read."""
    left_out: int = 0
    short: bool = False
    """The log is too short to learn from."""

    @property
    def exit_code(self) -> int:
        if self.troubles:
            return NOT_READ
        return FOUND if self.findings else FOUND_NOTHING


class Progress:
    """How far the reading is, on one line of a terminal."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._total = total
        self._shown = shown
        self._next = time.monotonic() + _SAY_EVERY
        self._began = time.monotonic()
        self.done = 0
        self.lines = 0

    def took(self, size: int) -> None:
        self.done += size

    def tick(self) -> None:
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next = now + _SAY_EVERY
            of = (
                f" of {self._total / 1e6:.0f} MB, {100 * self.done / self._total:.0f} %"
                if self._total
                else " MB"
            )
            sys.stderr.write(f"\r\x1b[Kreading: {self.done / 1e6:.0f}{of}, {now - self._began:.0f} s")
            sys.stderr.flush()

    def over(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def review(
    names: Sequence[str], thresholds: Thresholds, learned: Learned | None = None, *, progress: bool = False
) -> Report:
    """Read the files, ``-`` for standard input, in the order of their times, and judge what is in them.

    `learned` goes on being learned. Memory does not grow with the log.
    """
    learned = Learned() if learned is None else learned
    known = learned.begin is not None
    files = files_named(names)
    shown = Progress(size_of(files), shown=progress)
    noticed = Noticed(thresholds, learned)
    watch = Watch(noticed, shown.tick)
    streams = [Stream(name, shown.took) for name in files]
    waiting = [
        (begins, number) for number, stream in enumerate(streams) if (begins := stream.begins()) is not None
    ]
    heapq.heapify(waiting)
    while waiting:
        _, number = heapq.heappop(waiting)
        limit = _later(waiting[0][0]) if waiting else None
        stays = watch.consume(streams[number], limit)
        if stays is not None:
            heapq.heappush(waiting, (stays, number))
    watch.end()
    shown.over()
    report = Report(watch.seen, learned, thresholds, files, left_out=noticed.left_out)
    report.troubles = [f"{each.name}: {each.trouble}" for each in streams if each.trouble is not None]
    if not report.troubles and not (watch.seen.access or watch.seen.audit or watch.seen.already):
        report.troubles.append("no line of an access log (PROXY_LOG_FORMAT=json) or audit log is in it")
    span = watch.seen.last - (watch.seen.first or watch.seen.last)
    report.short = not known and span < thresholds.learn_days * DAY
    for each in gathered([each for each in noticed.signals if _counts(each, report.short)]):
        (report.findings if each.points >= thresholds.points else report.notes).append(each)
    report.findings.sort(key=lambda each: (-each.points, each.begin))
    return report


def _counts(signal: Signal, short: bool) -> bool:
    return not signal.learning or signal.kind in _ALWAYS or (short and signal.kind in _WITHOUT_LEARNING)


def _later(text: str) -> str:
    """That time and a little more, as text; so that texts can be compared. Any text that is none stays."""
    try:
        whole = datetime.fromisoformat(text)
    except ValueError:
        return text
    return (whole + _SLACK).isoformat(timespec="milliseconds").replace("+00:00", "Z")
