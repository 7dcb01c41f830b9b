"""What a person sees while it runs: stages, how far they are, and how long they will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_EVERY = 10.0
_LIVE_EVERY = 0.5


class Progress:
    """Says lines with `say`; where `live` is given, the line that is written over again and again too."""

    def __init__(self, say: Callable[[str], None], live: Callable[[str], None] | None = None) -> None:
        self.say = say
        self._live = live
        self._every = _LIVE_EVERY if live else _EVERY
        self._turn = threading.Lock()
        self._name = ""
        self._total = self._done = 0
        self._began = self._said = time.monotonic()

    def stage(self, name: str, total: int) -> None:
        """What begins now, of about so many bytes; 0 where that is not known."""
        with self._turn:
            self._name, self._total, self._done = name, total, 0
            self._began = self._said = time.monotonic()

    def tick(self, number: int = 0) -> None:
        """So many bytes more are done. From any thread."""
        with self._turn:
            self._done += number
            now = time.monotonic()
            if now - self._said < self._every:
                return
            self._said = now
            text = f"{self._name}: {self._far(now)}"
        (self._live or self.say)(text)

    def end(self) -> None:
        """The stage is done."""
        with self._turn:
            took = time.monotonic() - self._began
            text = f"{self._name}: {size(self._done)} in {seconds(took)}"
        if self._live:
            self._live("")
        self.say(text)

    def _far(self, now: float) -> str:
        if not self._total:
            return size(self._done)
        part = min(1.0, self._done / self._total)
        if not part:
            return f"0 of about {size(self._total)}"
        left = (now - self._began) * (1 - part) / part
        return f"{size(self._done)} of about {size(self._total)}, about {seconds(left)} left"


def size(number: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def seconds(number: float) -> str:
    """A time for a person."""
    if number < 90:
        return f"{number:.0f} s"
    if number < 5400:
        return f"{number / 60:.0f} min"
    return f"{number / 3600:.1f} h"
