"""The provider's endpoints: found by discovery or set by hand, and what each of them answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from proxy.auth.oidc import discovery
from proxy.auth.oidc.discovery import Metadata
from proxy.auth.oidc.failures import ProviderError, ProviderUnavailable, bad_answer
from proxy.auth.oidc.http import Http
from proxy.auth.oidc.keys import Keys
from proxy.auth.oidc.keys import read as read_keys

if TYPE_CHECKING:
    from proxy.settings import Settings

log = logging.getLogger(__name__)

OLD = 3600.0
"""Seconds after which the discovery document is read again."""
PACE = 5.0
"""Seconds between two tries where it can't be read."""


class Endpoints:
    """What can be asked of the provider in the settings. Who makes it closes it."""

    def __init__(self, settings: Settings) -> None:
        assert settings.oauth_client_id is not None
        secret = settings.oauth_client_secret
        self.client_id = settings.oauth_client_id
        self._secret = secret.get_secret_value() if secret is not None else ""
        self._http = Http(self.client_id, self._secret or None)
        self._metadata: Metadata | None = None
        self._read = self._tried = -1e9
        self._failure: ProviderUnavailable | None = None
        self._reading = asyncio.Lock()
        self.keys = Keys(self._fetch_keys)
        self.plain = not settings.oauth_issuer_url
        """True for OAuth2 without OpenID Connect: nothing is signed, user-info says who somebody is."""
        if settings.oauth_issuer_url:
            self.issuer = settings.oauth_issuer_url
            return
        assert settings.oauth_authorize_url
        assert settings.oauth_token_url
        assert settings.oauth_userinfo_url
        parts = urlsplit(settings.oauth_authorize_url)
        self.issuer = f"{parts.scheme}://{parts.netloc}"
        self._metadata = Metadata(
            issuer=self.issuer,
            authorization=settings.oauth_authorize_url,
            token=settings.oauth_token_url,
            userinfo=settings.oauth_userinfo_url,
            auth_methods=("client_secret_post",),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    @property
    def known(self) -> Metadata | None:
        """The metadata as read last; None before the first time."""
        return self._metadata

    @property
    def problem(self) -> str | None:
        return None if self._failure is None else str(self._failure)

    async def found(self) -> Metadata:
        """The metadata, read again once an hour; what was read before counts while that fails.

        Raises ProviderUnavailable.
        """
        if self._metadata is not None and (self.plain or time.monotonic() - self._read < OLD):
            return self._metadata
        async with self._reading:
            now = time.monotonic()
            if now - self._read >= OLD and now - self._tried >= PACE:
                self._tried = now
                try:
                    address = discovery.address(self.issuer)
                    document = await self._http.json(address, "the discovery document")
                    self._metadata = discovery.read(document, self.issuer)
                    self._read, self._failure = time.monotonic(), None
                except ProviderUnavailable as error:
                    self._failure = error
                    log.warning("the identity provider %s: %s", self.issuer, error)
            if self._metadata is None:
                assert self._failure is not None
                # A new one each time: an exception that is kept gathers every traceback it was raised with.
                failure = self._failure
                raise ProviderUnavailable(failure.reason, failure.message, check=failure.check)
            return self._metadata

    async def look(self) -> None:
        """Read the discovery document and the keys now, whatever is remembered; what is remembered stays.

        Raises ProviderUnavailable. Of a plain OAuth2 provider there is nothing to read.
        """
        if self.plain:
            return
        document = await self._http.json(discovery.address(self.issuer), "the discovery document")
        metadata = discovery.read(document, self.issuer)
        if metadata.keys is not None:
            read_keys(await self._http.json(metadata.keys, "the key set"))

    async def grant(self, grant: str, **fields: str) -> dict[str, Any]:
        """The token endpoint's answer, with a bearer token in it. Raises TokenError, ProviderUnavailable."""
        metadata = await self.found()
        method = discovery.auth_method(metadata, bool(self._secret))
        given = await self._http.token(metadata.token, method, grant, **fields)
        kind, access = given.get("token_type", "bearer"), given.get("access_token")
        if not isinstance(access, str) or not access or not isinstance(kind, str) or kind.lower() != "bearer":
            raise bad_answer("The token endpoint gave no bearer token.")
        return given

    async def userinfo(self, access_token: str, subject: str | None) -> Mapping[str, Any]:
        """The user-info answer (OpenID Connect Core, 5.3), of that subject where one is given.

        Raises ProviderError, ProviderUnavailable.
        """
        metadata = await self.found()
        if metadata.userinfo is None:
            return {}
        answer = await self._http.json(metadata.userinfo, "the user-info endpoint", access_token)
        if not isinstance(answer, dict):
            raise bad_answer("Its user-info answer is not a JSON object.")
        # 5.3.2: without this, the answer may be about somebody else.
        if subject is not None and answer.get("sub") != subject:
            raise ProviderError(
                "bad_token",
                "The identity provider's answer is not about you.",
                check="The user-info answer's subject (sub) is not the identity token's.",
            )
        return answer

    async def github_address(self, access_token: str) -> Mapping[str, Any]:
        """The primary e-mail address, where it is verified: GitHub's user-info answer does not say that."""
        metadata = await self.found()
        if not urlsplit(metadata.userinfo or "").path.endswith("/user"):
            return {}
        url = f"{metadata.userinfo}/emails"
        try:
            listed = await self._http.json(url, "the list of e-mail addresses", access_token)
        except ProviderError as error:
            log.info("no verified e-mail address: %s", error)
            return {}
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and entry.get("primary") is True and entry.get("verified") is True:
                return {"email": entry.get("email"), "email_verified": True}
        return {}

    async def _fetch_keys(self) -> Any:
        metadata = await self.found()
        assert metadata.keys is not None
        return await self._http.json(metadata.keys, "the key set")
