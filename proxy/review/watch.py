"""One line after the other: what each says is handed to those who watch users, refusals and operations."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from math import log2
from typing import Any

import orjson

from proxy.operations import OPERATIONS, Access
from proxy.review.findings import Evidence
from proxy.review.health import FINE, LONGEST_MS, THEIRS, Health
from proxy.review.noticed import Noticed, keep
from proxy.review.people import People
from proxy.review.reading import Stream
from proxy.review.refusals import CREDENTIAL, Refusals
from proxy.review.stretches import Source

_MINUTE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d\Z", re.ASCII)
_MOST_MINUTES = 50_000
_MOST_SOURCES = 50_000
_MOST_HOURS = 24 * 400
_SCANNED = frozenset({"unknown", "unparsed"})
_ARTIFACTS = frozenset(
    each.name for each in OPERATIONS if each.access is Access.READ and each.answer in ("whole", "stream")
)
_DELETE = {
    each.name: 5.0 if each.access is Access.DESTROY else 1.0
    for each in OPERATIONS
    if each.access in (Access.DELETE, Access.DESTROY) and not each.name.startswith("restore-")
}
_READS = frozenset(each.name for each in OPERATIONS if each.access is Access.READ)


@dataclass(slots=True)
class Seen:
    """What was read, in figures."""

    access: int = 0
    audit: int = 0
    foreign: int = 0
    """Lines that are none of either log."""
    already: int = 0
    """Lines from before the end of what was learned."""
    first: float | None = None
    last: float = 0.0
    hours: dict[int, list[int]] = field(default_factory=dict)
    """By hour since 1970: requests, refusals, failures."""
    foreign_lines: list[Evidence] = field(default_factory=list)


class Watch:
    """All watchers, and the loop that feeds them."""

    def __init__(self, noticed: Noticed, tick: Callable[[], None]) -> None:
        """`tick` is called every few thousand lines."""
        self._noticed = noticed
        self._tick = tick
        self.seen = Seen()
        self.people = People(noticed)
        self.refusals = Refusals(noticed)
        self.health = Health(noticed)
        self._minutes: dict[str, float] = {}
        self._sources: dict[tuple[str, str, str, str | None], Source] = {}
        self._after = noticed.learned.until

    def consume(self, stream: Stream, limit: str | None) -> str | None:
        """Take in the stream's lines up to that time. Its next line's time, None at its end."""
        loads, minutes, sources = orjson.loads, self._minutes, self._sources
        operations, lately = self.health.operations, self.refusals.lately
        people, health, seen = self.people, self.health, self.seen
        nobody: Any = None
        hours, after, latest = seen.hours, self._after, seen.last
        file, number = stream.name, stream.number
        while stream.fill():
            self._tick()
            pending = stream.pending
            while pending:
                raw = pending.pop()
                number += 1
                try:
                    said = loads(raw)
                    text = said["time"]
                    minute = minutes.get(text[:16])
                    if minute is None:
                        minute = self._minute(text)
                    if limit is not None and text > limit:
                        pending.append(raw)
                        stream.number, seen.last = number - 1, latest
                        return str(text)
                    second = float(text[17:23])
                    if not 0 <= second < 61:
                        raise ValueError(text)
                    t = minute + second
                    if "event" in said:
                        _check_event(said)
                        status = None
                    else:
                        name, status, user = said["operation"], said["status"], said["user"]
                        now = operations.get(name) or operations["unknown"]
                        client, agent, refusal = said["client"], said["user_agent"], said["refusal"]
                        ms, sent, failure = said["duration_ms"] + 0.0, said["bytes_out"] + 0, said["error"]
                        ttfb = said["ttfb_ms"]
                        if ttfb is not None:
                            ms = ttfb + 0.0
                        if not (100 <= status <= 999 and 0 <= ms < LONGEST_MS):
                            raise ValueError(status)
                        not_let_in = refusal in CREDENTIAL
                        failed = status >= 500 or (failure is not None and failure not in THEIRS)
                        experiment = said["experiment_id"]
                        if user is None:
                            source = nobody
                            if type(client) is not str or type(agent) is not str:
                                raise TypeError(client)
                        else:
                            key = (user, client, agent, said["credential"])
                            source = sources.get(key)
                            if source is None and (after is None or t > after):
                                source = self._source(key, t)
                except (KeyError, TypeError, ValueError, OverflowError):
                    if raw.strip():
                        seen.foreign += 1
                        keep(seen.foreign_lines, Evidence(file, number, raw))
                    continue
                if after is not None and t <= after:
                    seen.already += 1
                    continue
                if status is None:
                    self._event(said, t, Evidence(file, number, raw))
                    continue
                seen.access += 1
                hour = int(minute) // 3600
                counts = hours.get(hour)
                if counts is None:
                    counts = self._hour(hour, t)
                counts[0] += 1
                if t > latest:
                    latest = t
                if user is None:
                    if not_let_in:
                        counts[1] += 1
                        if name not in _SCANNED:
                            line = Evidence(file, number, raw)
                            self.refusals.refused(client, agent, refusal, name == "sign-in", t, line)
                    continue
                use = people.saw(source, t, hour, file, number, raw)
                if client in lately and refusal is None:
                    self.refusals.let_in(lately[client], use, t, Evidence(file, number, raw))
                if refusal is not None:
                    counts[1] += 1
                    if refusal == "forbidden":
                        people.refused(source, now.name, Evidence(file, number, raw))
                    continue
                if now.hour != hour:
                    health.turn(now, hour)
                now.count += 1
                if now.timed:
                    now.buckets[int(log2(ms + 1.0) * FINE)] += 1
                    if ms > now.slowest_ms:
                        now.slowest_ms = ms
                        now.slowest = [*now.slowest[-3:], Evidence(file, number, raw)]
                if failed:
                    counts[2] += 1
                    now.failed += 1
                    keep(now.lines, Evidence(file, number, raw))
                if name in _READS:
                    if name in _ARTIFACTS:
                        line = Evidence(file, number, raw)
                        people.did(source, "downloads", 1.0, line)
                        people.did(source, "bytes", sent, line)
                    if type(experiment) is str:
                        people.read(source, experiment, Evidence(file, number, raw))
                elif name in _DELETE and status < 400:
                    people.did(source, "deletions", _DELETE[name], Evidence(file, number, raw))
        stream.number, seen.last = number, latest
        seen.foreign += stream.too_long
        return None

    def end(self) -> None:
        """All is read."""
        self.people.end()
        self.refusals.end()
        self.health.end()
        learned, seen = self._noticed.learned, self.seen
        if seen.last:
            learned.until = max(seen.last, learned.until or 0.0)

    def _minute(self, text: str) -> float:
        """Unix time of the beginning of that minute. Raises ValueError."""
        if not _MINUTE.match(text[:16]) or len(text) != 24:
            raise ValueError(text)
        found = datetime.fromisoformat(f"{text[:16]}Z").timestamp()
        if len(self._minutes) >= _MOST_MINUTES:
            self._minutes.clear()
        self._minutes[text[:16]] = found
        return found

    def _hour(self, hour: int, t: float) -> list[int]:
        seen, learned = self.seen, self._noticed.learned
        if learned.begin is None:
            learned.begin = t
        seen.first = t if seen.first is None else min(t, seen.first)
        if len(seen.hours) >= _MOST_HOURS:
            del seen.hours[min(seen.hours)]
        counts = seen.hours[hour] = [0, 0, 0]
        return counts

    def _source(self, key: tuple[str, str, str, str | None], t: float) -> Source:
        user, client, agent, credential = key
        texts = (user, client, agent, "" if credential is None else credential)
        if not all(type(each) is str for each in texts):
            raise TypeError(user)
        if len(self._sources) >= _MOST_SOURCES:
            self._sources.clear()
        source = self._sources[key] = self.people.source(user, client, agent, credential, t)
        return source

    def _event(self, said: dict[str, Any], t: float, line: Evidence) -> None:
        """A line of the audit log."""
        client, details, target = said["client"], said["details"], said["target"]
        self.seen.audit += 1
        if type(client) is not str:
            return
        if said["event"] == "sign_in" and type(said["user"]) is str:
            self.refusals.signed_in(client, said["user"], t, line)
        elif said["event"] == "sign_in_refused" and said["outcome"] == "refused":
            name, repeats = target.get("user"), details.get("repeats", 1)
            times = min(repeats, 10_000) if type(repeats) is int and repeats > 0 else 1
            if type(name) is str:
                self.refusals.name_refused(client, name, t, line, times)


def _check_event(said: dict[str, Any]) -> None:
    """Raises KeyError, TypeError or ValueError where it is no line of an audit log."""
    if said["sequence"] < 1 or type(said["details"]) is not dict or type(said["target"]) is not dict:
        raise ValueError(said["event"])
    _ = said["client"], said["user"], said["outcome"]
