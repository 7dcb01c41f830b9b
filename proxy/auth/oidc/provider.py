"""The provider: where a person is sent, what is made of the answer, and what is asked again later."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]

from proxy.auth.oidc import failures
from proxy.auth.oidc.claims import Claims, Tokens
from proxy.auth.oidc.endpoints import Endpoints
from proxy.auth.oidc.failures import ProviderError, ProviderRefused, ProviderUnavailable
from proxy.auth.oidc.http import TokenError
from proxy.auth.oidc.identity import Identities
from proxy.auth.oidc.keys import Keys
from proxy.auth.oidc.state import SignIn, SignIns
from proxy.auth.oidc.tokens import Logout

if TYPE_CHECKING:
    from proxy.settings import Settings

log = logging.getLogger(__name__)

# A plain OAuth2 provider may give an access token that does not end and no other: it is asked with again.
_ACCESS = "access:"
# Google gives a refresh token for this parameter, and refuses the scope offline_access.
_MORE_PARAMETERS = {"https://accounts.google.com": {"access_type": "offline"}}


class Authorization(NamedTuple):
    """Where to send a browser, and what it keeps meanwhile in a cookie that belongs to `state` alone."""

    url: str
    state: str
    cookie: str


class SignedIn(NamedTuple):
    """A sign-in that succeeded."""

    claims: Claims
    tokens: Tokens
    rd: str
    round: int
    """How many sign-ins of this browser had just ended without letting it through."""


class Provider:
    """The one provider in the settings. Who makes it closes it.

    `keys` seal what a browser keeps during a sign-in: the first seals, all open. ``observe("oidc", result)``
    is called with one of failures.RESULTS for each sign-in, refresh and logout.
    """

    def __init__(
        self, settings: Settings, keys: Sequence[bytes], observe: Callable[[str, str], None]
    ) -> None:
        self._scopes = settings.oauth_scopes
        self._observe = observe
        self._endpoints = Endpoints(settings)
        self._identities = Identities(settings, self._endpoints)
        self._sign_ins = SignIns(keys, self._endpoints.issuer, self._endpoints.client_id)

    async def aclose(self) -> None:
        await self._endpoints.aclose()

    @property
    def issuer(self) -> str:
        return self._endpoints.issuer

    @property
    def keys(self) -> Keys:
        """What it signs with; not for a plain OAuth2 provider, which signs nothing."""
        return self._endpoints.keys

    @property
    def label(self) -> str:
        """What a person calls the provider: its host."""
        return urlsplit(self.issuer).hostname or self.issuer

    @property
    def problem(self) -> str | None:
        """What is wrong with the provider as far as is known, or None."""
        return self._endpoints.problem

    async def look(self) -> None:
        """Ask it for its discovery document and keys. Raises ProviderUnavailable."""
        await self._endpoints.look()

    async def warm(self) -> None:
        """Read the discovery document, so that the first sign-in is quick and a mistake shows at start."""
        try:
            await self._endpoints.found()
        except ProviderUnavailable:
            log.warning("nobody can sign in at %s for now", self.issuer)

    async def authorization(self, rd: str, redirect_uri: str, round_: int = 0) -> Authorization:
        """Begin a sign-in that ends at `rd`. Raises ProviderUnavailable."""
        try:
            metadata = await self._endpoints.found()
        except ProviderError as error:
            self._observe("oidc", error.reason)
            raise
        sign_in = SignIn.new(rd, round_)
        fields = {
            "response_type": "code",
            "client_id": self._endpoints.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scopes,
            "state": sign_in.state,
            "code_challenge": create_s256_code_challenge(sign_in.verifier),
            "code_challenge_method": "S256",
        }
        if not self._endpoints.plain:
            fields["nonce"] = sign_in.nonce
        fields |= _MORE_PARAMETERS.get(self.issuer, {})
        return Authorization(
            _with(metadata.authorization, fields), sign_in.state, self._sign_ins.seal(sign_in)
        )

    async def exchange(
        self, params: Mapping[str, str], state_cookie: str | None, redirect_uri: str
    ) -> SignedIn:
        """Take up the provider's answer at the redirect URI. Raises ProviderError.

        `params` are the answer's, `state_cookie` what the browser kept for its ``state``, None where it kept
        nothing. What an ``error`` says is taken for the provider's only after the state was.
        """
        try:
            sign_in = self._begun(params, state_cookie)
            await self._check_issuer(params)
            if "error" in params:
                raise failures.at_redirect(params["error"], params.get("error_description", ""))
            if not params.get("code"):
                raise failures.bad_state("The answer has no code.")
            try:
                given = await self._endpoints.grant(
                    "authorization_code",
                    code=params["code"],
                    redirect_uri=redirect_uri,
                    code_verifier=sign_in.verifier,
                )
            except TokenError as error:
                raise failures.at_code(error.error, error.description) from None
            claims = await self._identities.signed_in(given, sign_in.nonce)
        except ProviderError as error:
            self._observe("oidc", error.reason)
            raise
        return SignedIn(claims, self._tokens(given), sign_in.rd, sign_in.round)

    async def refresh(self, kept: Tokens, subject: str | None = None) -> tuple[Claims | None, Tokens]:
        """Ask again who a person is; None where the provider has nothing new to say.

        The tokens in the answer replace `kept` whatever becomes of the claims. `subject` is the session's: a
        provider that now speaks of another is not believed. Raises ProviderRefused where the provider no
        longer vouches for the person, ProviderUnavailable where it does not answer.
        """
        if kept.refresh_token is None:
            return None, kept
        try:
            claims, new = await self._refreshed(kept.refresh_token, subject)
        except ProviderUnavailable as error:
            self._observe("oidc", error.reason)
            raise
        except ProviderError as error:
            self._observe("oidc", error.reason)
            raise ProviderRefused(error.reason, error.message, check=error.check, said=error.said) from None
        self._observe("oidc", "refreshed")
        return claims, Tokens(
            refresh_token=new.refresh_token or kept.refresh_token,
            id_token=new.id_token or kept.id_token,
            access_token=new.access_token,
            expires=new.expires,
        )

    async def userinfo(self, access_token: str, subject: str | None) -> Mapping[str, Any]:
        """The user-info answer, of that subject where one is given. Raises ProviderError."""
        return await self._endpoints.userinfo(access_token, subject)

    async def verify_logout_token(self, token: str) -> Logout:
        """What a back-channel logout token says. Raises ProviderError."""
        try:
            return await self._identities.logout(token)
        except ProviderError as error:
            self._observe("oidc", error.reason)
            raise

    def end_session_url(self, id_token: str | None, after: str) -> str | None:
        """Where a browser signs out at the provider (OpenID Connect RP-Initiated Logout 1.0, 2), or None.

        `after` is where it comes back to; it has to be registered at the provider.
        """
        metadata = self._endpoints.known
        if metadata is None or metadata.end_session is None:
            return None
        fields = {"client_id": self._endpoints.client_id, "post_logout_redirect_uri": after}
        if id_token is not None:
            fields["id_token_hint"] = id_token
        return _with(metadata.end_session, fields)

    def sign_out_origin(self) -> str | None:
        """The origin of that address, for the policy of a page with a sign-out form."""
        metadata = self._endpoints.known
        if metadata is None or metadata.end_session is None:
            return None
        parts = urlsplit(metadata.end_session)
        return f"{parts.scheme}://{parts.netloc}"

    def _begun(self, params: Mapping[str, str], cookie: str | None) -> SignIn:
        state = params.get("state")
        if not state or len(state) > 200:
            raise failures.bad_state("The answer has no state.")
        if cookie is None:
            raise failures.bad_state(
                "This browser has not begun this sign-in, or keeps no cookies for this address. "
                "PROXY_PUBLIC_URL has to be the address that people use."
            )
        sign_in = self._sign_ins.open(cookie, state)
        if sign_in is None:
            raise failures.bad_state(
                "The sign-in was begun elsewhere or too long ago. Replicas need the same PROXY_COOKIE_SECRET."
            )
        if not self._sign_ins.use(sign_in):
            raise failures.bad_state("The answer was taken up before.")
        return sign_in

    async def _check_issuer(self, params: Mapping[str, str]) -> None:
        """RFC 9207, 2.4: an answer of another provider, led here, is not taken to this one."""
        named = params.get("iss")
        if named is None:
            if (await self._endpoints.found()).names_itself:
                raise failures.mixed_up("The answer does not name its issuer (iss), as this provider's do.")
        elif not self._endpoints.plain and not hmac.compare_digest(named.encode(), self.issuer.encode()):
            raise failures.mixed_up(f"The answer names another issuer, {named[:200]!r}.")

    async def _refreshed(self, refresh_token: str, subject: str | None) -> tuple[Claims | None, Tokens]:
        if self._endpoints.plain and refresh_token.startswith(_ACCESS):
            given: dict[str, Any] = {"access_token": refresh_token.removeprefix(_ACCESS)}
        else:
            try:
                given = await self._endpoints.grant("refresh_token", refresh_token=refresh_token)
            except TokenError as error:
                raise failures.at_refresh(error.error, error.description) from None
        # From here on the old refresh token may be spent, so the new one goes back while nothing is wrong
        # with the person.
        new = self._tokens(given)
        try:
            claims = await self._identities.refreshed(given, subject)
        except ProviderUnavailable as error:
            log.warning("a session was refreshed, its groups were not: %s", error)
            return None, new
        if claims is not None and subject is not None and claims.subject != subject:
            raise ProviderRefused(
                "bad_token",
                "The identity provider now speaks of somebody else.",
                check="The subject of a refreshed token is not the session's.",
            )
        return claims, new

    def _tokens(self, given: Mapping[str, Any]) -> Tokens:
        access, lives = given["access_token"], given.get("expires_in")
        lives = float(lives) if isinstance(lives, int | float) and 0 < lives < 10**9 else None
        refresh, signed = given.get("refresh_token"), given.get("id_token")
        if not isinstance(refresh, str) or not refresh:
            refresh = _ACCESS + access if self._endpoints.plain and lives is None else None
        return Tokens(
            refresh_token=refresh,
            id_token=signed if isinstance(signed, str) and not self._endpoints.plain else None,
            access_token=access,
            expires=None if lives is None else time.time() + lives,
        )


def _with(url: str, fields: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(fields)}"
