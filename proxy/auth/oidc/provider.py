"""The provider: where a person is sent, what is made of the answer, and what is asked again later."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]

from proxy.auth.oidc import claims as reading
from proxy.auth.oidc import discovery, tokens
from proxy.auth.oidc.claims import MISSING, Claims, Tokens
from proxy.auth.oidc.discovery import Metadata
from proxy.auth.oidc.failures import ProviderError, ProviderRefused, ProviderUnavailable
from proxy.auth.oidc.http import Http, TokenError
from proxy.auth.oidc.keys import Keys
from proxy.auth.oidc.state import SignIn, SignIns

if TYPE_CHECKING:
    from proxy.settings import Settings

log = logging.getLogger(__name__)

OLD = 3600.0
"""Seconds after which the discovery document is read again."""
PACE = 5.0
"""Seconds between two tries where it can't be read."""
# RFC 6749, 5.2 and OpenID Connect Core, 3.1.2.6: answers about the person, not about us or the provider's state.
_ABOUT_THE_PERSON = frozenset(
    {
        "invalid_grant",
        "access_denied",
        "interaction_required",
        "login_required",
        "consent_required",
        "account_selection_required",
    }
)
_OUT_OF_ORDER = frozenset({"server_error", "temporarily_unavailable"})
# A plain OAuth2 provider gives an access token that does not end and no other: it is asked with again.
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


class Provider:
    """The one provider in the settings. Who makes it closes it.

    `keys` seal what a browser keeps during a sign-in: the first seals, all open. ``observe("oidc", result)``
    is called with one of failures.RESULTS for each sign-in, refresh and logout.
    """

    def __init__(
        self, settings: Settings, keys: Sequence[bytes], observe: Callable[[str, str], None]
    ) -> None:
        assert settings.oauth_client_id is not None
        self._client_id = settings.oauth_client_id
        secret = settings.oauth_client_secret
        self._secret = secret.get_secret_value() if secret is not None else ""
        self._scopes = settings.oauth_scopes
        self._skew = settings.clock_skew
        self._groups_claim = settings.groups_claim
        self._user_claim = settings.oauth_user_claim
        self._wants_groups = any(
            (settings.allowed_groups, settings.viewer_groups, settings.editor_groups, settings.admin_groups)
        )
        self._observe = observe
        self._http = Http(self._client_id, self._secret or None)
        self._metadata: Metadata | None = None
        self._read = self._tried = -1e9
        self._failure: ProviderUnavailable | None = None
        self._reading = asyncio.Lock()
        self._keys = Keys(self._fetch_keys)
        if settings.oauth_issuer_url:
            self.issuer = settings.oauth_issuer_url
            self._plain = False
        else:
            assert settings.oauth_authorize_url and settings.oauth_token_url and settings.oauth_userinfo_url
            parts = urlsplit(settings.oauth_authorize_url)
            self.issuer = f"{parts.scheme}://{parts.netloc}"
            self._plain = True
            self._metadata = Metadata(
                issuer=self.issuer,
                authorization=settings.oauth_authorize_url,
                token=settings.oauth_token_url,
                userinfo=settings.oauth_userinfo_url,
                auth_methods=("client_secret_post",),
            )
        self._sign_ins = SignIns(keys, self.issuer, self._client_id)

    async def aclose(self) -> None:
        await self._http.aclose()

    @property
    def label(self) -> str:
        """What a person calls the provider: its host."""
        return urlsplit(self.issuer).hostname or self.issuer

    @property
    def problem(self) -> str | None:
        """What is wrong with the provider as far as is known, or None; nobody is let in or out by it."""
        return None if self._failure is None else str(self._failure)

    async def authorization(self, rd: str, redirect_uri: str, round_: int = 0) -> Authorization:
        """Begin a sign-in that ends at `rd`. Raises ProviderUnavailable."""
        metadata = await self._found()
        sign_in = SignIn.new(rd, round_)
        fields = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scopes,
            "state": sign_in.state,
            "code_challenge": create_s256_code_challenge(sign_in.verifier),
            "code_challenge_method": "S256",
        }
        if not self._plain:
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
        nothing.
        """
        try:
            sign_in = self._begun(params, state_cookie)
            metadata = await self._found()
            self._check_issuer(params, metadata)
            if "error" in params:
                raise _answered(params["error"], params.get("error_description", ""))
            if not params.get("code"):
                raise _bad_state("The answer has no code.")
            fields = {"code": params["code"], "redirect_uri": redirect_uri}
            try:
                given = await self._grant(
                    metadata, "authorization_code", **fields, code_verifier=sign_in.verifier
                )
            except TokenError as error:
                raise self._refused_us(error) from None
            raw, subject = await self._identity(metadata, given, nonce=sign_in.nonce)
            result = SignedIn(self._claims(raw, subject), self._tokens(given), sign_in.rd, sign_in.round)
        except ProviderError as error:
            self._observe("oidc", error.reason)
            raise
        self._observe("oidc", "success")
        return result

    async def refresh(self, kept: Tokens, subject: str | None = None) -> tuple[Claims | None, Tokens]:
        """Ask again who a person is; None where the provider has nothing new to say.

        The tokens in the answer replace `kept` whatever becomes of the claims. `subject` is the session's: a
        provider that now speaks of another is not believed. Raises ProviderRefused where the provider no
        longer vouches for the person, ProviderUnavailable where it does not answer.
        """
        if kept.refresh_token is None:
            return None, kept
        try:
            claims, given = await self._refreshed(kept.refresh_token, subject)
        except ProviderError as error:
            self._observe("oidc", error.reason)
            if isinstance(error, ProviderRefused | ProviderUnavailable):
                raise
            raise ProviderRefused(error.reason, error.message, check=error.check, said=error.said) from None
        self._observe("oidc", "refreshed")
        return claims, Tokens(
            refresh_token=given.refresh_token or kept.refresh_token,
            id_token=given.id_token or kept.id_token,
            access_token=given.access_token,
            expires=given.expires,
        )

    async def userinfo(self, access_token: str, subject: str | None) -> dict[str, Any]:
        """The user-info answer (OpenID Connect Core, 5.3), of that subject where one is given.

        Raises ProviderError, ProviderUnavailable.
        """
        metadata = await self._found()
        if metadata.userinfo is None:
            return {}
        answer = await self._http.json(metadata.userinfo, "the user-info endpoint", access_token)
        if not isinstance(answer, dict):
            raise ProviderUnavailable(
                "bad_answer",
                "The identity provider's answer can't be used.",
                check="Its user-info answer is not a JSON object.",
            )
        # 5.3.2: without this, the answer may be about somebody else.
        if subject is not None and not self._plain and answer.get("sub") != subject:
            raise ProviderError(
                "bad_token",
                "The identity provider's answer is not about you.",
                check="The user-info answer's subject (sub) is not the identity token's.",
            )
        return answer

    def end_session_url(self, id_token: str | None, after: str) -> str | None:
        """Where a browser signs out at the provider (OpenID Connect RP-Initiated Logout 1.0, 2), or None.

        `after` is where it comes back to; it has to be registered at the provider.
        """
        if self._metadata is None or self._metadata.end_session is None:
            return None
        fields = {"client_id": self._client_id, "post_logout_redirect_uri": after}
        if id_token is not None:
            fields["id_token_hint"] = id_token
        return _with(self._metadata.end_session, fields)

    @property
    def sign_out_origin(self) -> str | None:
        """The origin of that address, for the policy of a page with a sign-out form."""
        if self._metadata is None or self._metadata.end_session is None:
            return None
        parts = urlsplit(self._metadata.end_session)
        return f"{parts.scheme}://{parts.netloc}"

    async def verify_logout_token(self, token: str) -> tokens.Logout:
        """What a back-channel logout token says. Raises ProviderError."""
        try:
            if self._plain:
                raise ProviderError("bad_token", "A plain OAuth2 provider signs no tokens.")
            metadata = await self._found()
            return await tokens.logout_token(
                token,
                self._keys,
                issuer=self.issuer,
                client_id=self._client_id,
                algorithms=metadata.algorithms,
                skew=self._skew,
            )
        except ProviderError as error:
            self._observe("oidc", error.reason)
            raise

    async def warm(self) -> None:
        """Read the discovery document, so that the first sign-in is quick and a mistake shows at start."""
        try:
            await self._found()
        except ProviderUnavailable as error:
            log.warning("nobody can sign in at %s for now: %s", self.issuer, error)

    # ---------------------------------------------------------------- a sign-in's answer

    def _begun(self, params: Mapping[str, str], cookie: str | None) -> SignIn:
        state = params.get("state")
        if not state or len(state) > 200:
            raise _bad_state("The answer has no state.")
        if cookie is None:
            raise _bad_state(
                "This browser has not begun this sign-in, or keeps no cookies for this address. "
                "PROXY_PUBLIC_URL has to be the address that people use."
            )
        sign_in = self._sign_ins.open(cookie, state)
        if sign_in is None:
            raise _bad_state(
                "The sign-in was begun elsewhere or too long ago. Replicas need the same PROXY_COOKIE_SECRET."
            )
        if not self._sign_ins.use(sign_in):
            raise _bad_state("The answer was taken up before.")
        return sign_in

    def _check_issuer(self, params: Mapping[str, str], metadata: Metadata) -> None:
        """RFC 9207, 2.4: an answer of another provider, led here, is not taken to this one."""
        named = params.get("iss")
        if named is None:
            if metadata.names_itself:
                raise _mixed_up("The answer does not name its issuer (iss), as this provider's do.")
        elif not self._plain and not hmac.compare_digest(named.encode(), metadata.issuer.encode()):
            raise _mixed_up(f"The answer names another issuer, {named[:200]!r}.")

    def _refused_us(self, error: TokenError) -> ProviderError:
        """What a failed code exchange is called."""
        if error.error in ("invalid_client", "unauthorized_client"):
            return _client_refused(error)
        if error.error in _OUT_OF_ORDER:
            return ProviderUnavailable(
                "unavailable", "The identity provider is out of order.", said=error.description
            )
        return ProviderError(
            "denied",
            "The identity provider did not complete the sign-in.",
            check=f"Its token endpoint answered {error.error[:100]!r}. Look at the redirect URI and the client "
            "that are registered there.",
            said=error.description,
        )

    # ---------------------------------------------------------------- identity from tokens

    async def _grant(self, metadata: Metadata, grant: str, **fields: str) -> dict[str, Any]:
        method = discovery.auth_method(metadata, bool(self._secret))
        given = await self._http.token(metadata.token, method, grant, **fields)
        kind = given.get("token_type", "bearer")
        if not _is_text(given.get("access_token")) or not isinstance(kind, str) or kind.lower() != "bearer":
            raise ProviderUnavailable(
                "bad_answer",
                "The identity provider's answer can't be used.",
                check="The token endpoint gave no bearer token.",
            )
        return given

    async def _identity(
        self, metadata: Metadata, given: Mapping[str, Any], *, nonce: str | None, subject: str | None = None
    ) -> tuple[dict[str, Any], str]:
        """The claims in a token answer, from user-info too where they lack something; and whose they are."""
        access_token: str = given["access_token"]
        if self._plain:
            return await self._plain_identity(metadata, access_token)
        if "id_token" not in given and nonce is None:
            claims = await self.userinfo(access_token, subject)
            return claims, str(claims["sub"])
        signed = await tokens.id_token(
            given.get("id_token"),
            self._keys,
            issuer=self.issuer,
            client_id=self._client_id,
            algorithms=metadata.algorithms,
            skew=self._skew,
            nonce=nonce,
            access_token=access_token,
        )
        subject = str(signed["sub"])
        if metadata.userinfo is not None and self._lacks(signed):
            return reading.merged(signed, await self.userinfo(access_token, subject)), subject
        return signed, subject

    def _lacks(self, claims: Mapping[str, Any]) -> bool:
        return (
            "email" not in claims
            or (self._wants_groups and reading.at(claims, self._groups_claim) is MISSING)
            or (self._user_claim is not None and reading.at(claims, self._user_claim) is MISSING)
        )

    async def _plain_identity(self, metadata: Metadata, access_token: str) -> tuple[dict[str, Any], str]:
        claims = await self.userinfo(access_token, None)
        # A name can be given up and taken by another; GitHub's kind has a number that can't.
        subject = next((claims[key] for key in ("sub", "id") if claims.get(key)), None)
        if isinstance(subject, bool) or reading.text(str(subject)) is None or subject is None:
            raise ProviderUnavailable(
                "bad_answer",
                "The identity provider does not say who you are.",
                check="The answer at PROXY_OAUTH_USERINFO_URL has neither sub nor id.",
            )
        assert metadata.userinfo is not None
        if "email_verified" not in claims and urlsplit(metadata.userinfo).path.endswith("/user"):
            claims = claims | await self._github_address(f"{metadata.userinfo}/emails", access_token)
        return claims, str(subject)

    async def _github_address(self, url: str, access_token: str) -> dict[str, Any]:
        """The primary address, where it is verified: GitHub's user-info answer does not say that."""
        try:
            listed = await self._http.json(url, "the list of e-mail addresses", access_token)
        except ProviderError as error:
            log.info("no verified e-mail address: %s", error)
            return {}
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and entry.get("primary") is True and entry.get("verified") is True:
                return {"email": entry.get("email"), "email_verified": True}
        return {}

    def _claims(self, raw: dict[str, Any], subject: str) -> Claims:
        try:
            return reading.claims_of(
                raw,
                issuer=self.issuer,
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

    def _tokens(self, given: Mapping[str, Any]) -> Tokens:
        refresh, access, lives = given.get("refresh_token"), given["access_token"], given.get("expires_in")
        lives = float(lives) if isinstance(lives, int | float) and 0 < lives < 10**9 else None
        if not _is_text(refresh):
            refresh = _ACCESS + access if self._plain and lives is None else None
        return Tokens(
            refresh_token=refresh,
            id_token=given.get("id_token") if not self._plain else None,
            access_token=access,
            expires=None if lives is None else time.time() + lives,
        )

    # ---------------------------------------------------------------- a session's refresh

    async def _refreshed(self, refresh_token: str, subject: str | None) -> tuple[Claims | None, Tokens]:
        metadata = await self._found()
        if self._plain and refresh_token.startswith(_ACCESS):
            given: dict[str, Any] = {"access_token": refresh_token.removeprefix(_ACCESS)}
        else:
            try:
                given = await self._grant(metadata, "refresh_token", refresh_token=refresh_token)
            except TokenError as error:
                if error.error in _ABOUT_THE_PERSON:
                    raise ProviderRefused(
                        "denied",
                        "The identity provider has ended your session.",
                        check=f"Its answer to a refresh was {error.error}.",
                        said=error.description,
                    ) from None
                if error.error in _OUT_OF_ORDER:
                    raise ProviderUnavailable(
                        "unavailable", "The identity provider is out of order.", said=error.description
                    ) from None
                raise _client_refused(error) from None
        # From here on the old refresh token may be spent, so the new one goes back whatever else fails.
        new = self._tokens(given)
        if not self._plain and "id_token" not in given and (metadata.userinfo is None or subject is None):
            return None, new
        try:
            raw, who = await self._identity(metadata, given, nonce=None, subject=subject)
        except ProviderUnavailable as error:
            log.warning("a session was refreshed, its groups were not: %s", error)
            return None, new
        if subject is not None and who != subject:
            raise ProviderRefused(
                "bad_token",
                "The identity provider now speaks of somebody else.",
                check="The subject of a refreshed token is not the session's.",
            )
        return self._claims(raw, who), new

    # ---------------------------------------------------------------- the provider itself

    async def _found(self) -> Metadata:
        """Its metadata, read again once an hour; what was read before counts while that fails."""
        if self._plain or (self._metadata is not None and time.monotonic() - self._read < OLD):
            assert self._metadata is not None
            return self._metadata
        async with self._reading:
            now = time.monotonic()
            if now - self._tried >= PACE and (self._metadata is None or now - self._read >= OLD):
                self._tried = now
                try:
                    document = await self._http.json(discovery.address(self.issuer), "the discovery document")
                    self._metadata = discovery.read(document, self.issuer)
                    self._read, self._failure = time.monotonic(), None
                except ProviderUnavailable as error:
                    self._failure = error
                    log.warning("the identity provider: %s", error)
            if self._metadata is None:
                assert self._failure is not None
                raise self._failure
            return self._metadata

    async def _fetch_keys(self) -> Any:
        metadata = await self._found()
        assert metadata.keys is not None
        return await self._http.json(metadata.keys, "the key set")


def _with(url: str, fields: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(fields)}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _bad_state(check: str) -> ProviderError:
    return ProviderError("bad_state", "This sign-in can't be completed. Begin it again.", check=check)


def _mixed_up(check: str) -> ProviderError:
    return ProviderError(
        "bad_token", "The answer is not the identity provider's that you signed in with.", check=check
    )


def _client_refused(error: TokenError) -> ProviderUnavailable:
    return ProviderUnavailable(
        "misconfigured",
        "The identity provider does not know this server.",
        check=f"Its token endpoint answered {error.error[:100]!r}. Look at MLFLOW_UI_OAUTH_CLIENT_ID and "
        "MLFLOW_UI_OAUTH_CLIENT_SECRET.",
        said=error.description,
    )


def _answered(error: str, description: str) -> ProviderError:
    """What an error in the answer at the redirect URI is called (RFC 6749, 4.1.2.1)."""
    said = description or error
    if error in _OUT_OF_ORDER:
        return ProviderUnavailable("unavailable", "The identity provider is out of order.", said=said)
    if error in _ABOUT_THE_PERSON:
        return ProviderError("denied", "The identity provider did not let you in.", said=said)
    return ProviderError(
        "misconfigured",
        "The identity provider refused the sign-in.",
        check=f"It answered {error[:100]!r}. Look at the client, its redirect URI and MLFLOW_UI_OAUTH_SCOPES.",
        said=said,
    )
