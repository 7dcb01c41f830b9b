"""Everything that knows who is calling, opened together over one database and closed together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.audit import NO_AUDIT, NoAudit
from proxy.audit.log import AuditLog, open_audit
from proxy.auth import Authenticator, admission
from proxy.auth.jwt import Jwts
from proxy.auth.login_limits import Counts
from proxy.auth.oidc import Claims, Provider
from proxy.auth.session import Sessions, cookie_secrets
from proxy.auth.tokens.people import People
from proxy.auth.tokens.tokens import Tokens
from proxy.identity import PASSWORD_ISSUER, Role
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.settings.jwt_issuers import JwtIssuer
from proxy.settings.jwt_issuers import read as read_issuers
from proxy.store import Store


@dataclass(frozen=True, slots=True)
class SignInParts:
    """What signing in with an identity provider takes."""

    provider: Provider
    sessions: Sessions
    keys: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Callers:
    """Who can be calling. With the authenticator alone, those who have a password, and nobody else."""

    authenticator: Authenticator
    audit: AuditLog | NoAudit = NO_AUDIT
    tokens: Tokens | None = None
    jwts: Jwts | None = None
    """None where no JWT is accepted."""
    sign_in: SignInParts | None = None
    """None where no identity provider is set."""
    background: tuple[Coroutine[Any, Any, None], ...] = ()
    """What has to run beside it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What there is one of for as long as the service runs, whatever is read again."""

    store: Store
    audit: AuditLog | NoAudit
    counts: Counts = field(default_factory=Counts)
    """Of wrong passwords and tokens."""


@contextlib.asynccontextmanager
async def grounded(settings: Settings, metrics: Metrics) -> AsyncIterator[Ground]:
    """Open the database and the audit log. Raises UserError."""
    async with contextlib.AsyncExitStack() as stack:
        store = await asyncio.to_thread(Store.open, settings)
        stack.callback(store.close)
        metrics.database_queries = lambda: store.queries
        audit = await open_audit(settings, store)
        stack.push_async_callback(audit.aclose)
        metrics.audit_lines_lost = lambda: audit.lost
        yield Ground(store, audit)


@contextlib.asynccontextmanager
async def opened(
    settings: Settings,
    password: str,
    jobs_token: str,
    metrics: Metrics,
    ended: Callable[[Collection[str]], None],
    ground: Ground | None = None,
) -> AsyncIterator[Callers]:
    """Open all that stands on the ground, and that too where none is given; `ended` is told of the ids of
    credentials and sessions that count no more. Raises UserError."""
    observe = metrics.authentication
    async with contextlib.AsyncExitStack() as stack:
        background: list[Coroutine[Any, Any, None]] = []
        if ground is None:
            ground = await stack.enter_async_context(grounded(settings, metrics))
            background.append(ground.audit.run())
        store, audit = ground.store, ground.audit
        authenticator = Authenticator(
            settings, password, jobs_token, observe, audit=audit, counts=ground.counts
        )
        stack.callback(authenticator.close)
        password_users = authenticator.users

        def password_role(name: str) -> Role | None:
            return password_users.role(name) if settings.basic_auth else None

        tokens = Tokens(settings, store, password_role, observe, ended, audit)
        background.append(tokens.watch())
        issuers: tuple[JwtIssuer, ...] = ()
        if settings.jwt_issuers_file is not None:
            issuers = read_issuers(settings.jwt_issuers_file, settings.oauth_issuer_url)
        programs = tuple(f"{issuer.name}:" for issuer in issuers)
        sign_in = None
        if settings.oauth_issuer_url or settings.oauth_authorize_url:

            def role(claims: Claims) -> Role | None:
                if claims.issuer == PASSWORD_ISSUER:
                    return authenticator.role_of(claims.subject, claims.sid) if settings.basic_auth else None
                if claims.user.startswith(programs):
                    return None  # what the users of a further issuer are called here, and nobody else
                return admission.role(claims, settings)

            in_force = cookie_secrets(settings)
            keys = [secret.encode() for secret in in_force]
            provider = Provider(settings, keys, observe)
            stack.push_async_callback(provider.aclose)
            sessions = Sessions(settings, store, provider, role, observe, in_force, audit, ended)
            sign_in = SignInParts(provider, sessions, keys)
            background += [provider.warm(), sessions.watch()]
        jwts = None
        if settings.jwt_audience or settings.jwt_issuers_file:
            people = People(store, settings.token_sign_in_within)
            provider_or_none = None if sign_in is None else sign_in.provider
            jwts = Jwts(settings, provider_or_none, issuers, people.claims, observe, people.vouch)
            stack.push_async_callback(jwts.aclose)
            background.append(jwts.warm())
        authenticator.accept(tokens, jwts)
        yield Callers(authenticator, audit, tokens, jwts, sign_in, tuple(background))
