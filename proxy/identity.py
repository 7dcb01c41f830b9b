"""Who is calling: one frozen value that every layer after authentication reads and none changes."""

from __future__ import annotations

import enum
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any


class Role(enum.IntEnum):
    """What a caller may do, in rising order; compare with ``<`` and ``>=``.

    A viewer reads and searches, an editor also logs, an admin also deletes and administers.
    """

    NONE = 0
    VIEWER = 1
    EDITOR = 2
    ADMIN = 3

    @classmethod
    def parse(cls, text: str) -> Role:
        """The role of that name, in any case. Raises ValueError naming the ones there are."""
        try:
            return cls[text.strip().upper()]
        except KeyError:
            names = ", ".join(role.name.lower() for role in cls if role)
            raise ValueError(f"{text!r} is not a role: {names}") from None


PASSWORD_ISSUER = ""
"""Where an identity's issuer would be, of somebody who has a password of ours."""
SERVICE_ISSUER = "service"
"""The issuer of service accounts. No provider's: those are URLs."""
SERVICE_PREFIX = "service:"
"""What a service account's user name begins with, and nobody else's."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A program's credential: a token of ours, or a JWT of a provider's."""

    id: str
    """What lists, logs and metrics call it; it opens nothing."""
    name: str
    """What its owner calls it; of a JWT, the client it was given to."""
    expires: float | None = None
    """Unix time in seconds."""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose credential was verified."""

    user: str
    role: Role
    method: str
    """How it was verified: ``basic``, ``session``, ``token`` (one of ours), ``jwt`` (a provider's), ``job``
    (MLflow's own jobs) or ``metrics`` (the scraper's token)."""
    issuer: str = ""
    """With `subject`, whose account it is: a provider's URL, PASSWORD_ISSUER or SERVICE_ISSUER."""
    subject: str = ""
    credential: Credential | None = None
    """Set where `method` is ``token`` or ``jwt``."""


def identity_of(scope: MutableMapping[str, Any]) -> Identity | None:
    """The verified caller of an ASGI request, or None before authentication or where none is needed."""
    identity = scope["exchange"].identity
    return identity if isinstance(identity, Identity) else None
