"""Content codings: which one a client may get (Accept-Encoding), and what applies them."""

from __future__ import annotations

import functools
import re
import sys
import zlib
from collections.abc import Mapping
from typing import BinaryIO, Protocol, cast

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IDENTITY = "identity"

# A weight has three digits at most (RFC 9110, section 12.4.2); here it is counted in thousandths.
_ELEMENT = re.compile(
    r"[ \t]*(\*|[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r"(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?[ \t]*\Z"
)
# What was said of Accept-Encoding is mostly one of a dozen values.
_REMEMBERED = 256
_LONGEST = 1024


class Compressor(Protocol):
    """Takes a body in pieces."""

    def compress(self, data: bytes, /) -> bytes:
        """What may be sent by now."""

    def flush(self) -> bytes:
        """The rest."""


@functools.lru_cache(_REMEMBERED)
def weights(accept_encoding: bytes) -> Mapping[str, int]:
    """What the header says of each coding, in thousandths; an element that can't be read says nothing."""
    found: dict[str, int] = {}
    for element in accept_encoding[:_LONGEST].decode("latin-1").split(","):
        match = _ELEMENT.match(element)
        if match is None:
            continue
        name = match[1].lower()
        name = "gzip" if name == "x-gzip" else name  # RFC 9110, section 8.4.1.3
        found.setdefault(name, round(float(match[2] or 1) * 1000))
    return found


def choose(accept_encoding: bytes | None, sizes: Mapping[str, int]) -> str:
    """The coding that the client prefers of those that there are, `sizes`: the smallest where it has no
    preference, `identity` where the client wants nothing else, or nothing that there is (RFC 9110, section
    12.5.3)."""
    if not accept_encoding:
        return IDENTITY
    said = weights(accept_encoding)
    others = said.get("*", 0)
    best, weight, size = IDENTITY, said.get(IDENTITY, said.get("*", 1)), sys.maxsize
    for coding, length in sizes.items():
        theirs = said.get(coding, others)
        if theirs and (theirs > weight or (theirs == weight and length < size)):
            best, weight, size = coding, theirs, length
    return best


def takes_identity(accept_encoding: bytes | None) -> bool:
    """Whether the client takes a body as it is."""
    if not accept_encoding:
        return True
    said = weights(accept_encoding)
    return said.get(IDENTITY, said.get("*", 1)) > 0


def compressed(data: bytes, coding: str, level: int) -> bytes:
    """The whole of it; levels as each library has them."""
    if coding == "br":
        return bytes(brotli.compress(data, quality=level))
    if coding == "zstd":
        # Browsers take a window of 8 MiB at most (RFC 9659), which no level up to 19 exceeds.
        return zstd.compress(data, level)
    packer = zlib.compressobj(level, wbits=31)
    return packer.compress(data) + packer.flush()


def compressor(coding: str, level: int) -> Compressor:
    """One for a body that comes in pieces: zstd or gzip."""
    if coding == "zstd":
        return zstd.ZstdCompressor(level)
    return zlib.compressobj(level, wbits=31)


ZstdError = zstd.ZstdError


def zstd_reader(file: BinaryIO) -> BinaryIO:
    """What is in a file of zstd frames, read in pieces; raises ZstdError or EOFError where that is broken."""
    return cast(BinaryIO, zstd.ZstdFile(file))
