"""What a token of ours looks like: a prefix, 178 random bits, and a checksum; pure.

The shape is that of GitHub's tokens: ``mlfpat_`` or ``mlfsat_``, 30 random characters and 6 of checksum, all
base62. A secret scanner finds them by ``\\bmlf[ps]at_[0-9A-Za-z]{36}\\b``, and the checksum (CRC32 of all
before it, in UTF-8) tells a token from what looks like one without asking anybody.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from typing import Literal

Kind = Literal["person", "service"]

PREFIXES: dict[Kind, str] = {"person": "mlfpat_", "service": "mlfsat_"}
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM = 30
_CHECKSUM = 6  # base62 digits of 32 bits
_STARTS = tuple(prefix.encode() for prefix in PREFIXES.values())
_WHOLE = re.compile(rb"(?:mlfpat_|mlfsat_)[0-9A-Za-z]{36}")


def made(kind: Kind) -> str:
    """A new token: the secret itself, of which nothing is kept but what `digest` makes of it."""
    text = PREFIXES[kind] + "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return text + _checksum(text)


def looks_like(token: bytes) -> bool:
    """Whether somebody meant a token of ours, be it whole or not."""
    return token.startswith(_STARTS)


def in_password(password: bytes) -> bytes | None:
    """The token that was sent as a password, or None where it is none.

    A service account's user name holds a colon, which ends the name in Basic authentication (RFC 7617, 2): of
    ``service:ci`` and a token the password is ``ci:mlfsat_…``. No token holds a colon.
    """
    last = password.rpartition(b":")[2]
    return last if looks_like(last) else None


def checked(token: bytes) -> str | None:
    """The token as text where its checksum is right, else None."""
    if _WHOLE.fullmatch(token) is None:
        return None
    text = token.decode("ascii")
    return text if _checksum(text[:-_CHECKSUM]) == text[-_CHECKSUM:] else None


def digest(token: str) -> str:
    """What the database has in its place. It need not be slow to make: 178 random bits are not tried out."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_id() -> str:
    """What a token is called; it has nothing of the secret in it."""
    return secrets.token_hex(8)


def _checksum(text: str) -> str:
    value = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM):
        value, digit = divmod(value, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
