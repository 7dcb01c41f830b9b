"""A pasted token of the provider's: whether it is valid here, and what role its groups give."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.auth.admission import admitted, role_of
from proxy.auth.jwt.reading import Unreadable, audiences, moment, unverified
from proxy.auth.oidc import ProviderError
from proxy.auth.oidc.claims import MISSING, at, claims_of, groups_of
from proxy.auth.oidc.endpoints import Endpoints
from proxy.auth.oidc.tokens import verified
from proxy.doctor.result import Result, failure, ok, warning
from proxy.settings import Settings

_MOST_NAMED = 12


def token(settings: Settings, text: str) -> Iterator[Result]:
    """What there is to say of it; the token itself is in no result."""
    try:
        header, claims = unverified(text.encode())
    except (Unreadable, UnicodeEncodeError):
        yield failure(
            "token",
            "it is no JWT: an opaque access token, or not all of it",
            "paste an identity token; it begins with eyJ and has two dots",
        )
        return
    yield _signature(settings, text, header)
    yield from _addressed(settings, claims)
    yield from _times(settings, claims)
    yield from _groups(settings, claims)


def _signature(settings: Settings, text: str, header: Mapping[str, Any]) -> Result:
    async def look() -> str | None:
        endpoints = Endpoints(settings)
        try:
            algorithms = (await endpoints.found()).algorithms
            await verified(text, endpoints.keys, algorithms, kinds=("jwt", "at+jwt"))
        except ProviderError as error:
            return error.check or error.message
        finally:
            await endpoints.aclose()
        return None

    problem = asyncio.run(look())
    if problem is None:
        return ok("token", f"signed by the provider ({header.get('alg')}, key {header.get('kid')})")
    return failure(
        "token", problem, "paste one that this provider has just made; an old key may be withdrawn"
    )


def _addressed(settings: Settings, claims: Mapping[str, Any]) -> Iterator[Result]:
    if claims.get("iss") != settings.oauth_issuer_url:
        yield failure(
            "issuer",
            f"it was issued by {str(claims.get('iss'))[:200]!r}, and MLFLOW_UI_OAUTH_ISSUER_URL is "
            f"{settings.oauth_issuer_url!r}",
            "paste a token of the provider in the settings, or correct the setting",
        )
    ours = {settings.oauth_client_id, *settings.jwt_audience}
    meant = audiences(claims)
    if ours.isdisjoint(meant):
        yield failure(
            "audience",
            f"it is for {', '.join(meant)[:200] or 'nobody'}, and "
            f"{', '.join(filter(None, sorted(map(str, ours))))} "
            "is served here",
            "ask for a token for this client (identity token) or audience (PROXY_JWT_AUDIENCE)",
        )


def _times(settings: Settings, claims: Mapping[str, Any]) -> Iterator[Result]:
    now, skew = time.time(), settings.clock_skew
    try:
        issued, begins, ends = (moment(claims, name) for name in ("iat", "nbf", "exp"))
    except Unreadable:
        yield failure(
            "times", "a time among its claims is no time", "look at the provider's mapping of claims"
        )
        return
    ahead = max(issued or 0, begins or 0) - now
    if ahead > skew:
        yield failure(
            "clock",
            f"it was issued {ahead:.0f} s in the future, and PROXY_CLOCK_SKEW allows {skew:g} s: one "
            "of the two "
            "clocks is wrong",
            "have this machine and the provider keep time by NTP",
        )
    elif ends is not None and ends < now - skew:
        yield warning(
            "times", f"it ended {now - ends:.0f} s ago", "paste a fresh one to see whether that is all"
        )
    else:
        yield ok("times", "it is valid now")


def _groups(settings: Settings, claims: Mapping[str, Any]) -> Iterator[Result]:
    name = settings.groups_claim
    value = at(claims, name)
    overage = claims.get("_claim_names")
    if value is MISSING:
        if (isinstance(overage, Mapping) and "groups" in overage) or claims.get("hasgroups"):
            yield failure(
                "groups",
                f"the person has more groups than fit into a token, so the claim {name!r} was left out",
                "have the provider send only groups assigned to the application, or application roles",
            )
            return
        lists = list(_lists(claims))
        there = f"; lists of texts are in {', '.join(lists[:_MOST_NAMED])}" if lists else ""
        mend = (
            f"set PROXY_GROUPS_CLAIM={lists[0]}, if that holds the groups, or "
            if lists
            else f"at the provider, add a mapper that puts the groups into the claim {name!r}, or "
        )
        yield failure(
            "groups",
            f"it has no claim {name!r} (PROXY_GROUPS_CLAIM){there}",
            f"{mend}ask for the scope that brings it (MLFLOW_UI_OAUTH_SCOPES)",
        )
        return
    groups = groups_of(value)
    shown = ", ".join(groups[:_MOST_NAMED]) + (" …" if len(groups) > _MOST_NAMED else "") or "none"
    role = role_of(groups, settings)
    if not role:
        yield failure(
            "groups",
            f"groups: {shown}; none of them gives a role",
            "name one in PROXY_ROLE_VIEWER_GROUPS, PROXY_ROLE_EDITOR_GROUPS or PROXY_ROLE_ADMIN_GROUPS "
            "(case counts), or set PROXY_DEFAULT_ROLE",
        )
    else:
        yield ok("groups", f"groups: {shown}; role: {role.name.lower()}")
    try:
        person = claims_of(
            claims,
            issuer=str(settings.oauth_issuer_url),
            subject=str(claims.get("sub", "")),
            groups_claim=name,
            user_claim=settings.oauth_user_claim,
        )
    except ValueError as error:
        yield failure("user", f"it has {error} (PROXY_OAUTH_USER_CLAIM)", "name a claim that the token has")
        return
    refused = admitted(person, settings)
    if refused is not None:
        yield warning("admission", f"{person.user} would not get in: {refused}", "look at PROXY_ALLOWED_*")


def _lists(claims: Mapping[str, Any], before: str = "", depth: int = 3) -> Iterator[str]:
    """Where there are lists of texts, which groups may be."""
    for name, value in claims.items():
        path = f"{before}{name}"
        if isinstance(value, Mapping) and depth:
            yield from _lists(value, f"{path}.", depth - 1)
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(one, str) for one in value)
            and name
            not in (
                "aud",
                "amr",
            )
        ):
            yield path
