"""W3C Trace Context (www.w3.org/TR/trace-context/): what a client says of its trace, where that is valid."""

from __future__ import annotations

import re
from typing import NamedTuple

MOST_STATE = 512
"""Characters of ``tracestate``, as many as have to be passed on (section 3.3.1.5); a longer one is not."""
_MOST_MEMBERS = 32

# Version 00 has nothing behind the flags; a later one may, and is read as far as it is known (section 4.3).
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,200})?\Z", re.DOTALL
)
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Parent(NamedTuple):
    """The client's span."""

    trace_id: str
    span: str
    sampled: bool
    state: str
    """Its ``tracestate``, members separated by commas; empty where there is none, or none that is valid."""


def parent_of(headers: list[tuple[bytes, bytes]]) -> Parent | None:
    """What a request's headers say of its trace; None where they say nothing, or nothing valid."""
    traceparent: bytes | None = None
    states: list[bytes] | None = None
    for name, value in headers:
        if name == b"traceparent":
            if traceparent is not None:
                return None
            traceparent = value
        elif name == b"tracestate":
            states = [value] if states is None else [*states, value]
    if traceparent is None:
        return None
    found = _TRACEPARENT.match(traceparent)
    if found is None:
        return None
    version, trace_id, span, flags, more = found.groups()
    if not trace_id.strip(b"0") or not span.strip(b"0") or (more and version == b"00"):
        return None
    state = "" if states is None else _state(b",".join(states))
    return Parent(trace_id.decode(), span.decode(), bool(int(flags, 16) & 1), state)


def _state(value: bytes) -> str:
    if len(value) > MOST_STATE:
        return ""
    members = [member.strip(" \t") for member in value.decode("latin-1").split(",")]
    members = [member for member in members if member]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > _MOST_MEMBERS or len(keys) < len(members):
        return ""
    return ",".join(members) if all(map(_MEMBER.fullmatch, members)) else ""
