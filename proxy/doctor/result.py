"""What a check says: how it went, what was seen, and in one line how to mend it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Outcome(enum.Enum):
    """How it went, from good to bad."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Result:
    """One thing that was looked at."""

    what: str
    """A word or two, the same each time: programs go by it."""
    outcome: Outcome
    seen: str
    """What was found, or why nothing could be."""
    mend: str = ""
    """What to do about it; empty where nothing is to be done."""


def ok(what: str, seen: str) -> Result:
    return Result(what, Outcome.OK, seen)


def warning(what: str, seen: str, mend: str) -> Result:
    return Result(what, Outcome.WARNING, seen, mend)


def failure(what: str, seen: str, mend: str) -> Result:
    return Result(what, Outcome.FAILURE, seen, mend)


def skipped(what: str, seen: str, mend: str = "") -> Result:
    return Result(what, Outcome.SKIPPED, seen, mend)


def exit_code(outcomes: set[Outcome]) -> int:
    """0 where nothing is wrong, 1 where there are warnings, 2 where something fails."""
    if Outcome.FAILURE in outcomes:
        return 2
    return 1 if Outcome.WARNING in outcomes else 0
