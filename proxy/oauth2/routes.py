"""Signing in and out: each path's application, and what they say where it does not succeed."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import orjson

from proxy.audit import NO_AUDIT, Audit
from proxy.auth import Refusal, admission
from proxy.auth.oidc import LOGOUT_AGE, Claims, Provider, ProviderError, Tokens
from proxy.auth.refusals import NO_TOKEN_HERE, WRONG_HERE
from proxy.exchange import Exchange, Refused
from proxy.hosts import Hosts
from proxy.identity import PASSWORD_ISSUER, Identity, Role, identity_of
from proxy.oauth2.cookies import ROUNDS, Cookies, header
from proxy.oauth2.failed import LOOP, WHO_GETS_IN, failed, refusal_of
from proxy.oauth2.site import Site, go, query
from proxy.pages import sign_in
from proxy.pages.answers import JSON, TEXT, App, Receive, Scope, Send, answer
from proxy.pages.forms import form
from proxy.pages.sign_in import Ways

if TYPE_CHECKING:
    from proxy.settings import Settings


# What the audit log calls the two ways in.
_PROVIDER = "identity provider"
_PROVIDERS_FAULT = frozenset({"unavailable", "bad_answer", "misconfigured", "no_database"})


class SignedOut(Protocol):
    """What is left to do after a session was ended."""

    @property
    def set_cookie(self) -> bytes: ...
    @property
    def user(self) -> str | None: ...
    @property
    def id_token(self) -> str | None: ...


class Sessions(Protocol):
    """The part of the sessions that is needed here; each raises Refused (503) without a database."""

    @property
    def cookie_name(self) -> str: ...
    async def create(
        self, claims: Claims, tokens: Tokens, exchange: Exchange, *, previous: bytes | None = None
    ) -> bytes: ...
    async def sign_out(self, cookie: bytes | None, exchange: Exchange) -> SignedOut: ...
    async def verify(self, cookie: bytes | None, exchange: Exchange) -> Identity | Refusal: ...
    def forget_cookie(self) -> bytes: ...
    async def log_out(
        self, issuer: str, subject: str | None, sid: str | None, token: str, until: float
    ) -> int | None: ...


class Users(Protocol):
    """Who has a password: auth.password_users.PasswordUsers."""

    def find(self, name: str) -> object | None: ...


class Passwords(Protocol):
    """Who checks a user name and password: auth.Authenticator."""

    @property
    def users(self) -> Users: ...
    async def verify(self, authorization: bytes | None, exchange: Exchange) -> Identity | Refusal: ...
    def fingerprint(self, name: str) -> str: ...


def routes(
    settings: Settings,
    provider: Provider | None,
    sessions: Sessions,
    passwords: Passwords | None,
    hosts: Hosts,
    keys: Sequence[bytes],
    observe: Callable[[str, str], None],
    audit: Audit = NO_AUDIT,
) -> dict[str, App]:
    """The applications by path, below the public URL's own path.

    All but ``/oauth2/userinfo``, which needs somebody signed in, are open to everybody and look at host and
    origin themselves. `passwords` is None where PROXY_BASIC_AUTH is off. `keys` seal the cookies of a sign-in
    under way.
    """
    pages = _Pages(
        settings,
        provider,
        sessions,
        passwords,
        Site(settings, hosts),
        Cookies(sessions.cookie_name, keys),
        observe,
        audit,
    )
    return {
        "/oauth2/sign_in": pages.sign_in,
        "/oauth2/start": pages.start,
        "/oauth2/callback": pages.callback,
        "/oauth2/sign_out": pages.sign_out,
        "/oauth2/userinfo": userinfo,
        "/oauth2/backchannel_logout": pages.backchannel_logout,
    }


class _Pages:
    def __init__(
        self,
        settings: Settings,
        provider: Provider | None,
        sessions: Sessions,
        passwords: Passwords | None,
        site: Site,
        cookies: Cookies,
        observe: Callable[[str, str], None],
        audit: Audit,
    ) -> None:
        self._audit = audit
        self._settings = settings
        self._provider = provider
        self._sessions = sessions
        self._passwords = passwords
        self._site = site
        self._cookies = cookies
        self._observe = observe
        self._ways = Ways(
            start=f"{site.prefix}/oauth2/start" if provider else None,
            provider=provider.label if provider else "",
            form=f"{site.prefix}/oauth2/sign_in" if passwords else None,
        )

    async def sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET: the ways in. POST: user name and password, for a session like everybody's."""
        self._site.arrive(scope, "GET", "HEAD", "POST")
        if scope["method"] != "POST":
            await sign_in.sign_in(scope, send, self._ways, self._site.rd(scope, query(scope).get("rd")))
            return
        self._site.same_origin(scope)
        if self._passwords is None:
            raise Refused(
                403, "Passwords are switched off here (PROXY_BASIC_AUTH).", reason="unauthenticated"
            )
        fields = await form(scope, receive)
        rd = self._site.rd(scope, fields.get("rd"))
        name, password = fields.get("username", ""), fields.get("password", "")
        exchange: Exchange = scope["exchange"]
        credential = base64.b64encode(f"{name}:{password}".encode())
        outcome = await self._passwords.verify(b"Basic " + credential, exchange)
        if isinstance(outcome, Identity) and outcome.method != "basic":
            # A session would have its owner's whole role, could make tokens, and would outlive this one.
            outcome = Refusal("not_admitted", NO_TOKEN_HERE, None)
        if isinstance(outcome, Refusal):
            status = 429 if outcome.reason == "locked_out" else 403
            exchange.refusal = outcome.reason
            # A name that nobody has may be a password in the wrong field.
            known = None if self._passwords.users.find(name) is None else name
            self._refused(scope, "password", outcome.reason, known)
            message = WRONG_HERE if outcome.reason == "unauthenticated" else outcome.message
            wait = [] if outcome.retry_after is None else [(b"retry-after", b"%d" % outcome.retry_after)]
            await sign_in.sign_in(
                scope, send, self._ways, rd, status=status, message=message, user=name, headers=wait
            )
            return
        user = outcome.user
        # Another password later ends the session; the session's row keeps that much of this one.
        raw = {"sid": self._passwords.fingerprint(user)}
        claims = Claims(PASSWORD_ISSUER, user, None, False, user, (), raw=raw, user=user)
        await self._let_in(scope, send, claims, Tokens(), rd, [])

    async def start(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To the provider."""
        self._site.arrive(scope, "GET", "HEAD")
        fields = query(scope)
        rd = self._site.rd(scope, fields.get("rd"))
        provider = self._provider_or_none()
        # Once: a server before us may put its own name into Host for good.
        if "moved" not in fields and self._site.elsewhere(scope):
            there = self._site.origin(scope) + self._site.with_rd("/oauth2/start", rd)
            await go(scope, send, f"{there}&moved")
            return
        round_ = self._cookies.round(scope)
        if round_ >= ROUNDS:
            self._observe("oidc", "loop")
            await failed(self._site, scope, send, LOOP, rd, [self._cookies.count(0)])
            return
        try:
            begun = await provider.authorization(rd, self._site.url(scope, "/oauth2/callback"), round_)
        except ProviderError as error:
            await failed(self._site, scope, send, error, rd)
            return
        await go(scope, send, begun.url, self._cookies.begun(scope, begun.state, begun.cookie))

    async def callback(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Back from the provider."""
        self._site.arrive(scope, "GET")
        provider = self._provider_or_none()
        params = query(scope)
        state = params.get("state", "")
        front = f"{self._site.prefix}/"
        cookies = [self._cookies.over(state)] if state else []
        try:
            signed_in = await provider.exchange(
                params, self._cookies.find(scope, state), self._site.url(scope, "/oauth2/callback")
            )
        except ProviderError as error:
            self._refused(scope, _PROVIDER, error.reason)
            await failed(self._site, scope, send, error, front, cookies)
            return
        # Sealed as it was, but settings and rules may have changed since.
        rd = self._site.rd(scope, signed_in.rd)
        cookies.append(self._cookies.count(signed_in.round + 1))
        await self._let_in(scope, send, signed_in.claims, signed_in.tokens, rd, cookies)

    async def sign_out(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST: end the session, here and at the provider. GET: what is there to say after it."""
        self._site.arrive(scope, "GET", "HEAD", "POST")
        after = f"{self._site.prefix}/oauth2/sign_out"
        if scope["method"] != "POST":
            if not isinstance(await self._sessions.verify(header(scope), scope["exchange"]), Refusal):
                # A link does not sign anybody out, or any page could: there is a button on the account page.
                await go(scope, send, f"{self._site.prefix}/-/account")
                return
            await sign_in.signed_out(scope, send, f"{self._site.prefix}/oauth2/sign_in")
            return
        self._site.same_origin(scope)
        try:
            out = await self._sessions.sign_out(header(scope), scope["exchange"])
        except Refused as refused:
            # The session lives on elsewhere for now; this browser forgets it all the same.
            refused.headers = ((b"set-cookie", self._sessions.forget_cookie()),)
            raise
        if out.user is not None:
            self._audit.record("sign_out", exchange=scope["exchange"], user=out.user)
        there = None
        if out.id_token is not None and self._provider is not None:
            there = self._provider.end_session_url(out.id_token, self._site.url(scope, "/oauth2/sign_out"))
        cookies = [(b"set-cookie", out.set_cookie), self._cookies.count(0)]
        await go(scope, send, there or after, cookies)

    async def backchannel_logout(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The provider ends a session (OpenID Connect Back-Channel Logout 1.0, 2.5 and 2.8)."""
        self._site.arrive(scope, "POST")
        provider = self._provider_or_none()
        token = (await form(scope, receive)).get("logout_token", "")
        try:
            logout = await provider.verify_logout_token(token)
        except ProviderError as error:
            status = 503 if error.reason == "unavailable" else 400
            scope["exchange"].refusal = refusal_of(error)
            body = orjson.dumps({"error": "invalid_request", "error_description": str(error)})
            scope["exchange"].status = status
            await answer(scope, send, status, body, JSON)
            return
        until = time.time() + LOGOUT_AGE + 2 * self._settings.clock_skew
        ended = await self._sessions.log_out(
            logout.issuer, logout.subject, logout.sid, f"{logout.issuer} {logout.jti}", until
        )
        if ended is None:
            raise Refused(400, "This logout token was used before (jti).", reason="sign_in_failed")
        self._observe("oidc", "logout")
        scope["exchange"].status = 200
        await answer(scope, send, 200, b"", TEXT)

    async def _let_in(
        self,
        scope: Scope,
        send: Send,
        claims: Claims,
        tokens: Tokens,
        rd: str,
        cookies: list[tuple[bytes, bytes]],
    ) -> None:
        """Begin the session, where this person gets in, and go where they wanted."""
        by_provider = claims.issuer != PASSWORD_ISSUER
        way = _PROVIDER if by_provider else "password"
        try:
            if by_provider:
                if (why := admission.admitted(claims, self._settings)) is not None:
                    raise ProviderError("not_admitted", why, check=WHO_GETS_IN)
                if admission.role_of(claims.groups, self._settings) is Role.NONE:
                    raise ProviderError("no_role", admission.no_role(claims))
            session = await self._sessions.create(claims, tokens, scope["exchange"], previous=header(scope))
        except ProviderError as error:
            if by_provider:
                self._observe("oidc", error.reason)
            self._refused(scope, way, error.reason, claims.user or claims.subject)
            await failed(self._site, scope, send, error, rd, cookies)
            return
        if by_provider:
            self._observe("oidc", "success")
        self._audit.record(
            "sign_in",
            exchange=scope["exchange"],
            user=claims.user or claims.subject,
            way=way,
        )
        await go(scope, send, rd, [(b"set-cookie", session), *cookies])

    def _refused(self, scope: Scope, way: str, reason: str, user: str | None = None) -> None:
        self._audit.record(
            "sign_in_refused",
            exchange=scope["exchange"],
            target=None if user is None else {"user": user},
            outcome="failed" if reason in _PROVIDERS_FAULT else "refused",
            way=way,
            reason=reason,
        )

    def _provider_or_none(self) -> Provider:
        if self._provider is None:
            raise Refused(
                404, "No identity provider is set (MLFLOW_UI_OAUTH_ISSUER_URL).", reason="bad_request"
            )
        return self._provider


async def userinfo(scope: Scope, receive: Receive, send: Send) -> None:
    """Who is signed in, with oauth2-proxy's names for it."""
    identity = identity_of(scope)
    if identity is None:
        raise Refused(401, "Nobody is signed in.", reason="unauthenticated")
    if scope["method"] not in ("GET", "HEAD"):
        raise Refused(
            405,
            "Only GET and HEAD are served here.",
            reason="bad_request",
            headers=((b"allow", b"GET, HEAD"),),
        )
    body = {
        "user": identity.user,
        "email": identity.user if "@" in identity.user else None,
        "preferredUsername": identity.user,
        "role": identity.role.name.lower(),
        "method": identity.method,
    }
    scope["exchange"].status = 200
    await answer(scope, send, 200, orjson.dumps(body), JSON)
