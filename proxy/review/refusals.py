"""Who is not let in: bursts from an address, guessing from many or at many names, success after failures."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from proxy.review.findings import Evidence, Kind, Signal, shown
from proxy.review.noticed import Noticed, keep, lasted
from proxy.review.profiles import bounded
from proxy.review.stretches import Use
from proxy.review.whence import is_browser, networks

WINDOW = 600.0
HOUR = 3600.0
SUCCESS = 1800.0
MOST_ADDRESSES = 20_000
_MOST_NAMES = 200
_MOST_LATELY = 64
CREDENTIAL = frozenset({"unauthenticated", "locked_out", "not_admitted", "sign_in_failed"})
"""Refusals that say: this credential does not count, or there was none."""


@dataclass(slots=True)
class Attempts:
    """What was refused of one address lately."""

    address: str
    begin: float
    end: float
    wrong: float = 0.0
    """In this window of ten minutes; a browser's count a tenth, since a forgotten tab asks on and on."""
    count: int = 0
    locked: int = 0
    lines: list[Evidence] = field(default_factory=list)
    lately: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_LATELY))
    """When a credential was sent and was wrong, as far as that can be told."""
    names: dict[str, float] = field(default_factory=dict)
    """User names that were refused at sign-in, with when; of those without success since."""
    names_told: float = 0.0


class Refusals:
    """Of all addresses. Times are Unix seconds."""

    def __init__(self, noticed: Noticed) -> None:
        self._noticed = noticed
        self._limits = noticed.thresholds
        self._learned = noticed.learned
        self.lately: dict[str, Attempts] = {}
        """By address, those with attempts of late."""
        self._hour = 0.0
        self._networks: dict[str, Evidence] = {}
        self._by_name: dict[str, tuple[int, float, list[Evidence]]] = {}
        """Of each user name: refused how often at sign-in, since when, by what lines."""

    def refused(
        self, client: str, agent: str, reason: str, sign_in: bool, t: float, line: Evidence, times: int = 1
    ) -> Attempts:
        """A credential was refused."""
        found = self.lately.get(client)
        if found is not None and t - found.begin > WINDOW:
            self._judge(found)
            found.begin, found.wrong, found.count, found.locked, found.lines = t, 0.0, 0, 0, []
        if found is None:
            found = Attempts(client, t, t)
            if len(self.lately) >= MOST_ADDRESSES:
                self._judge(self.lately.pop(next(iter(self.lately))))
            self.lately[client] = found
        locked = reason == "locked_out"
        sent = locked or sign_in or not is_browser(agent)
        found.end = max(t, found.end)
        found.count += times
        found.wrong += times * (1.0 if sent else 0.1)
        found.locked += times * locked
        keep(found.lines, line)
        if sent:
            found.lately.extend([t] * min(times, _MOST_LATELY))
            self._from_many(client, t, line)
        return found

    def name_refused(self, client: str, name: str, t: float, line: Evidence, times: int = 1) -> None:
        """A user name was refused at sign-in."""
        found = self.refused(client, "", "unauthenticated", True, t, line, times)
        if len(found.names) < _MOST_NAMES:
            found.names[name] = t
        found.names = {each: when for each, when in found.names.items() if t - when < HOUR}
        if len(found.names) >= self._limits.guessed_users and t - found.names_told > HOUR:
            found.names_told = t
            names = ", ".join(shown(each, 40) for each in list(found.names)[:8])
            what = f"{len(found.names)} user names were refused at sign-in from {shown(client)}"
            why = f"{what} within an hour: {names}"
            self._say("guessing", 3.0, min(found.names.values()), t, why, list(found.lines), client)
        count, since, lines = self._by_name.get(name, (0, t, []))
        if t - since > HOUR:
            count, since, lines = 0, t, []
        keep(lines, line)
        bounded(self._by_name, name, (count + times, since, lines), MOST_ADDRESSES)

    def signed_in(self, client: str, name: str, t: float, line: Evidence) -> None:
        """A person signed in."""
        found = self.lately.get(client)
        if found is not None:
            found.names.pop(name, None)
        count, since, lines = self._by_name.pop(name, (0, t, []))
        if count >= self._limits.failures and t - since <= HOUR:
            tries = f"{count} refused tries in {lasted(since, t)}"
            why = f"{shown(name)} signed in from {shown(client)} after {tries}"
            self._say("success-after-failures", 3.0, since, t, why, [*lines, line], client, name)

    def let_in(self, found: Attempts, use: Use, t: float, line: Evidence) -> None:
        """Somebody was let in from an address that others, or they, were not let in from just before."""
        failed = sum(t - when <= SUCCESS for when in found.lately)
        if failed < self._limits.failures:
            return
        user = use.source.who.user
        strange = use.network or use.agent
        if user.days < self._limits.user_days and not self._learned.house.others(
            self._learned.house.wide, use.source.wide, user.name
        ):
            strange = 1.0 if found.locked else 0.0
        if not strange:
            return  # at an address that many share, somebody else's
        why = f"{shown(user.name)} was let in from {shown(found.address)} after {failed} refused credentials"
        address = found.address if use.network else None
        begin = next(when for when in found.lately if t - when <= SUCCESS)
        self._say("success-after-failures", 3.0, begin, t, why, [*found.lines[-4:], line], address, user.name)
        found.lately.clear()

    def end(self) -> None:
        """The log is over."""
        for found in self.lately.values():
            self._judge(found)
        self._judge_hour()

    def _judge(self, found: Attempts) -> None:
        usual = self._learned.bursts.get(found.address, 0.0)
        limits = self._limits
        if (found.wrong >= limits.burst or found.locked >= limits.locked_out) and found.wrong > 3 * usual:
            why = f"{found.count} credentials were refused from {shown(found.address)} in ten minutes"
            if found.locked:
                why += f", {found.locked} of them as locked out"
            self._say("refusals", 3.0, found.begin, found.end, why, found.lines, found.address)
        if found.wrong >= limits.burst / 10:
            bounded(self._learned.bursts, found.address, max(found.wrong, usual), MOST_ADDRESSES)

    def _from_many(self, client: str, t: float, line: Evidence) -> None:
        if t - self._hour > HOUR:
            self._judge_hour()
            self._hour = t
        if not self._learned.house.knows(client) and len(self._networks) < MOST_ADDRESSES:
            self._networks.setdefault(networks(client)[1], line)

    def _judge_hour(self) -> None:
        number, usual = len(self._networks), self._learned.guessing
        if number >= max(self._limits.guessing_networks, 3 * usual):
            why = f"credentials from {number} networks that nobody here uses were refused within an hour"
            lines = list(self._networks.values())
            self._say("guessing", 3.0, self._hour, self._hour + HOUR, why, [*lines[:5], lines[-1]], None)
        self._learned.guessing = max(number, usual * 0.99)
        self._networks = {}

    def _say(
        self, kind: Kind, points: float, begin: float, end: float, why: str,
        lines: list[Evidence], address: str | None, user: str | None = None,
    ) -> None:  # fmt: skip
        self._noticed.add(Signal(kind, points, begin, end, why, list(lines), user=user, address=address))
