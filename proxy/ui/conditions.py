"""What a request asks of a file beyond its name: unless it is known already, or a part of it; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))[ \t]*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """The headers that matter here, as they came; several of one name are joined by commas."""

    accept_encoding: bytes | None
    if_match: bytes | None
    if_none_match: bytes | None
    if_range: bytes | None
    range: bytes | None


_NAMES = {
    b"accept-encoding": 0,
    b"if-match": 1,
    b"if-none-match": 2,
    b"if-range": 3,
    b"range": 4,
}


def asked(headers: list[tuple[bytes, bytes]]) -> Asked:
    """Pick them out."""
    found: list[bytes | None] = [None] * len(_NAMES)
    for name, value in headers:
        place = _NAMES.get(name)
        if place is not None:
            before = found[place]
            found[place] = value if before is None else before + b"," + value
    return Asked(*found)


def matches(tags: bytes, etag: bytes, *, weakly: bool) -> bool:
    """Whether an ETag is among those; `*` is every one (RFC 9110, sections 8.8.3.2, 13.1.1 and 13.1.2)."""
    if tags.strip() == b"*":
        return True
    return any(tag == etag and (weakly or not weak) for weak, tag in _TAG.findall(tags))


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `first` to `last`, both of them with it."""

    first: int
    last: int


def part(asked: Asked, etag: bytes, size: int) -> Part | bool | None:
    """Which part of the bytes as they are is asked for: None for all, False for one that there is not.

    Several parts at once, other units and what can't be read are all answered with the whole (RFC 9110,
    section 14.2). So is a part of what is no more there: If-Range takes a strong ETag, or a date, which no
    answer from here has (section 13.1.5).
    """
    if asked.range is None or (asked.if_range is not None and asked.if_range.strip() != etag):
        return None
    match = _RANGE.match(asked.range.strip())
    if match is None:
        return None
    if match[3] is not None:
        length = int(match[3])
        return Part(max(0, size - length), size - 1) if length and size else False
    first = int(match[1])
    last = size - 1 if match[2] is None else int(match[2])
    if match[2] is not None and last < first:
        return None
    return Part(first, min(last, size - 1)) if first < size else False
