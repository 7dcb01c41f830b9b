"""Times, durations and browsers in the words that our pages use for them; pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def moment(unix: float) -> str:
    """For a person, in UTC: a server does not know the reader's time zone."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def span(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{_count(int(seconds // size), unit)} ago"
    return "just now"


def ahead(seconds: float) -> str:
    """In how long, to the nearest of the largest unit that fits."""
    for unit, size in _UNITS:
        if seconds + 30 >= size:  # an hour that has just begun is no 60 minutes
            return f"in {_count(round((seconds + 30) / size), unit)}"
    return "within a minute"


def duration(seconds: float) -> str:
    """A length of time that somebody chose: in the largest unit that it is a whole number of."""
    for unit, size in _UNITS:
        if seconds >= size and seconds % size == 0:
            return _count(int(seconds // size), unit)
    return _count(int(seconds), "second")


def _count(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"


# The first that matches: Edge and Opera also call themselves Chrome, Chrome also Safari.
_BROWSERS = (
    (re.compile(r"Edg(?:e|A|iOS)?/"), "Edge"),
    (re.compile(r"OPR/"), "Opera"),
    (re.compile(r"(?:Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"(?:Headless)?Chrom(?:e|ium)/|CriOS/"), "Chrome"),
    (re.compile(r"Version/[0-9.]+ .*Safari/"), "Safari"),
)
_SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def device(user_agent: str) -> str:
    """A browser's User-Agent in words that a person knows it by, else its beginning."""
    browser = next((name for pattern, name in _BROWSERS if pattern.search(user_agent)), None)
    if browser is None:
        return user_agent[:60] or "an unnamed program"
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    return f"{browser} on {system}" if system else browser
