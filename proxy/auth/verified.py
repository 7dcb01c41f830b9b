"""What the kinds of bearer credentials have in common: one that is in use, one that is a guess."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.auth.refusals import Refusal
from proxy.identity import SERVICE_PREFIX, Identity

_RESERVED_PREFIXES = (SERVICE_PREFIX, "client:")
_RESERVED_NAMES = frozenset({"mlflow-jobs", "metrics"})


@dataclass(slots=True)
class Verified:
    """A bearer credential in use here; the Authenticator keeps it under a keyed digest of the header."""

    identity: Identity | None
    """None once it counts no more: revoked, expired, its owner gone. Another one when the owner's role
    changes."""
    until: float
    """Unix time in seconds after which it has to be verified again."""
    used: float = 0.0
    """When it was last sent, in Unix seconds; whoever recalls it writes that."""
    client: str = ""
    """The address that it last came from, likewise."""


@dataclass(frozen=True, slots=True)
class Wrong(Refusal):
    """Of an unknown token or a bad signature: it may be a guess, so it is counted."""


def reserved_name(user: str) -> bool:
    """Whether that user name is one which no person of a provider may have, whatever its claims say: a
    service account's, a client's, MLflow's own jobs' or the scraper's."""
    return user.startswith(_RESERVED_PREFIXES) or user in _RESERVED_NAMES
