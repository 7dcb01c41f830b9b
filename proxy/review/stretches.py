"""Users at work, as values: who, from where and with what, and what they do until they pause."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.review.findings import Evidence
from proxy.review.profiles import User

GAP = 3 * 3600.0
"""Seconds without a request after which a stretch of work is over; it is at most a day long."""
BLOCK_GAP = 2 * 3600.0
AT_ONCE = 600.0
MOST_USES = 5000
MOST_NAMES = 5000
MOST_CHANNELS = 1000


@dataclass(slots=True, eq=False)
class Use:
    """One address, program and credential of a user, within a stretch of work."""

    source: Source
    network: float
    """How new its network is for that user, in points; how new the program."""
    agent: float
    moved: bool
    """In a browser that the user had before."""
    lines: list[Evidence]
    count: int = 0
    switches: int = 0


@dataclass(slots=True, eq=False)
class Block:
    """Requests of a user with no long pause between them."""

    begin: float
    end: float
    use: Use
    count: int = 0


@dataclass(slots=True, eq=False)
class Stretch:
    """What a user did until they paused."""

    begin: float
    end: float
    uses: list[Use] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    experiments: set[str] = field(default_factory=set)
    forbidden: dict[str, int] = field(default_factory=dict)
    lines: dict[str, list[Evidence]] = field(default_factory=dict)
    novel: dict[str, float] = field(default_factory=dict)
    """Networks that were new when it began, by address /24, with their points."""


@dataclass(slots=True, eq=False)
class Channel:
    """A token, or all that a user does without one: where it was used last."""

    wide: str = ""
    last: float = 0.0


@dataclass(slots=True, eq=False)
class Active:
    """A user as they are at work now."""

    user: User
    stretch: Stretch
    hours: list[int] = field(default_factory=lambda: [-1, -1])
    blocks: list[Block | None] = field(default_factory=lambda: [None, None])
    channels: dict[str, Channel] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Source:
    """An address, program and credential of a user, looked up once for all its lines."""

    who: Active
    client: str
    agent: str
    credential: str | None
    mode: int
    """0 in a browser, 1 with a program."""
    narrow: str
    wide: str
    channel: Channel
    use: Use | None = None
    stretch: Stretch | None = None
