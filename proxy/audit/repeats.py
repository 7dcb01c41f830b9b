"""What comes again and again: the first of a kind is written at once, the rest is counted by the minute."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import NamedTuple

from proxy.audit.entry import Entry

SECONDS = 60.0
KINDS = 1000
"""How many kinds are told apart in a minute; what is new beyond that is counted as one, so that whoever sends
refused requests from everywhere does not fill the disk. A verified user stays named, or a flood of strangers
would hide what is tried with a stolen token."""


class Kind(NamedTuple):
    """What makes two refusals the same."""

    event: str
    client: str
    user: str
    credential: str
    reason: str
    operation: str


@dataclass(slots=True)
class _Seen:
    until: float
    latest: Entry
    repeats: int = 0


class Repeats:
    """Any thread may use it. Times are ``time.monotonic()`` seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Kind, _Seen] = {}

    def first(self, entry: Entry, now: float) -> Entry | None:
        """What is to be written at once, None where it came before: then it is counted, for `due`."""
        kind = _kind(entry)
        with self._lock:
            seen = self._seen.get(kind)
            if seen is None and len(self._seen) >= KINDS:
                entry = _anybodys(entry)
                kind = _kind(entry)
                seen = self._seen.get(kind)
            if seen is None:
                self._seen[kind] = _Seen(now + SECONDS, entry)
                return entry
            seen.latest = entry
            seen.repeats += 1
            return None

    def due(self, now: float = math.inf) -> list[Entry]:
        """The latest of each kind that came again in the minute that is over, with how often it did."""
        found = []
        with self._lock:
            for kind, seen in list(self._seen.items()):
                if now < seen.until:
                    continue
                if not seen.repeats:
                    del self._seen[kind]
                    continue
                details = {**seen.latest["details"], "repeats": seen.repeats}
                found.append({**seen.latest, "details": details})
                seen.until, seen.repeats = now + SECONDS, 0
        return found


def _kind(entry: Entry) -> Kind:
    who = (entry["client"] or "", entry["user"] or "", entry["credential"] or "")
    return Kind(entry["event"], *who, entry["details"].get("reason", ""), entry["operation"] or "")


def _anybodys(entry: Entry) -> Entry:
    """What stays of it where it stands for many: a verified user's name, and which token of ours it was; of
    JWTs one person may have any number."""
    names = ["session", "client", "request_id", "operation"]
    if entry["auth"] != "token":
        names += ["credential", "credential_name"]
    if not entry["auth"]:
        names += ["user", "role"]
    details = {"reason": entry["details"].get("reason", ""), "others": True}
    return {**entry, **dict.fromkeys(names), "target": {}, "details": details}
