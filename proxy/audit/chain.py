"""The chain: how a line is authenticated together with the one before it, and read again; pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.audit.keys import Keys
from proxy.logs.lines import json_line

BEGINNING = "0" * 64
"""What stands in place of a digest before the first line of a chain."""
LONGEST = 256 * 1024
"""Bytes of a line, newline included; entry.py keeps them far shorter."""

_END = re.compile(rb',"hmac":"([0-9a-f]{64})"\}\Z')
_END_BYTES = 75


@dataclass(frozen=True, slots=True)
class Head:
    """The newest line of a chain."""

    chain: str
    sequence: int
    """1 for a chain's first line; 0 where it has none yet."""
    digest: str
    """SHA-256 of the line without its newline."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it was read; what it says is to be believed only where `authentic` says so."""

    head: Head
    previous: str
    key: str
    event: str
    time: str
    details: Mapping[str, Any]
    body: bytes
    """The bytes that its HMAC is of."""
    hmac: str

    def authentic(self, keys: Keys) -> bool | None:
        """Whether the line is as it was written; None where its key is not known."""
        right = keys.authenticate(self.body, self.key)
        return None if right is None else hmac.compare_digest(right, self.hmac)


def seal(entry: Mapping[str, Any], head: Head, keys: Keys) -> tuple[bytes, Head]:
    """The line of an event, newline included, and the chain's head with it.

    The HMAC is of the line's own bytes up to it, the digest of the line before among them.
    """
    sequence = head.sequence + 1
    fields = {
        "time": entry["time"],
        "sequence": sequence,
        **entry,
        "chain": head.chain,
        "previous": head.digest,
        "key": keys.signing,
    }
    body = json_line(fields)[:-2]  # without the brace and the newline
    line = body + f',"hmac":"{keys.authenticate(body)}"}}'.encode()
    return line + b"\n", Head(head.chain, sequence, digest(line))


def digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def read(line: bytes) -> Line | None:
    """A line without its newline; None where it is none of an audit log."""
    end = _END.search(line, max(0, len(line) - _END_BYTES))
    if end is None or len(line) > LONGEST:
        return None
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    sequence, details = fields.get("sequence"), fields.get("details")
    texts = [fields.get(name) for name in ("chain", "previous", "key", "event", "time")]
    if type(sequence) is not int or sequence < 1 or not all(isinstance(text, str) for text in texts):
        return None
    chain, previous, key, event, time = (str(text) for text in texts)
    return Line(
        head=Head(chain, sequence, digest(line)),
        previous=previous,
        key=key,
        event=event,
        time=time,
        details=details if isinstance(details, dict) else {},
        body=line[: end.start()],
        hmac=end[1].decode(),
    )
