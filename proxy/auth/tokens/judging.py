"""Whether a token counts, and for how much: by its own row and its owner's; pure but for the users file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from proxy.auth import admission
from proxy.auth.oidc.claims import Claims
from proxy.auth.tokens.info import State, TokenInfo
from proxy.identity import PASSWORD_ISSUER, SERVICE_ISSUER, SERVICE_PREFIX, Credential, Identity, Role
from proxy.store import Person, ServiceAccountRow, TokenRow
from proxy.store.people import owner_id

if TYPE_CHECKING:
    from proxy.settings import Settings

PasswordRole = Callable[[str], Role | None]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a token is, and what that account is worth at a moment."""

    issuer: str
    subject: str
    user: str
    """The name that the account has now."""
    state: Literal["active", "owner gone", "suspended"]
    role: Role = Role.NONE
    until: float = math.inf
    """Unix time at which that ends by itself."""
    why: str = ""
    """Where it is not active: what is the matter, as a clause about the owner."""

    @property
    def id(self) -> str:
        """What tokens have in the column ``owner``."""
        return owner_id(self.issuer, self.subject)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a token is worth at a moment."""

    state: State
    owner: Owner
    identity: Identity | None
    """Who whoever sends it is; None where it counts no more."""


def provider_issuer(settings: Settings) -> str | None:
    """The issuer of the identity provider's people (auth/oidc/endpoints.py), None where there is none."""
    if settings.oauth_issuer_url:
        return settings.oauth_issuer_url
    if settings.oauth_authorize_url:
        parts = urlsplit(settings.oauth_authorize_url)
        return f"{parts.scheme}://{parts.netloc}"
    return None


def claims_of(person: Person) -> Claims:
    """What the provider said of somebody when it last vouched; ``raw`` is empty."""
    return Claims(
        issuer=person.issuer,
        subject=person.subject,
        email=person.email,
        email_verified=person.email_verified,
        name=person.name,
        groups=person.groups,
        user=person.user,
    )


class Judge:
    """Knows the rules in force."""

    def __init__(self, settings: Settings, password_role: PasswordRole) -> None:
        """``password_role`` gives the role of the user of that name who has a password, None where there is
        no such user (any more)."""
        self._settings = settings
        self._password_role = password_role
        self.issuer = provider_issuer(settings)
        self.passwords_count = settings.basic_auth
        """PROXY_BASIC_AUTH."""

    def has_password(self, name: str) -> bool:
        """Whether there is a user of that name who has a password."""
        return self._password_role(name) is not None

    def roles_of_users(self, names: Iterable[str]) -> dict[str, Role | None]:
        """What users with passwords may now; None for those who are gone."""
        return {name: self._password_role(name) for name in names}

    def standing(self, row: TokenRow, now: float) -> Standing:
        owner = self.owner(row.issuer, row.subject, row.user, row.person, row.account, now)
        if row.revoked is not None:
            return Standing("revoked", owner, None)
        if now >= row.expires:
            return Standing("expired", owner, None)
        if owner.state != "active":
            return Standing(owner.state, owner, None)
        role = min(Role(row.role), owner.role)
        credential = Credential(row.id, row.name, row.expires, row.read_only)
        identity = Identity(owner.user, role, "token", row.issuer, row.subject, credential)
        return Standing("active", owner, identity)

    def info(self, row: TokenRow, now: float) -> TokenInfo:
        standing = self.standing(row, now)
        return TokenInfo(
            id=row.id,
            name=row.name,
            user=standing.owner.user,
            role=Role(row.role),
            read_only=row.read_only,
            created=row.created,
            created_by=row.created_by,
            expires=row.expires,
            last_used=row.last_used,
            last_used_from=row.last_used_from,
            state=standing.state,
            revoked_by=row.revoked_by,
            renews=row.renews,
            renewed=row.renewed,
        )

    def owner(
        self,
        issuer: str,
        subject: str,
        user: str,
        person: Person | None,
        account: ServiceAccountRow | None,
        now: float,
    ) -> Owner:
        """What an account is worth; ``user`` is its name as it was, ``person`` or ``account`` its row."""
        if issuer == SERVICE_ISSUER:
            user = f"{SERVICE_PREFIX}{subject}"
            if account is None or account.removed is not None:
                return Owner(issuer, subject, user, "owner gone", why="was removed")
            return _with_role(issuer, subject, user, Role(account.role))
        if issuer == PASSWORD_ISSUER:
            if not self._settings.basic_auth:
                why = "has a password alone, and those are switched off"
                return Owner(issuer, subject, user, "owner gone", why=why)
            role = self._password_role(subject)
            if role is None:
                return Owner(issuer, subject, user, "owner gone", why="is not here any more")
            return _with_role(issuer, subject, subject, role)
        if person is None:
            return Owner(issuer, subject, user, "owner gone", why="is not known here any more")
        return self._person(person, now)

    def _person(self, person: Person, now: float) -> Owner:
        issuer, subject, user = person.issuer, person.subject, person.user
        if issuer != self.issuer:
            why = "was vouched for by another identity provider than there is now"
            return Owner(issuer, subject, user, "owner gone", why=why)
        role = admission.role(claims_of(person), self._settings)
        if role is None:
            why = "is not among those who get in here and have a role"
            return Owner(issuer, subject, user, "owner gone", why=why)
        if person.suspended is not None:
            why = "has lost the access that the identity provider gave"
            return Owner(issuer, subject, user, "suspended", why=why)
        until = person.vouched + self._settings.token_sign_in_within
        if now >= until:
            return Owner(issuer, subject, user, "suspended", why="has not signed in for too long")
        return Owner(issuer, subject, user, "active", role, until)


def _with_role(issuer: str, subject: str, user: str, role: Role) -> Owner:
    if role is Role.NONE:
        return Owner(issuer, subject, user, "owner gone", why="has no role here any more")
    return Owner(issuer, subject, user, "active", role)
