"""What is said of tokens and service accounts to people who look at them, and who may manage them; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from proxy.identity import PASSWORD_ISSUER, SERVICE_PREFIX, Identity, Role

if TYPE_CHECKING:
    from proxy.store import ServiceAccountRow

State = Literal["active", "expired", "revoked", "owner gone", "suspended"]


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as pages, the API and the commands show it: never the secret. Times are Unix seconds."""

    id: str
    name: str
    user: str
    """Whose it is, by the name that this user has now; a service account's begins with SERVICE_PREFIX."""
    role: Role
    """The role that it was made with; it never does more than its owner may."""
    read_only: bool
    created: float
    created_by: str
    expires: float
    last_used: float | None
    last_used_from: str | None
    state: State
    revoked_by: str | None
    """Of one that was revoked: who did it."""
    renews: str | None
    """The id of the token that it was made in place of."""
    renewed: float | None
    """When another one was made in its place."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """An account that belongs to no person. Times are Unix seconds."""

    name: str
    role: Role
    description: str
    created: float
    created_by: str

    @property
    def user(self) -> str:
        """Its user name, in logs and on runs."""
        return f"{SERVICE_PREFIX}{self.name}"


def account_info(row: ServiceAccountRow) -> ServiceAccount:
    """What of a row is for people to see."""
    return ServiceAccount(row.name, Role(row.role), row.description, row.created, row.created_by)


def target_of(token: TokenInfo) -> dict[str, str]:
    """What the audit log calls a token."""
    return {"token": token.id, "token_name": token.name, "user": token.user}


def may_manage(identity: Identity, provider: str | None = None) -> str | None:
    """None where this caller may make, renew, revoke and list tokens, else why not, for the caller.

    That is a person who has signed in or sent a password, or an access token of the identity provider
    ``provider`` (its issuer) that was given to a person. A token makes no tokens, or one that was stolen
    would outlive its own revocation.
    """
    if not identity.subject:
        return f"{identity.user} is no account of a person, and has no tokens of its own."
    if identity.method in ("session", "basic"):
        return None
    if identity.method == "jwt" and identity.issuer != PASSWORD_ISSUER and identity.issuer == provider:
        if not identity.user.startswith("client:"):
            return None
        return f"{identity.user} is a program: an administrator makes a service account for it."
    if identity.method == "token":
        return (
            "A token can't make, renew, revoke or list tokens: sign in, or send your user name and password."
        )
    return f"{identity.user} can't have tokens here: its credential is no person's of this server."
