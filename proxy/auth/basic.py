"""The Authorization header: what credential it carries, or what is wrong with it."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from dataclasses import dataclass, field

LONGEST_NAME = 128
"""Characters of a user name."""


@dataclass(frozen=True, slots=True)
class Basic:
    """A user name (in NFC) and a password (its bytes, UTF-8)."""

    name: str
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Malformed:
    """No credential that could be checked; ``problem`` is a sentence and holds nothing of what was sent."""

    problem: str


def parse(authorization: bytes) -> Basic | Bearer | Malformed:
    """Read an Authorization value (RFC 7617 for Basic, RFC 6750 for Bearer). Never raises."""
    scheme, _, rest = authorization.strip().partition(b" ")
    scheme, rest = scheme.lower(), rest.strip()
    if scheme == b"bearer":
        return Bearer(rest) if rest else Malformed("The bearer token is empty.")
    if scheme != b"basic":
        return Malformed("The Authorization header is of a kind that is not known here; Basic is.")
    try:
        decoded = base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True)
    except binascii.Error:
        return Malformed("The Basic credential is not base64.")
    name, colon, password = decoded.partition(b":")
    if not colon:
        return Malformed("The Basic credential holds no colon between user name and password.")
    try:
        user = unicodedata.normalize("NFC", name.decode())
        password.decode()
    except UnicodeDecodeError:
        return Malformed("The Basic credential is not UTF-8 (RFC 7617, charset UTF-8).")
    if not user:
        return Malformed("The user name is empty.")
    if len(user) > LONGEST_NAME:
        return Malformed(f"The user name is longer than {LONGEST_NAME} characters.")
    if any(ord(character) < 32 or ord(character) == 127 for character in user):
        return Malformed("The user name holds a control character.")
    return Basic(user, password)


def name_problem(name: str) -> str | None:
    """Why a name can't be given to a user, or None where it can. The text completes "the user name …"."""
    if not name:
        return "is empty"
    if len(name) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} characters"
    if ":" in name:
        return "holds a colon, which ends a name in Basic authentication"
    # Control, format (also what turns the direction of text), half a pair, unassigned, line ends.
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"} for character in name):
        return "holds a control or invisible character"
    if name != name.strip():
        return "begins or ends with a space"
    if name.startswith("#"):
        return "begins with #, which begins a comment in the file"
    if unicodedata.normalize("NFC", name) in {"mlflow-jobs", "metrics"}:
        return "is the name that this service gives to MLflow's jobs or to the scraper"
    return None
