"""The Authenticator: knows the kinds of credentials that come in a header, and asks whoever checks each."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from proxy.audit import NO_AUDIT, Audit
from proxy.auth import basic, refusals
from proxy.auth.login_limits import Attempt, Counts, LockedOut, network_of
from proxy.auth.password_checks import Busy, PasswordChecks
from proxy.auth.password_users import PasswordUsers
from proxy.auth.refusals import Refusal
from proxy.auth.remembered import REMEMBERED, Remembered, RememberedUser
from proxy.auth.tokens.format import in_password, looks_like
from proxy.auth.turns import TooMany, Turns
from proxy.auth.users import User
from proxy.auth.verified import Verified, Wrong
from proxy.identity import PASSWORD_ISSUER, Identity, Role

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.settings import Settings

METHODS = frozenset({"basic", "bearer", "job", "jwt", "metrics", "none", "session", "token"})
RESULTS = frozenset(
    {
        "success",
        "remembered",
        "wrong",
        "missing",
        "malformed",
        "locked_out",
        "ended",
        "expired",
        "revoked",
        "unavailable",
    }
)
"""What ``observe`` is called with: closed sets, they are metric labels."""

TOKEN_FACTOR = 100
"""How many times as many wrong tokens as wrong passwords an address may send: nobody guesses one, and behind
one address there may be a cluster whose jobs come with new ones. What is bounded is the work they make: three
queries a second for each address."""
_ADDRESSES = 256  # of one remembered credential, noted so that each is looked at once


class Bearers(Protocol):
    """A room that knows one kind of bearer credential: it asks what it has to and never raises."""

    async def verify(self, token: bytes, exchange: Exchange) -> Verified | Refusal: ...


class Tokens(Bearers, Protocol):
    """The room that knows the tokens of ours."""

    def knows(self, token: bytes) -> bool:
        """Whether that very token was found to be somebody's here lately."""


class Authenticator:
    """Verifies credentials: the users' passwords, tokens, the jobs' token and the scraper's."""

    def __init__(
        self,
        settings: Settings,
        password: str,
        jobs_token: str,
        observe: Callable[[str, str], None],
        *,
        audit: Audit = NO_AUDIT,
        remembered: int = REMEMBERED,
        counts: Counts | None = None,
    ) -> None:
        """``password`` is that of MLFLOW_TRACKING_USERNAME, set or generated. ``observe(method, result)`` is
        called once for every recall() that knew the caller and every verify(). Raises UserError as
        PasswordUsers does.
        """
        self._observe = observe
        self._passwords_count = settings.basic_auth
        self._remember_seconds = settings.credential_cache
        self._remembered = Remembered(remembered)
        counts = Counts() if counts is None else counts
        failures, window = settings.login_failures, settings.login_window
        self._limits = counts.of("passwords", failures, window)
        self._token_limits = counts.of("tokens", failures * TOKEN_FACTOR, window)
        # Apart again: who holds another service's JWTs stops no token of ours, nor the other way round.
        self._jwt_limits = counts.of("jwts", failures * TOKEN_FACTOR, window)
        self._turns = Turns(self._token_limits)
        self._looking: set[asyncio.Task[Verified | Refusal]] = set()
        self._users = PasswordUsers(settings, password, audit)
        self._checks = PasswordChecks(self._users, self._limits, self._remembered.digest, self._remember)
        self._jobs_token = jobs_token.encode()
        token = settings.metrics_token
        self._metrics_token = None if token is None else token.get_secret_value().encode()
        self._tokens: Tokens | None = None
        self._jwts: Bearers | None = None
        self._job = Identity("mlflow-jobs", Role.EDITOR, "job")
        self._metrics = Identity("metrics", Role.NONE, "metrics")

    @property
    def users(self) -> PasswordUsers:
        """Who has a password of ours."""
        return self._users

    def accept(self, tokens: Tokens, jwts: Bearers | None) -> None:
        """From now on take tokens of ours, and the JWTs of providers, for credentials."""
        self._tokens, self._jwts = tokens, jwts

    def close(self) -> None:
        """Start no further hash. Those under way end by themselves."""
        self._checks.close()

    def role_of(self, name: str, fingerprint: str | None) -> Role | None:
        """The role of the user of that name as it is now; None where there is none (any more), or where the
        password is another one than when `fingerprint` was taken."""
        return self._users.role(name) if fingerprint == self._users.fingerprint(name) else None

    def fingerprint(self, name: str) -> str:
        """As PasswordUsers.fingerprint."""
        return self._users.fingerprint(name)

    def holds_token(self, authorization: bytes) -> bool:
        """Whether a Basic credential has a token of ours where a password would be."""
        return self._token_in(basic.parse(authorization)) is not None

    def recall(self, authorization: bytes | None, exchange: Exchange) -> Identity | None:
        """The caller, where this very credential was verified lately and the user is unchanged since.

        None says nothing about the caller: ask verify() then.
        """
        if authorization is None or exchange.internal:
            return None
        digest = self._remembered.digest(authorization)
        entry = self._remembered.get(digest)
        if entry is None:
            return None
        if isinstance(entry, Verified):
            return self._bearer_again(entry, digest, exchange)
        user = entry.user
        if self._users.find(user.name) is not user or entry.until < time.monotonic():
            self._remembered.forget(digest)
            return None
        client = exchange.client
        if self._limits.counting and self._limits.refused(Attempt(network_of(client), user.name, digest)):
            return None
        if client not in entry.addresses:
            if len(entry.addresses) >= _ADDRESSES:
                entry.addresses.clear()
            entry.addresses.add(client)
            self._limits.succeeded(network_of(client), user.name)
        self._observe("basic", "remembered")
        return entry.identity

    async def verify(self, authorization: bytes | None, exchange: Exchange) -> Identity | Refusal:
        """Check a credential, at the cost of a hash where it is a password. Never raises but when cancelled.

        An unknown user costs what a wrong password costs. A repeated failure waits, then is refused unheard.
        """
        if authorization is None:
            return self._refuse(
                "none", "missing", refusals.NOT_A_JOB if exchange.internal else refusals.NO_CREDENTIAL
            )
        credential = basic.parse(authorization)
        if exchange.internal:
            # MLflow's client sends a user name and password before a token, and its calls of the gateway
            # nothing else (mlflow/genai/utils/gateway_utils.py); whatever the name, the token decides.
            sent = b""
            if isinstance(credential, basic.Bearer):
                sent = credential.token
            elif isinstance(credential, basic.Basic):
                sent = credential.password
            if hmac.compare_digest(sent, self._jobs_token):
                self._observe("job", "success")
                return self._job
            return self._refuse("job", "wrong", refusals.NOT_A_JOB)
        if isinstance(credential, basic.Malformed):
            return self._refuse(
                "none", "malformed", f"{credential.problem} {refusals.NO_CREDENTIAL.partition('. ')[2]}"
            )
        digest = self._remembered.digest(authorization)
        network = network_of(exchange.client)
        # Counted apart: whoever sends wrong passwords, or keys of other services, stops no job's token.
        attempt = Attempt(network, None, digest)
        if self._tokens is not None and (token := self._token_in(credential)) is not None:
            return await self._token(self._tokens, token, attempt, exchange)
        if isinstance(credential, basic.Bearer):
            token, jwts = credential.token, self._jwts
            if jwts is not None and token.count(b".") == 2 and not self._is_metrics(token):
                return await self._jwt(jwts, token, attempt, exchange)
            return self._other_bearer(token, Attempt(f"bearer {network}", None, digest))
        if not self._passwords_count:
            return self._refuse("basic", "wrong", refusals.NO_PASSWORDS)
        return await self._password(credential, Attempt(network, credential.name, digest))

    def _token_in(self, credential: basic.Basic | basic.Bearer | basic.Malformed) -> bytes | None:
        """The token of ours in a credential: MLflow's client can send it as a password, too."""
        if isinstance(credential, basic.Malformed):
            return None
        if isinstance(credential, basic.Bearer):
            return credential.token if looks_like(credential.token) else None
        return in_password(credential.password)

    async def _token(
        self, tokens: Tokens, token: bytes, attempt: Attempt, exchange: Exchange
    ) -> Identity | Refusal:
        if tokens.knows(token):  # no guess, and it need not wait behind others'
            return self._taken(await tokens.verify(token, exchange), attempt, exchange)
        try:
            locked = await self._turns.take(attempt)
        except TooMany:
            self._observe("token", "unavailable")
            return Refusal("overloaded", refusals.TOO_MANY_TOKENS, 1)
        if locked is not None:
            return self._locked_out("bearer", locked, "tokens")
        # In a task of its own: a client that leaves has had its turn all the same.
        task = asyncio.create_task(self._look_up(tokens, token, attempt, exchange))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)
        return self._taken(await asyncio.shield(task), attempt, exchange)

    async def _look_up(
        self, tokens: Tokens, token: bytes, attempt: Attempt, exchange: Exchange
    ) -> Verified | Refusal:
        try:
            outcome = await tokens.verify(token, exchange)
            if isinstance(outcome, Wrong):
                self._token_limits.failed(attempt)
            return outcome
        finally:
            self._turns.give_back(attempt.network)

    async def _jwt(
        self, jwts: Bearers, token: bytes, attempt: Attempt, exchange: Exchange
    ) -> Identity | Refusal:
        if locked := self._jwt_limits.refused(attempt):
            return self._locked_out("bearer", locked, "tokens")
        outcome = await jwts.verify(token, exchange)
        if isinstance(outcome, Wrong):
            self._jwt_limits.failed(attempt)
        return self._taken(outcome, attempt, exchange)

    def _taken(self, outcome: Verified | Refusal, attempt: Attempt, exchange: Exchange) -> Identity | Refusal:
        if isinstance(outcome, Refusal):
            return outcome
        identity = outcome.identity
        if identity is None:  # it was revoked while it was looked up
            return self._refuse("bearer", "ended", refusals.BAD_BEARER)
        outcome.used, outcome.client = time.time(), exchange.client
        credential = identity.credential
        assert credential is not None
        self._remembered.keep(attempt.digest, outcome, f"{identity.method} {credential.id}")
        return identity

    def _bearer_again(self, verified: Verified, digest: bytes, exchange: Exchange) -> Identity | None:
        identity, now = verified.identity, time.time()
        if identity is None or now >= verified.until:
            self._remembered.forget(digest)
            return None
        verified.used, verified.client = now, exchange.client
        self._observe(identity.method, "remembered")
        return identity

    def _is_metrics(self, token: bytes) -> bool:
        return self._metrics_token is not None and hmac.compare_digest(token, self._metrics_token)

    def _other_bearer(self, token: bytes, attempt: Attempt) -> Identity | Refusal:
        if locked := self._limits.refused(attempt):
            return self._locked_out("bearer", locked, "tokens")
        if self._is_metrics(token):
            self._observe("metrics", "success")
            return self._metrics
        self._limits.failed(attempt)
        return self._refuse("bearer", "wrong", refusals.BAD_BEARER)

    async def _password(self, credential: basic.Basic, attempt: Attempt) -> Identity | Refusal:
        outcome = await self._checks.check(credential, attempt)
        if isinstance(outcome, User):
            self._observe("basic", "success")
            return _identity(outcome)
        if isinstance(outcome, LockedOut):
            return self._locked_out("basic", outcome)
        if isinstance(outcome, Busy):
            self._observe("basic", "locked_out")
            return Refusal("locked_out", refusals.busy(outcome.seconds), outcome.seconds)
        return self._refuse("basic", "wrong", refusals.WRONG)

    def _remember(self, digest: bytes, user: User) -> None:
        until = time.monotonic() + self._remember_seconds
        self._remembered.keep(
            digest, RememberedUser(user, _identity(user), until, set()), f"user {user.name}"
        )

    def _refuse(self, method: str, result: str, message: str) -> Refusal:
        self._observe(method, result)
        return Refusal("unauthenticated", message, None)

    def _locked_out(self, method: str, locked: LockedOut, kind: str = "passwords") -> Refusal:
        self._observe(method, "locked_out")
        return Refusal("locked_out", refusals.locked_out(kind, locked.what, locked.seconds), locked.seconds)


def _identity(user: User) -> Identity:
    return Identity(user.name, user.role, "basic", PASSWORD_ISSUER, user.name)
