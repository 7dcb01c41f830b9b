"""How many wrong passwords an address and a user name may send: first slower, then none for a while.

Counted over the last ``window`` seconds are wrong passwords alone:

- of an address: at ``failures`` it may sign nobody in, except whom it has signed in lately;
- of a user name, from anywhere: at twice ``failures`` it can't be signed in, except from an address where
  it has lately. Twice, because an address is stopped at ``failures``: one alone can't stop a name;
- of a user name at an address where it has signed in lately, apart from the two above: at ten times
  ``failures`` it is stopped there, and what was remembered of it too, or else who shares the address could
  guess on for ever, reading right from wrong off the answers;
- of one and the same wrong credential at an address: it counts once for the three above, and at ``failures``
  it is stopped by itself. A script with an old password stops itself and not its neighbours.

So nobody stops a user who is at work, and every stop ends by itself. An IPv6 caller is counted by /64, the
least that a provider gives to one customer.

The counting is our own: the ``limits`` package keeps in its memory storage every key that it has ever seen
(20,000 wrong names: 20,000 lists for ever), starts a thread after a failure and goes by the wall clock.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

KNOWN_SECONDS = 24 * 3600.0
"""How long an address counts as one where a user has signed in lately."""
KNOWN_LIMIT = 10_000
COUNTS_LIMIT = 100_000
"""Counts kept at once, about 50 MB; the oldest gives way."""
NAME_FACTOR = 2
KNOWN_FACTOR = 10
FIRST_DELAY = 0.25
LONGEST_DELAY = 4.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who tries what: the caller's network, the user name (None for a token) and the credential's digest."""

    network: str
    name: str | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class LockedOut:
    seconds: int
    """Until an attempt counts again, at least 1."""
    what: str
    """Completes "Too many wrong passwords were sent …"."""


@functools.lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What of a client's address is counted together. Any text that is no IP address stands for itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class LoginLimits:
    """The wrong passwords of late. One event loop's; nothing here waits, and no key outlives its window."""

    def __init__(self, failures: int, window: float) -> None:
        self._failures = failures
        self._window = window
        # Each key's latest failure is its place in the order, so what has ended is at the front.
        self._counts: OrderedDict[Hashable, deque[float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        """How many counts are kept."""
        self._forget(time.monotonic())
        return len(self._counts)

    @property
    def counting(self) -> bool:
        """False while nobody has failed lately: then nobody is refused or slowed down."""
        return bool(self._counts)

    def refused(self, attempt: Attempt) -> LockedOut | None:
        """Why this may not be tried now, right or wrong, or None."""
        now = time.monotonic()
        self._forget(now)
        for key, most, _, what in self._rules(attempt, now):
            count = self._recent(key, now)
            if len(count) >= most:
                # Free again once so many have ended that fewer than `most` are left.
                return LockedOut(max(1, math.ceil(count[len(count) - most] + self._window - now)), what)
        return None

    def left(self, attempt: Attempt) -> int:
        """How often this may fail until refused() says something."""
        now = time.monotonic()
        self._forget(now)
        return min(most - len(self._recent(key, now)) for key, most, *_ in self._rules(attempt, now))

    def delay(self, attempt: Attempt) -> float:
        """Seconds that this attempt has to wait: from half of what is allowed on, twice as long with each
        failure, at most LONGEST_DELAY. The right password waits as long, or waiting would tell it."""
        if not self._counts:
            return 0.0
        now = time.monotonic()
        self._forget(now)
        beyond = max(len(self._recent(key, now)) - free for key, _, free, _ in self._rules(attempt, now))
        return 0.0 if beyond < 0 else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(math.floor(beyond), 16))

    def failed(self, attempt: Attempt) -> None:
        """Count one wrong credential."""
        now = time.monotonic()
        self._forget(now)
        same, *others = (key for key, *_ in self._rules(attempt, now))
        if not self._recent(same, now):
            for key in others:
                self._count(key, now)
        self._count(same, now)

    def succeeded(self, network: str, name: str) -> None:
        """Remember that this user has signed in from there. No count is taken back: who has one account
        could otherwise guess another's password for ever, signing in between."""
        self._known[network, name] = time.monotonic() + KNOWN_SECONDS
        self._known.move_to_end((network, name))
        if len(self._known) > KNOWN_LIMIT:
            self._known.popitem(last=False)

    def _rules(self, attempt: Attempt, now: float) -> list[tuple[Hashable, int, float, str]]:
        """What is counted for an attempt: key, where it stops, where it begins to slow down, its name."""
        network, name, most = attempt.network, attempt.name, self._failures
        same = (("same", network, attempt.digest), most, most / 2, "in the same words from your address")
        if name is not None and self._known.get((network, name), 0.0) > now:
            return [
                same,
                (
                    ("pair", network, name),
                    most * KNOWN_FACTOR,
                    most / 2,
                    "for this user name from your address",
                ),
            ]
        rules: list[tuple[Hashable, int, float, str]] = [
            same,
            (("network", network), most, most / 2, "from your address"),
        ]
        if name is not None:
            rules.append((("name", name), most * NAME_FACTOR, most, "for this user name"))
        return rules

    def _count(self, key: Hashable, now: float) -> None:
        self._counts.setdefault(key, deque(maxlen=self._failures * KNOWN_FACTOR)).append(now)
        self._counts.move_to_end(key)
        if len(self._counts) > COUNTS_LIMIT:
            self._counts.popitem(last=False)

    def _recent(self, key: Hashable, now: float) -> deque[float]:
        count = self._counts.get(key)
        if count is None:
            return deque()
        while count and count[0] <= now - self._window:
            count.popleft()
        return count

    def _forget(self, now: float) -> None:
        while self._counts:
            key, count = next(iter(self._counts.items()))
            if count and count[-1] > now - self._window:
                break
            del self._counts[key]


class Counts:
    """All that one process counts. It outlives the reading of the settings: whoever is locked out stays so
    over a reload, unless what is allowed has changed."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, int, float], LoginLimits] = {}

    def of(self, what: str, failures: int, window: float) -> LoginLimits:
        """The limits of that name, as they were counted under the same settings."""
        key = (what, failures, window)
        if key not in self._limits:
            self._limits[key] = LoginLimits(failures, window)
        return self._limits[key]
