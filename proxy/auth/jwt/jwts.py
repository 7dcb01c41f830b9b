"""Verifies JWTs that are sent as bearer tokens: issuer, audience, times, kind, signature; then the bearer."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from proxy.auth.jwt import reading
from proxy.auth.jwt.further import Further
from proxy.auth.jwt.people import Bearer, NotAdmitted, People
from proxy.auth.jwt.words import Words
from proxy.auth.oidc import tokens
from proxy.auth.oidc.discovery import ALGORITHMS
from proxy.auth.oidc.failures import ProviderError, ProviderUnavailable
from proxy.auth.oidc.keys import Keys, UnknownKey
from proxy.auth.refusals import Refusal
from proxy.auth.verified import Verified, Wrong
from proxy.identity import Credential, Identity
from proxy.store import StoreUnavailable

if TYPE_CHECKING:
    from proxy.auth.oidc import Claims, Provider
    from proxy.exchange import Exchange
    from proxy.settings import Settings
    from proxy.settings.jwt_issuers import JwtIssuer

REMEMBERED = 3600.0
"""Seconds after which a token is verified again however long it has: a key that its issuer has withdrawn
counts no longer than that beyond the next look at the keys (oidc/keys.py, OLD)."""
ASKED_AGAIN = 60.0
"""The same where something was taken from the person's last sign-in."""
_KINDS = ("jwt", "at+jwt")


class _Declined(Exception):
    """A token that does not count; `result` is what is observed."""

    def __init__(self, result: str, refusal: Refusal) -> None:
        super().__init__(result)
        self.result = result
        self.refusal = refusal


class Jwts:
    """All issuers whose tokens count. Who makes it closes it; `provider` is somebody else's to close.

    `people(issuer, subject)` gives what the provider said of a person at the last sign-in here, for what an
    access token lacks: None where there was none, or none that still counts. It may raise StoreUnavailable.
    `vouch(claims, at)` notes in its place what a token says that lacks nothing, of a person as of that Unix
    time.
    ``observe("jwt", result)`` is called once for each verify().
    """

    def __init__(
        self,
        settings: Settings,
        provider: Provider | None,
        issuers: tuple[JwtIssuer, ...],
        people: Callable[[str, str], Awaitable[Claims | None]],
        observe: Callable[[str, str], None],
        vouch: Callable[[Claims, float], Awaitable[None]] | None = None,
    ) -> None:
        self._observe = observe
        self._vouch = vouch
        self._skew = settings.clock_skew
        self._audience = settings.jwt_audience
        self._words = Words(settings)
        self._further = [Further(issuer) for issuer in issuers]
        self._provider = provider if settings.jwt_audience else None
        if self._provider is not None:
            prefixes = tuple(f"{issuer.name}:" for issuer in issuers)
            self._people = People(settings, self._provider.issuer, people, prefixes)

    async def aclose(self) -> None:
        for further in self._further:
            await further.aclose()

    async def warm(self) -> None:
        """Fetch the further issuers' keys, so that the first token is quick and a mistake shows at start."""
        for further in self._further:
            with contextlib.suppress(ProviderUnavailable):
                await further.keys.warm()

    @property
    def problem(self) -> str | None:
        """What is wrong with a further issuer as far as is known, or None."""
        return next((further.problem for further in self._further if further.problem), None)

    async def verify(self, token: bytes, exchange: Exchange) -> Verified | Refusal:
        """Whose token it is, for as long as it counts. Never raises but when cancelled."""
        try:
            verified = await self._verified(token)
        except _Declined as declined:
            self._observe("jwt", declined.result)
            return declined.refusal
        self._observe("jwt", "success")
        return verified

    async def _verified(self, token: bytes) -> Verified:
        # What needs no key comes first, so that garbage is cheap and asks nobody for anything.
        try:
            header, claims = reading.unverified(token)
            expires = reading.moment(claims, "exp")
            not_before, issued = reading.moment(claims, "nbf"), reading.moment(claims, "iat")
        except reading.Unreadable:
            raise _wrong(self._words.unreadable) from None
        issuer = claims.get("iss")
        main = self._provider is not None and issuer == self._provider.issuer
        further = [] if main else [entry for entry in self._further if entry.issuer.issuer == issuer]
        if not main and not further:
            raise _declined(self._words.other_issuer(issuer))
        wanted = (
            self._audience if main else tuple(name for entry in further for name in entry.issuer.audience)
        )
        audiences = reading.audiences(claims)
        if not set(audiences).intersection(wanted):
            raise _declined(self._words.other_audience(audiences, wanted, main=main))
        now = time.time()
        if expires is None:
            raise _declined(self._words.endless)
        # No leeway here: a token counts until the moment that its issuer named, and not beyond it.
        if now >= expires:
            raise _declined(self._words.expired(expires, main=main), "expired")
        if max(not_before or 0.0, issued or 0.0) > now + self._skew:
            raise _declined(self._words.too_early(max(not_before or 0.0, issued or 0.0), now))
        if kind := reading.not_for_access(header, claims, marked=main):
            raise _declined(self._words.not_for_access(kind))
        if main:
            assert self._provider is not None
            await self._check_signature(token, claims, self._provider.keys, issued, now)
            bearer = await self._person(claims)
            if bearer.whole is not None and issued is not None and self._vouch is not None:
                await self._vouch(bearer.whole, min(issued, now))
        else:
            entry = _entry(further, claims, audiences)
            await self._check_signature(token, claims, entry.keys, issued, now)
            if claim := entry.missing(claims):
                raise _declined(self._words.required(claim), reason="not_admitted")
            try:
                bearer = entry.bearer(claims)
            except NotAdmitted as error:
                raise _declined(str(error), reason="not_admitted") from None
        again = ASKED_AGAIN if bearer.asked else REMEMBERED
        return Verified(_identity(token, claims, bearer, expires), min(expires, now + again))

    async def _person(self, claims: Mapping[str, Any]) -> Bearer:
        try:
            return await self._people.bearer(claims)
        except NotAdmitted as error:
            raise _declined(str(error), reason="not_admitted") from None
        except StoreUnavailable:
            raise _declined(self._words.no_database, "unavailable", "no_database", 5) from None

    async def _check_signature(
        self, token: bytes, claims: dict[str, Any], keys: Keys, issued: float | None, now: float
    ) -> None:
        try:
            _, signed = await tokens.verified(token.decode("ascii"), keys, ALGORITHMS, _KINDS)
        except UnknownKey as error:
            # Signed after the keys were last asked for (by whole seconds), and they may not be asked
            # for again just now: it may be by a new one, which is known in a moment.
            if issued is not None and error.asked < min(now, issued + 1):
                seconds = max(1, math.ceil(error.again))
                raise _declined(self._words.new_key, "unavailable", "provider_failed", seconds) from None
            raise _wrong(self._words.unknown_key) from None
        except ProviderUnavailable:
            raise _declined(self._words.no_keys, "unavailable", "provider_failed", 5) from None
        except ProviderError as error:
            raise _wrong(self._words.not_signed(error.check)) from None
        # Both were read from the same bytes; whoever reads them differently was given two meanings.
        if signed != claims:
            raise _wrong(self._words.unreadable)


def _entry(further: list[Further], claims: Mapping[str, Any], audiences: tuple[str, ...]) -> Further:
    """The first entry that the token fits, or else the first of its audience."""
    fitting = [entry for entry in further if not set(audiences).isdisjoint(entry.issuer.audience)]
    return next((entry for entry in fitting if entry.missing(claims) is None), fitting[0])


def _wrong(message: str) -> _Declined:
    """Of what may be a guess."""
    return _Declined("wrong", Wrong("unauthenticated", message, None))


def _declined(
    message: str, result: str = "wrong", reason: str = "unauthenticated", retry_after: int | None = None
) -> _Declined:
    return _Declined(result, Refusal(reason, message, retry_after))


def _identity(token: bytes, claims: Mapping[str, Any], bearer: Bearer, expires: float) -> Identity:
    credential = Credential(hashlib.sha256(token).hexdigest()[:16], bearer.credential, expires)
    return Identity(bearer.user, bearer.role, "jwt", str(claims["iss"]), bearer.subject, credential)
