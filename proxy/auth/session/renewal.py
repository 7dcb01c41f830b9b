"""Asking again who a person is: what the provider and the settings say by now of somebody who signed in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.auth.oidc.claims import Claims, Tokens
from proxy.auth.oidc.failures import ProviderError, ProviderRefused
from proxy.auth.session.sealing import Sealing
from proxy.auth.verified import reserved_name
from proxy.identity import PASSWORD_ISSUER, Role
from proxy.store import Person, SessionRow

log = logging.getLogger(__name__)

Roles = Callable[[Claims], Role | None]


class Provider(Protocol):
    """The part of an identity provider that sessions need."""

    async def refresh(self, kept: Tokens, subject: str | None = None) -> tuple[Claims | None, Tokens]: ...


@dataclass(frozen=True, slots=True)
class Renewed:
    """The row's columns as they are now."""

    values: dict[str, Any]
    claims: Claims | None = None
    """What the provider said of the person, where it said anything."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The session ends, because of that."""

    by: str
    claims: Claims | None = None
    """As in Renewed."""
    refused: bool = False
    """Whether the provider vouches for the person no more."""


@dataclass(frozen=True, slots=True)
class Later:
    """The provider can't say now: the session goes on, and it is asked again."""


def claims_of_row(row: SessionRow) -> Claims:
    """What is kept of the claims. Of ``raw`` that is ``sid`` alone."""
    return Claims(
        issuer=row.issuer,
        subject=row.subject,
        email=row.email,
        email_verified=row.email_verified,
        name=row.name,
        groups=row.groups,
        raw={} if row.provider_sid is None else {"sid": row.provider_sid},
        user=row.user,
    )


def columns(claims: Claims) -> dict[str, Any]:
    """The columns that claims fill. PostgreSQL's text holds no NUL."""
    return {
        "email": None if claims.email is None else _text(claims.email, 320),
        "email_verified": claims.email_verified,
        "name": _text(claims.name, 256),
        "groups": tuple(_text(group, 1024) for group in claims.groups),
    }


def person(claims: Claims, at: float) -> Person:
    """Whom the provider vouched for at that Unix time, as the table of people has it."""
    return Person(
        issuer=claims.issuer,
        subject=claims.subject,
        user=(claims.user or claims.subject)[:512],
        vouched=at,
        **columns(claims),
    )


async def renewal(
    row: SessionRow, provider: Provider | None, sealing: Sealing, roles: Roles
) -> Renewed | Ended | Later:
    """Decide what becomes of a session whose groups have to be asked for again. Writes nothing."""
    claims, sealed = claims_of_row(row), row.tokens
    new: Claims | None = None
    if row.issuer != PASSWORD_ISSUER:
        tokens = None if row.tokens is None else sealing.open(row.tokens)
        if provider is None or (row.tokens is not None and tokens is None):
            return Ended("a change of the identity provider's settings")
        if tokens is not None:
            try:
                new, tokens = await provider.refresh(tokens, row.subject)
            except ProviderRefused as error:
                return Ended(f"the identity provider ({error.reason})", refused=True)
            except ProviderError as error:
                log.warning("the identity provider was asked for a session's groups in vain: %s", error)
                return Later()
            except Exception:
                log.exception("the identity provider was asked for a session's groups in vain")
                return Later()
            sealed = sealing.seal(tokens)
            if new is not None:
                if (new.issuer, new.subject) != (row.issuer, row.subject):
                    return Ended("the identity provider (it speaks of another person)")
                claims = new
    role = roles(claims)
    # As at a sign-in: the name goes to the person's tokens, though the session keeps its own.
    if role is None or (row.issuer != PASSWORD_ISSUER and reserved_name(claims.user or claims.subject)):
        return Ended("the settings of who gets in", claims=new)
    values = columns(claims)
    if (sid := claims.sid) is not None:
        values["provider_sid"] = sid
    return Renewed({**values, "role": int(role), "tokens": sealed}, claims=new)


def _text(text: str, longest: int) -> str:
    return text.replace("\0", "")[:longest]
