"""Who a person is: from the tokens that the provider gave, and from its user-info answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy.auth.oidc import claims as reading
from proxy.auth.oidc import tokens
from proxy.auth.oidc.claims import MISSING, Claims
from proxy.auth.oidc.endpoints import Endpoints
from proxy.auth.oidc.failures import ProviderError, bad_answer

if TYPE_CHECKING:
    from proxy.settings import Settings


class Identities:
    """Reads identities as the settings say."""

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._skew = settings.clock_skew
        self._groups_claim = settings.groups_claim
        self._user_claim = settings.oauth_user_claim
        wanted = {self._user_claim} if self._user_claim else set()
        if any(
            (settings.allowed_groups, settings.viewer_groups, settings.editor_groups, settings.admin_groups)
        ):
            wanted.add(self._groups_claim)
        self._wanted = wanted | {"email"}

    async def signed_in(self, given: Mapping[str, Any], nonce: str) -> Claims:
        """From a token answer to a code. Raises ProviderError, ProviderUnavailable."""
        if self._endpoints.plain:
            return await self._plain(given["access_token"])
        return await self._signed(given, nonce)

    async def refreshed(self, given: Mapping[str, Any], subject: str | None) -> Claims | None:
        """From a token answer to a refresh; None where it says nothing of the person.

        Raises ProviderError, ProviderUnavailable.
        """
        if self._endpoints.plain:
            return await self._plain(given["access_token"])
        if given.get("id_token"):
            return await self._signed(given, None)
        if subject is None:
            return None
        answer = await self._endpoints.userinfo(given["access_token"], subject)
        return self._read(answer, subject) if answer else None

    async def logout(self, token: str) -> tokens.Logout:
        """What a logout token says. Raises ProviderError, ProviderUnavailable."""
        if self._endpoints.plain:
            raise ProviderError("bad_token", "A plain OAuth2 provider signs no tokens.")
        return await tokens.logout_token(
            token,
            self._endpoints.keys,
            issuer=self._endpoints.issuer,
            client_id=self._endpoints.client_id,
            algorithms=(await self._endpoints.found()).algorithms,
            skew=self._skew,
        )

    async def _signed(self, given: Mapping[str, Any], nonce: str | None) -> Claims:
        metadata = await self._endpoints.found()
        signed = await tokens.id_token(
            given.get("id_token"),
            self._endpoints.keys,
            issuer=self._endpoints.issuer,
            client_id=self._endpoints.client_id,
            algorithms=metadata.algorithms,
            skew=self._skew,
            nonce=nonce,
            access_token=given["access_token"],
        )
        subject: str = signed["sub"]
        if metadata.userinfo is not None and any(
            reading.at(signed, claim) is MISSING for claim in self._wanted
        ):
            more = await self._endpoints.userinfo(given["access_token"], subject)
            return self._read(reading.merged(signed, more), subject)
        return self._read(signed, subject)

    async def _plain(self, access_token: str) -> Claims:
        claims = await self._endpoints.userinfo(access_token, None)
        # A name can be given up and taken by another; GitHub's kind has a number that can't.
        subject = next((claims[key] for key in ("sub", "id") if claims.get(key)), None)
        if not isinstance(subject, str | int) or isinstance(subject, bool) or not reading.text(str(subject)):
            raise bad_answer("The answer at PROXY_OAUTH_USERINFO_URL has neither sub nor id.")
        if "email_verified" not in claims:
            claims = {**claims, **await self._endpoints.github_address(access_token)}
        return self._read(claims, str(subject))

    def _read(self, raw: Mapping[str, Any], subject: str) -> Claims:
        try:
            return reading.claims_of(
                raw,
                issuer=self._endpoints.issuer,
                subject=subject,
                groups_claim=self._groups_claim,
                user_claim=self._user_claim,
            )
        except ValueError as error:
            raise ProviderError(
                "misconfigured",
                "The identity provider does not say your user name.",
                check=f"PROXY_OAUTH_USER_CLAIM: its answer has {error}.",
            ) from None
