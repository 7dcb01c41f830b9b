"""What is usual: of each user, of the house, of each token and of each operation; all of it bounded."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from proxy.review.whence import networks, program

DAY = 86400.0
MOST_USERS = 20_000
MOST_TOKENS = 50_000
MOST_OF_THE_HOUSE = 20_000
_MOST = {"narrow": 512, "wide": 256, "agents": 64, "programs": 64}
_HEARD_BY = 4
"""Users kept of a network or program: more are not asked for."""
_FADES = 0.98
"""What the most of a user's shrinks to with each stretch of work."""
_MANY = 8
_BESIDE = 2
"""Hours beside those of work in a browser in which work with programs counts as the same."""
_LATEST = 200
"""Hours of an operation that are remembered."""

Value = TypeVar("Value")


def bounded(mapping: MutableMapping[str, Value], key: str, value: Value, most: int) -> None:
    """Put it at the end; what was put there longest ago gives way."""
    mapping.pop(key, None)
    mapping[key] = value
    while len(mapping) > most:
        del mapping[next(iter(mapping))]


@dataclass(slots=True)
class User:
    """What is usual for one user."""

    name: str
    first: float = 0.0
    last: float = 0.0
    days: int = 0
    """On how many they did something."""
    last_day: int = -1
    new_days: int = 0
    """Days, the first ones left out, that brought a network that was new."""
    last_new_day: int = -1
    narrow: dict[str, float] = field(default_factory=dict)
    """When a network was last used, in seconds of Unix time; so with the three after it."""
    wide: dict[str, float] = field(default_factory=dict)
    agents: dict[str, float] = field(default_factory=dict)
    programs: dict[str, list[int]] = field(default_factory=dict)
    """The newest version of each."""
    hours: list[list[int]] = field(default_factory=lambda: [[0] * 24, [0] * 24])
    """On how many days they worked at that hour (UTC): in a browser; with programs."""
    hour_days: list[list[int]] = field(default_factory=lambda: [[-1] * 24, [-1] * 24])
    mode_days: list[int] = field(default_factory=lambda: [0, 0])
    mode_last: list[int] = field(default_factory=lambda: [-1, -1])
    most: dict[str, float] = field(default_factory=dict)
    """The most of one stretch of work."""

    @property
    def person(self) -> bool:
        return not self.name.startswith("service:") and self.name != "mlflow-jobs"

    def roams(self, share: float) -> bool:
        """Whether another network says little, so often there is one; or so many there are, of a program."""
        if not self.person and len(self.wide) >= _MANY:
            return True
        return self.new_days >= 2 and self.new_days >= share * self.days

    def came_from(self, narrow: str, wide: str, agent: str, t: float) -> None:
        bounded(self.narrow, narrow, t, _MOST["narrow"])
        bounded(self.wide, wide, t, _MOST["wide"])
        bounded(self.agents, agent, t, _MOST["agents"])
        name, version = program(agent)
        newest = max(list(version), self.programs.get(name, []))
        bounded(self.programs, name, newest, _MOST["programs"])

    def at_work(self, t: float, mode: int) -> None:
        """Somebody does something in that hour: 0 in a browser, 1 with a program."""
        day, hour = int(t // DAY), int(t % DAY // 3600)
        if day > self.last_day:
            self.days, self.last_day = self.days + 1, day
        if day > self.mode_last[mode]:
            self.mode_days[mode], self.mode_last[mode] = self.mode_days[mode] + 1, day
        if day > self.hour_days[mode][hour]:
            self.hour_days[mode][hour] = day
            self.hours[mode][hour] += 1

    def usual_hours(self, mode: int, *, beside: bool = False) -> list[int]:
        """Those at which they worked on two days at least; with `beside`, and the hours beside those at which
        they worked in the other way."""
        least = max(2, self.mode_days[mode] // 20)
        found = [hour for hour, days in enumerate(self.hours[mode]) if days >= least]
        if beside:
            near = {(hour + step) % 24 for hour in found for step in range(-_BESIDE, _BESIDE + 1)}
            others = near.intersection(self.usual_hours(1 - mode))
            return sorted(others.union(found))
        return found

    def did(self, name: str, value: float) -> None:
        self.most[name] = max(value, self.most.get(name, 0.0) * _FADES)


@dataclass(slots=True)
class House:
    """Who uses what: a network or program that several use is no surprise with one more."""

    narrow: dict[str, list[str]] = field(default_factory=dict)
    wide: dict[str, list[str]] = field(default_factory=dict)
    programs: dict[str, list[str]] = field(default_factory=dict)

    def used(self, user: str, narrow: str, wide: str, agent: str) -> None:
        for kind, key in ((self.narrow, narrow), (self.wide, wide), (self.programs, program(agent)[0])):
            users = kind.get(key, [])
            if user not in users and len(users) < _HEARD_BY:
                users = [*users, user]
            bounded(kind, key, users, MOST_OF_THE_HOUSE)

    def others(self, kind: dict[str, list[str]], key: str, user: str) -> int:
        return sum(each != user for each in kind.get(key, ()))

    def knows(self, address: str) -> bool:
        """Whether anybody works from about there."""
        return networks(address)[1] in self.wide


@dataclass(slots=True)
class Token:
    """One credential's use."""

    last: float
    wide: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)

    def used(self, wide: str, name: str) -> None:
        if wide not in self.wide:
            self.wide = [*self.wide[-31:], wide]
        if name not in self.programs:
            self.programs = [*self.programs[-7:], name]


@dataclass(slots=True)
class Usual:
    """An operation's hours: how slow the slowest tenth began, in ms, and which share failed."""

    slow: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)

    def add(self, slow: float | None, failed: float) -> None:
        if slow is not None:
            self.slow = [*self.slow[-_LATEST + 1 :], slow]
        self.failed = [*self.failed[-_LATEST + 1 :], failed]


@dataclass(slots=True)
class Learned:
    """All that is known of what is usual."""

    begin: float | None = None
    """Unix time of the first line that it was learned from, and of the last."""
    until: float | None = None
    users: dict[str, User] = field(default_factory=dict)
    house: House = field(default_factory=House)
    tokens: dict[str, Token] = field(default_factory=dict)
    operations: dict[str, Usual] = field(default_factory=dict)
    bursts: dict[str, float] = field(default_factory=dict)
    """The most refusals of an address in 10 minutes."""
    guessing: float = 0.0
    """The most unknown networks with refused credentials in an hour."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> Learned:
        """Raises TypeError, KeyError, ValueError or AttributeError where that is none."""
        return cls(
            begin=None if said["begin"] is None else float(said["begin"]),
            until=None if said["until"] is None else float(said["until"]),
            users={name: User(**each) for name, each in said["users"].items()},
            house=House(**said["house"]),
            tokens={name: Token(**each) for name, each in said["tokens"].items()},
            operations={name: Usual(**each) for name, each in said["operations"].items()},
            bursts={name: float(each) for name, each in said["bursts"].items()},
            guessing=float(said["guessing"]),
        )
