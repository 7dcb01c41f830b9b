"""What a JWT says before anybody has verified it: enough to know whom to ask, and to refuse cheaply; pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from proxy.auth.oidc.claims import text

LONGEST = 32 * 1024
"""Bytes of a token; with a few hundred groups one has 16 KiB."""
_COMPACT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# Of an identity token (OpenID Connect Core, 3.1.3.6 and 3.3.2.11).
_IDENTITY_MARKS = ("nonce", "at_hash", "c_hash", "s_hash")
# What some call the kind of a token in its claims: Keycloak in `typ`, Cognito in `token_use`.
_OTHER_KINDS = frozenset({"id", "refresh", "offline", "logout", "action"})
_CLIENT = ("client_id", "azp", "cid", "appid")


class Unreadable(ValueError):
    """No JWT at all."""


def unverified(token: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, of which nothing may be believed yet. Raises Unreadable."""
    if len(token) > LONGEST or not _COMPACT.fullmatch(token):
        raise Unreadable
    header, claims, _ = token.split(b".")
    return _object(header), _object(claims)


def audiences(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Whom it is for (RFC 7519, 4.1.3); nobody where that is neither a text nor a list of texts."""
    value = claims.get("aud")
    listed: list[Any] = value if isinstance(value, list) else [value]
    return tuple(listed) if all(isinstance(name, str) for name in listed) else ()


def moment(claims: Mapping[str, Any], name: str) -> float | None:
    """A time among the claims in Unix seconds; None where it is absent. Raises Unreadable."""
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e11:
        raise Unreadable
    return float(value)


def not_for_access(header: Mapping[str, Any], claims: Mapping[str, Any], *, marked: bool) -> str | None:
    """None for an access token, else what the token is, to complete "It is …".

    A token of the kind at+jwt (RFC 9068, 2.1) is one. Of others, `marked` demands a sign that it is one
    (scopes, or a client that it was given to and that is not its audience, as an identity token's is);
    without that, the signs of an identity token alone decide, which the tokens of CI systems don't have.
    """
    kinds = {str(claims.get(name, "")).lower() for name in ("typ", "token_use")}
    if not kinds.isdisjoint(_OTHER_KINDS) or "events" in claims:
        return "an identity, refresh or logout token and no access token"
    # Bound to a key of the client's (RFC 9449, RFC 8705), which has to be shown with it: not a mere bearer's.
    if claims.get("cnf") is not None:
        return "bound to a key (cnf), which can't be shown here"
    if str(header.get("typ", "")).lower().removeprefix("application/") == "at+jwt":
        return None
    if any(name in claims for name in _IDENTITY_MARKS):
        return "an identity token and no access token"
    client = client_of(claims)
    scoped = any(isinstance(claims.get(name), str | list) for name in ("scope", "scp"))
    if marked and not scoped and (client is None or client in audiences(claims)):
        return "not marked as an access token (typ at+jwt, or a scope) and may be an identity token"
    return None


def client_of(claims: Mapping[str, Any]) -> str | None:
    """The client that the token was given to (RFC 9068, 2.2; azp, cid and appid are older names)."""
    return next(filter(None, (text(claims.get(name)) for name in _CLIENT)), None)


def clients_own(claims: Mapping[str, Any], client: str | None) -> bool:
    """Whether it is a client's own token and no person's (RFC 6749, 4.4).

    Only by what no person can choose: where it is not certain, the rules for people hold.
    """
    subject = claims.get("sub")
    if client is None:
        return False
    if subject in (client, f"{client}@clients"):  # the latter is Auth0's way
        return True
    if claims.get("idtyp") == "app":  # Entra ID
        return True
    # Keycloak: an account of the client's own, which has no session of anybody's.
    return (
        claims.get("client_id") == client
        and claims.get("preferred_username") == f"service-account-{client.lower()}"
        and not any(name in claims for name in ("sid", "auth_time", "email"))
    )


def fits(value: Any, allowed: Collection[str]) -> bool:
    """Whether a claim has one of those values; numbers and truth are compared as JSON writes them."""
    listed = value if isinstance(value, list) else [value]
    return any(
        (one if isinstance(one, str) else json.dumps(one)) in allowed
        for one in listed
        if isinstance(one, str | int | bool)
    )


def _object(part: bytes) -> dict[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise Unreadable from None
    if not isinstance(found, dict):
        raise Unreadable
    return found
