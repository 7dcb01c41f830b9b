"""A house that uses MLflow, for the tests of the review: who, from where, with what, in lines of our own.

Each line is made by the service's own code from an exchange that is over: the operation by its table, the
access log's line by logs/access.py, the audit log's by audit/. Nothing here knows of the review.
"""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from proxy.audit.chain import BEGINNING, Head, seal
from proxy.audit.entry import entry
from proxy.audit.events import Event, Outcome
from proxy.audit.exchanges import told
from proxy.audit.keys import keys_of
from proxy.audit.repeats import Repeats
from proxy.exchange import Exchange
from proxy.identity import Credential, Identity, Role
from proxy.logs.access import JsonLines
from proxy.operations import operation_of

HOUR = 3600.0
DAY = 24 * HOUR
OFFICE = ("203.0.113.10", "203.0.113.11")
BRANCH = ("198.51.100.20",)
VPN = ("192.0.2.5", "192.0.2.6", "192.0.2.7")
# Internet providers with the first two bytes of their pools, as DHCP gives addresses out of several.
PROVIDERS = (
    ("87.123", "91.14", "79.200", "93.193"),
    ("84.56", "178.3", "188.96"),
    ("95.90", "77.20"),
    ("73.15", "98.207", "24.5", "67.180"),
    ("122.161", "106.51", "49.207"),
)
MOBILE = (("80.187", "109.43"), ("46.114", "2.204"), ("172.58", "107.77"))
CLOUD = ("3.120", "18.185", "35.158", "52.58", "54.93", "3.67", "18.196", "63.176")
HOSTED_CI = ("20.109", "13.89", "40.84", "52.159", "20.51", "172.183", "4.227", "23.101", "68.220", "135.119")
ABROAD = ("201.17", "41.203", "118.70", "176.59", "190.2", "103.21", "5.188", "45.155", "194.26", "141.98")
HOTELS = ("62.96", "212.3", "195.27", "82.113", "217.9", "64.124", "66.87", "133.32")
_SLOW = {
    "search-runs": 40,
    "search-experiments": 25,
    "create-run": 30,
    "log-batch": 18,
    "ui": 3,
    "graphql": 35,
}


def browser(kind: str, version: int) -> str:
    """A browser's name as it sends it; `kind` is a browser on a system."""
    name, _, system = kind.partition("/")
    systems = {
        "mac": "Macintosh; Intel Mac OS X 10_15_7",
        "windows": "Windows NT 10.0; Win64; x64",
        "linux": "X11; Linux x86_64",
        "iphone": "iPhone; CPU iPhone OS 18_5 like Mac OS X",
        "android": "Linux; Android 10; K",
    }
    if name == "firefox":
        return f"Mozilla/5.0 ({systems[system]}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"
    if name == "safari":
        return (
            f"Mozilla/5.0 ({systems[system]}) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            f"Version/18.{version % 6} Mobile/15E148 Safari/604.1"
        )
    edge = f" Edg/{version}.0.0.0" if name == "edge" else ""
    return (
        f"Mozilla/5.0 ({systems[system]}) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{version}.0.0.0 Safari/537.36{edge}"
    )


@dataclass
class User:
    """Somebody, or a program's account."""

    name: str
    role: Role
    zone: float = 1.0
    """Hours before UTC that their clock is."""
    begins: float = 9.0
    works: float = 8.5
    home: str = ""
    provider: Sequence[str] = ()
    carrier: Sequence[str] = ()
    token: Credential | None = None
    kind: str = "chrome/mac"
    version: int = 138
    client: str = "mlflow-python-client/3.17.2"
    experiments: list[str] = field(default_factory=list)
    away: list[tuple[float, float]] = field(default_factory=list)
    """Unix times between which they do no work."""
    password: bool = False

    @property
    def agent(self) -> str:
        return browser(self.kind, self.version)


@dataclass(frozen=True)
class At:
    """Whence a request comes: an address and a program, as whom, and how that is known."""

    user: User | None
    client: str
    agent: str
    auth: str | None = None
    role: Role | None = None
    credential: Credential | None = None


def by_browser(user: User, client: str, agent: str | None = None) -> At:
    return At(user, client, agent or user.agent, "basic" if user.password else "session")


def by_token(user: User, client: str, agent: str | None = None, token: Credential | None = None) -> At:
    return At(user, client, agent or user.client, "token", None, token or user.token)


class World:
    """The log so far. All that is random comes from the seed."""

    def __init__(self, seed: int, start: float) -> None:
        self.random = random.Random(seed)
        self.start = start
        self.slow: list[tuple[float, float, float, str]] = []
        """From when until when how many times slower, and of which operation ("" for all)."""
        self.broken: list[tuple[float, float, float, str]] = []
        """From when until when which share fails, of which operation."""
        self._lines: list[tuple[float, int, bytes, Exchange | None]] = []
        self._events: list[tuple[float, int, dict[str, object]]] = []
        self._json = JsonLines()

    def hex(self, digits: int = 32) -> str:
        return f"{self.random.getrandbits(4 * digits):0{digits}x}"

    def within(self, prefixes: Sequence[str]) -> str:
        """Any address that begins with one of those two bytes."""
        return f"{self.random.choice(prefixes)}.{self.random.randrange(256)}.{self.random.randrange(1, 255)}"

    def ask(
        self,
        at: float,
        source: At,
        method: str,
        path: str,
        query: str = "",
        *,
        status: int = 200,
        refusal: str | None = None,
        sent: int | None = None,
        taken: int = 0,
        seconds: float = 0.0,
    ) -> float:
        """One request and its line; when it was over. `seconds` come on top of what such a request takes."""
        chance = self.random
        over = Exchange(method, path, 0.0, at)
        over.operation = operation = operation_of(method, path)
        over.client, over.user_agent = source.client, source.agent
        over.request_id = self.hex(24)
        if source.user is not None:
            role = source.user.role if source.role is None else source.role
            over.identity = Identity(
                source.user.name, role, source.auth or "session", "", "", source.credential
            )
        took = math.exp(chance.gauss(math.log(_SLOW.get(operation.name, 9)), 0.45)) / 1000
        if refusal is None:
            for begin, end, factor, name in self.slow:
                if begin <= at < end and name in ("", operation.name):
                    took *= factor
            for begin, end, share, name in self.broken:
                if begin <= at < end and name in ("", operation.name) and chance.random() < share:
                    status = chance.choice((500, 500, 502, 503))
                    over.error = "reset" if status == 502 else None
            over.mlflow_started, over.mlflow_ended = 0.0004, took + seconds
        else:
            took = 0.002
        over.status, over.refusal = status, refusal
        over.first_byte, over.ended = took, took + seconds
        over.bytes_in = taken
        over.bytes_out = chance.randrange(200, 6000) if sent is None else sent
        done = at + took + seconds
        line = self._json.line(over, query.encode())[:-1]  # a copy: orjson's own bytes hold on to 8 KiB each
        self._lines.append((done, len(self._lines), line, over if told(over) else None))
        return done

    def event(
        self,
        at: float,
        event: Event,
        source: At,
        outcome: Outcome = "success",
        user: str = "",
        **details: str,
    ) -> None:
        """An event of the audit log that is no request's: a sign-in, or one that was refused."""
        over = Exchange("POST", "/oauth2/sign_in", 0.0, at)
        over.client, over.operation = source.client, operation_of("POST", "/oauth2/sign_in")
        target = {"user": user} if user and event == "sign_in_refused" else {}
        name = user if event == "sign_in" else ""
        made = entry(
            event, at=at, exchange=over, user=name, target=target, outcome=outcome, details={**details}
        )
        self._events.append((at, len(self._events), made))

    def write(self, folder: Path, parts: int = 4) -> tuple[list[Path], list[Path]]:
        """The files of the access log and of the audit log, rotated and partly packed; both in any order."""
        self._lines.sort(key=lambda each: each[:2])
        folder.mkdir(parents=True, exist_ok=True)
        access = []
        size = -(-len(self._lines) // parts)
        for part in range(parts):
            text = b"".join(each[2] + b"\n" for each in self._lines[part * size : (part + 1) * size])
            last = part == parts - 1
            path = folder / ("access.log" if last else f"access.log.{parts - 1 - part}.gz")
            path.write_bytes(text if last else gzip.compress(text, 1))
            access.append(path)
        audit = folder / "audit.jsonl"
        audit.write_bytes(b"".join(self._sealed()))
        return sorted(access), [audit]

    def _sealed(self) -> list[bytes]:
        keys = keys_of(["k" * 40])
        head, lines, repeats = Head("host-1", 0, BEGINNING), [], Repeats()
        entries: list[tuple[float, int, dict[str, object]]] = list(self._events)
        for done, number, _, over in self._lines:
            if over is not None and (found := told(over)) is not None:
                event, outcome, target, details = found
                made = entry(event, at=done, exchange=over, target=target, outcome=outcome, details=details)
                entries.append((done, number, made))
        due = 0.0
        for when, _, made in sorted(entries, key=lambda each: each[:2]):
            if when >= due:
                for again in repeats.due(when):
                    line, head = seal(again, head, keys)
                    lines.append(line)
                due = when + 60
            repeated = made["event"] in ("refused", "sign_in_refused")
            first = repeats.first(made, when) if repeated else made
            if first is not None:
                line, head = seal(first, head, keys)
                lines.append(line)
        return lines
