"""Tokens that the provider signed: what is believed of an identity token and of a logout token."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from proxy.auth.oidc.claims import text
from proxy.auth.oidc.discovery import ALGORITHMS
from proxy.auth.oidc.failures import ProviderError
from proxy.auth.oidc.keys import Keys

LONGEST = 128 * 1024
"""Characters of a token."""
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_AGE = 600.0
"""Seconds for which a logout token counts, besides its own ``exp``: each jti is remembered that long."""
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# A key, or the way to one, in the very thing it is to verify (RFC 8725, 3.10), and what must be understood to
# read on (RFC 7515, 4.1.11), of which we understand nothing.
_NOT_IN_HEADER = ("jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc")


@dataclass(frozen=True, slots=True)
class Logout:
    """What a verified logout token says: who is signed out, at which issuer."""

    issuer: str
    subject: str | None
    sid: str | None
    jti: str
    issued: float


async def id_token(
    token: Any,
    keys: Keys,
    *,
    issuer: str,
    client_id: str,
    algorithms: Collection[str],
    skew: float,
    nonce: str | None,
    access_token: str | None,
) -> dict[str, Any]:
    """The claims of an identity token that is valid for us (OpenID Connect Core, 3.1.3.7).

    `nonce` is None where a token was refreshed (12.2). Raises ProviderError (bad_token), and
    ProviderUnavailable where the keys can't be had.
    """
    header, claims = await verified(token, keys, algorithms)
    checked = CodeIDToken(
        claims,
        header,
        {
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": client_id},
            "nonce": {"essential": nonce is not None},
        },
        {"nonce": nonce, "client_id": client_id, "access_token": access_token},
    )
    try:
        checked.validate(now=int(time.time()), leeway=int(skew))
    except JoseError as error:
        raise _bad(f"The identity token is refused: {str(error)[:200]}.") from None
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise _bad("A claim of the identity token has the wrong kind of value.") from None
    if nonce is not None and not hmac.compare_digest(str(claims["nonce"]).encode(), nonce.encode()):
        raise _bad("The identity token was made for another sign-in (nonce).")
    audience = claims["aud"]
    if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != client_id:
        raise _bad(
            "The identity token is for several clients and does not name this one as its holder (azp)."
        )
    if text(claims.get("sub")) is None:
        raise _bad("The identity token's subject (sub) can't be used.")
    if isinstance(events := claims.get("events"), Mapping) and LOGOUT_EVENT in events:
        raise _bad("A logout token was sent as an identity token.")
    return claims


async def logout_token(
    token: Any, keys: Keys, *, issuer: str, client_id: str, algorithms: Collection[str], skew: float
) -> Logout:
    """What a logout token that is valid for us says (OpenID Connect Back-Channel Logout 1.0, 2.6)."""
    _, claims = await verified(token, keys, algorithms, kinds=("jwt", "logout+jwt"))
    registry = jwt.JWTClaimsRegistry(
        now=int(time.time()),
        leeway=int(skew),
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": client_id},
        iat={"essential": True},
        jti={"essential": True},
    )
    try:
        registry.validate(claims)
    except (JoseError, TypeError, ValueError, OverflowError) as error:
        raise _bad(f"The logout token is refused: {str(error)[:200]}.") from None
    if float(claims["iat"]) < time.time() - LOGOUT_AGE - skew:
        raise _bad("The logout token is too old.")
    events = claims.get("events")
    if not isinstance(events, Mapping) or not isinstance(events.get(LOGOUT_EVENT), Mapping):
        raise _bad("The token is not a logout token: it has no such event.")
    if "nonce" in claims:
        raise _bad("The token is not a logout token: it has a nonce.")
    subject, sid = text(claims.get("sub")), text(claims.get("sid"))
    jti = text(claims["jti"])
    if subject is None and sid is None:
        raise _bad("The logout token names neither a subject nor a session.")
    if jti is None:
        raise _bad("The logout token's jti can't be used.")
    return Logout(issuer, subject, sid, jti, float(claims["iat"]))


async def verified(
    token: Any, keys: Keys, algorithms: Collection[str], kinds: Collection[str] = ("jwt",)
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token whose signature is the provider's; nothing of the claims is looked at.

    `kinds` are those of its header (typ), in small letters; ``jwt`` where it has none. Raises ProviderError
    (bad_token; keys.UnknownKey), and ProviderUnavailable where the keys can't be had.
    """
    if not isinstance(token, str) or len(token) > LONGEST or not _COMPACT.fullmatch(token):
        raise _bad("The token is not a signed one.")
    header = _header(token)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms or algorithm not in ALGORITHMS:
        raise _bad(
            f"The token's algorithm is {str(algorithm)[:50]!r}, which the provider is not known to use."
        )
    for name in _NOT_IN_HEADER:
        if name in header:
            raise _bad(f"The token's header has {name!r}.")
    kid, kind = header.get("kid"), header.get("typ", "JWT")
    if kid is not None and not isinstance(kid, str):
        raise _bad("The token's key id is no text.")
    # RFC 8725, 3.11: one kind of token is not taken for another.
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in kinds:
        raise _bad(f"The token is of another kind ({str(kind)[:50]!r}).")
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = 4096
    try:
        verified = jwt.decode(token, await keys.find(kid, algorithm), registry=registry)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise _bad("The token's signature is not the provider's, or it is no token at all.") from None
    return verified.header, verified.claims


def _header(token: str) -> dict[str, Any]:
    first = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _bad("The token's header can't be read.")
    return header


def _bad(check: str) -> ProviderError:
    return ProviderError("bad_token", "The identity provider's token is not valid here.", check=check)
