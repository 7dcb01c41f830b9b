"""Whether an answer of MLflow's is compressed on its way to the client, and what its headers then say."""

from __future__ import annotations

from proxy.codings import IDENTITY, Compressor, choose, compressor

Headers = list[tuple[bytes, bytes]]

LEAST = 4096
"""Bytes of a body below which it goes as it is: it fits into three packets, which go off together, however
slow the line is."""

# The quickest level of each: 0.1 ms for 35 KB of a search's answer with gzip, 0.06 ms with zstd, which make
# 5.5 and 4.2 KB of it; the next levels take twice as long and save a twentieth more (docs/ui.md).
_LEVELS = {"zstd": 1, "gzip": 1}
_PREFERRED = {"zstd": 1, "gzip": 2}
# What is encoded or a part already, or has a header that speaks of the bytes as they are sent (RFC 9530).
_AS_IT_IS = frozenset((b"content-digest", b"content-encoding", b"content-md5", b"content-range", b"digest"))


def worth_it(status: int, answer: Headers) -> bool:
    """Whether an answer with those headers may be compressed, for a client that takes it so.

    JSON of a known length alone: a stream of events has none, and its parts must not wait for each other. Not
    what is compressed, a part of something, or not to be transformed (RFC 9110, section 7.7).
    """
    if status != 200:
        return False
    length, json = 0, False
    for name, value in answer:
        if name == b"content-length":
            length = int(value)
        elif name == b"content-type":
            json = value.split(b";", 1)[0].strip().lower() == b"application/json"
        elif name in _AS_IT_IS or (name == b"cache-control" and b"no-transform" in value.lower()):
            return False
    return json and length >= LEAST


def coding_for(asked: Headers) -> str | None:
    """What the client wants it compressed with; None for nothing.

    Nothing where another site's page asks: it may choose a part of what the answer holds and learn from the
    answer's length whether the rest repeats it (the BREACH attack).
    """
    accept_encoding = None
    for name, value in asked:
        if name == b"accept-encoding":
            accept_encoding = value if accept_encoding is None else accept_encoding + b"," + value
        elif name == b"sec-fetch-site" and value not in (b"same-origin", b"none"):
            return None
    coding = choose(accept_encoding, _PREFERRED)
    return None if coding == IDENTITY else coding


def headers(answer: Headers, coding: str | None) -> Headers:
    """The answer's headers, once it is compressed so; with None those of one that might have been."""
    result: Headers = []
    vary = None
    for name, value in answer:
        if name == b"vary":
            vary = value if vary is None else vary + b", " + value
        elif coding is not None and name in (b"content-length", b"accept-ranges"):
            continue
        elif coding is not None and name == b"etag" and not value.startswith(b"W/"):
            # The bytes are others, and mean the same (RFC 9110, section 8.8.3.3).
            result.append((name, b"W/" + value))
        else:
            result.append((name, value))
    if vary is None:
        vary = b"Accept-Encoding"
    elif vary.strip() != b"*" and b"accept-encoding" not in vary.lower():
        vary += b", Accept-Encoding"
    result.append((b"vary", vary))
    if coding is not None:
        result.append((b"content-encoding", coding.encode("ascii")))
    return result


def compressor_for(coding: str) -> Compressor:
    """One for a body that comes in pieces."""
    return compressor(coding, _LEVELS[coding])
