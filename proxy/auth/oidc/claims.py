"""What a provider says of a person, read from its claims; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MISSING = object()
_LONGEST = 256
# RFC 5321's plain form and no other: what is quoted, not ASCII or has a second @ names nobody here.
_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)


@dataclass(frozen=True, slots=True)
class Claims:
    """Who a person is, as a provider has vouched for it."""

    issuer: str
    subject: str
    """Unique at this issuer and never given to another; opaque."""
    email: str | None
    email_verified: bool
    name: str
    """For people to read; anybody may have chosen it."""
    groups: tuple[str, ...]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    user: str = ""
    """The name of this person here: PROXY_OAUTH_USER_CLAIM, the verified e-mail address, or the subject."""

    @property
    def sid(self) -> str | None:
        """The provider's id of its session, for back-channel logout; None where it gave none."""
        return text(self.raw.get("sid"))


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider gave beside the identity: secrets, never shown and never in a cookie."""

    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    expires: float | None = None
    """Unix time at which the access token ends, in seconds."""


def claims_of(
    raw: Mapping[str, Any], *, issuer: str, subject: str, groups_claim: str, user_claim: str | None
) -> Claims:
    """Read claims. Raises ValueError where ``user_claim`` is set and names nothing fit for a user name."""
    email = address(raw.get("email"))
    verified = email is not None and is_verified(raw, issuer)
    if user_claim is not None:
        value = at(raw, user_claim)
        number = isinstance(value, int) and not isinstance(value, bool)
        user = text(str(value) if number else value)
        if user is None:
            raise ValueError(f"no usable claim {user_claim!r}")
    else:
        user = email.lower() if email is not None and verified else subject
    name = next(filter(None, (text(raw.get(key)) for key in ("name", "preferred_username", "login"))), user)
    return Claims(
        issuer=issuer,
        subject=subject,
        email=email,
        email_verified=verified,
        name=name,
        groups=groups_of(at(raw, groups_claim)),
        raw=raw,
        user=user,
    )


def merged(token: Mapping[str, Any], userinfo: Mapping[str, Any]) -> dict[str, Any]:
    """The signed token's claims, and what it lacks from the user-info answer.

    An address and whether it is verified are one statement: they are never taken from two sources, unless
    both speak of the same address.
    """
    result = {**userinfo, **token}
    source = token if "email" in token else userinfo
    verified = source.get("email_verified")
    if source is token and verified is None and userinfo.get("email") == token["email"]:
        verified = userinfo.get("email_verified")
    result["email_verified"] = verified
    return result


def at(raw: Mapping[str, Any], path: str) -> Any:
    """The value at a path with dots, or MISSING; a claim whose whole name has dots comes first."""
    if path in raw:
        return raw[path]
    for index, character in enumerate(path):
        if character == "." and isinstance(inner := raw.get(path[:index]), Mapping):
            found = at(inner, path[index + 1 :])
            if found is not MISSING:
                return found
    return MISSING


def groups_of(value: Any) -> tuple[str, ...]:
    """Group names: the strings of a list, or one string. What is neither is no group."""
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(dict.fromkeys(group for group in found if isinstance(group, str) and group))


def is_verified(raw: Mapping[str, Any], issuer: str) -> bool:
    """Whether the provider says that the address is this person's (OpenID Connect Core, 5.1).

    Some send the word instead of the boolean. Entra ID has no such claim; its optional ``xms_edov`` says that
    the address's domain is the tenant's own.
    """
    verified = raw.get("email_verified")
    if verified is None and issuer.startswith("https://login.microsoftonline.com/"):
        return raw.get("xms_edov") in (True, "1", "true")
    return verified is True or verified == "true"


def address(value: Any) -> str | None:
    """An e-mail address of the plain kind, or None."""
    return value if isinstance(value, str) and len(value) <= 254 and _ADDRESS.fullmatch(value) else None


def text(value: Any) -> str | None:
    """A printable string of 1 to 256 characters, or None."""
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable() else None
