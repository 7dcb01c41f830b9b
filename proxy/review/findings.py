"""What was noticed, and how it becomes findings: what belongs together is told once, with its reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import orjson

from proxy.logs.lines import cut, printable

Kind = Literal[
    "new-network",
    "new-agent",
    "refusals",
    "guessing",
    "success-after-failures",
    "downloads",
    "deletions",
    "experiments",
    "hours",
    "two-networks",
    "silence",
    "forbidden",
    "errors",
    "latency",
]
KINDS: tuple[str, ...] = get_args(Kind)
APART = 12 * 3600.0
"""Seconds between two things about the same user or address that are still told together."""
MOST_SIGNALS = 20_000
LINES_SHOWN = 6
_SHOWN = (
    "user", "client", "credential", "operation", "method", "path", "status", "refusal", "error", "event",
)  # fmt: skip


class Evidence(NamedTuple):
    """A line of the log."""

    file: str
    number: int
    """From 1."""
    raw: bytes

    @property
    def short(self) -> str:
        """What of the line counts here, safe on a terminal."""
        try:
            fields = orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return shown(self.raw.decode("utf-8", "replace"), 160)
        said = [str(fields.get("time"))]
        said += [f"{name}={fields[name]}" for name in _SHOWN if fields.get(name) not in (None, "")]
        if fields.get("event"):
            said += [f"{key}={value}" for key, value in {**fields["target"], **fields["details"]}.items()]
        else:
            said += [f"bytes_out={fields['bytes_out']}", f"ms={fields['duration_ms']}"]
            said.append(f"agent={fields['user_agent']}")
        return " ".join(shown(each, 90) for each in said)


def shown(text: object, longest: int = 120) -> str:
    """A text out of the log as it may be shown: on one line, with nothing that a terminal would act on."""
    return printable(cut(str(text), longest)).replace("\n", " ")


@dataclass(slots=True)
class Signal:
    """One thing that was noticed."""

    kind: Kind
    points: float
    begin: float
    end: float
    why: str
    lines: list[Evidence]
    user: str | None = None
    address: str | None = None
    """Where it came from, where that is nobody's known network."""
    operation: str | None = None
    learning: bool = False
    """It was noticed before anything was known of what is usual."""


@dataclass(slots=True)
class Finding:
    """What is told as one."""

    signals: list[Signal] = field(default_factory=list)

    @property
    def points(self) -> float:
        """The most of each kind, together: the same reason twice makes it no surer."""
        most: dict[str, float] = {}
        for each in self.signals:
            most[each.kind] = max(most.get(each.kind, 0), each.points)
        return sum(most.values())

    @property
    def begin(self) -> float:
        return min(each.begin for each in self.signals)

    @property
    def end(self) -> float:
        return max(each.end for each in self.signals)

    @property
    def kinds(self) -> list[str]:
        """Those of its reasons, the weightiest first."""
        ordered = sorted(self.signals, key=lambda each: -each.points)
        return list(dict.fromkeys(each.kind for each in ordered))

    @property
    def users(self) -> list[str]:
        return list(dict.fromkeys(each.user for each in self.signals if each.user is not None))

    @property
    def addresses(self) -> list[str]:
        return list(dict.fromkeys(each.address for each in self.signals if each.address is not None))

    @property
    def operations(self) -> list[str]:
        return list(dict.fromkeys(each.operation for each in self.signals if each.operation is not None))

    @property
    def reasons(self) -> list[Signal]:
        """Each reason once, the weightiest first."""
        found: dict[tuple[str, str], Signal] = {}
        for each in sorted(self.signals, key=lambda each: (-each.points, each.begin)):
            found.setdefault((each.kind, each.why), each)
        return list(found.values())

    @property
    def about(self) -> str:
        """Whom or what it is about."""
        if self.users:
            return ", ".join(shown(user) for user in self.users[:5])
        if self.operations:
            return "the server"
        return ", ".join(self.addresses[:5]) or "the server"


def gathered(signals: list[Signal]) -> list[Finding]:
    """Signals about the same user, the same address or the server, close in time, are one."""
    found: list[Finding] = []
    latest: dict[str, Finding] = {}
    for signal in sorted(signals, key=lambda each: each.begin):
        names = [f"user {signal.user}"] if signal.user is not None else []
        names += [f"address {signal.address}"] if signal.address is not None else []
        names += ["server"] if signal.operation is not None else []
        for name in names:
            one = latest.get(name)
            if one is not None and signal.begin - one.end <= APART:
                break
        else:
            one = Finding()
            found.append(one)
        assert one is not None
        one.signals.append(signal)
        for name in names:
            latest[name] = one
    return found
