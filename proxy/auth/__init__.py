"""Who is calling: a credential is verified once, at the cost of a hash, and then recalled for a while."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.audit import NO_AUDIT, Audit
from proxy.auth import basic, passwords, refusals
from proxy.auth.login_limits import Attempt, LockedOut, LoginLimits, network_of
from proxy.auth.password_users import PasswordUsers
from proxy.auth.refusals import Refusal
from proxy.auth.tokens.format import in_password, looks_like
from proxy.auth.users import User
from proxy.auth.verified import Verified, Wrong
from proxy.identity import PASSWORD_ISSUER, Identity, Role

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.settings import Settings

__all__ = ["METHODS", "RESULTS", "Authenticator", "Refusal"]

log = logging.getLogger(__name__)

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

REMEMBERED = 10_000
"""Credentials kept at once unless said otherwise; the oldest gives way."""
TOKEN_FACTOR = 10
"""How many times as many wrong tokens as wrong passwords an address may send: nobody guesses one, and behind
one address there may be a cluster whose jobs come with new ones. What is bounded is the work they make."""
HASH_THREADS = 2
WAITING = 256
"""Different credentials that wait for a hash at once, and attempts that are being slowed down at once."""
_ADDRESSES = 256  # of one remembered credential, noted so that each is looked at once


class _Failure(enum.Enum):
    WRONG = 1
    NOT_TRIED = 2  # the caller who began it was locked out while it waited


@dataclass(slots=True)
class _Remembered:
    user: User
    identity: Identity
    until: float
    addresses: set[str]


@dataclass(slots=True)
class _Check:
    """One credential on its way through the hash, and the networks whose failure was counted for it."""

    task: asyncio.Task[User | _Failure]
    counted: set[str]


class Bearers(Protocol):
    """A room that knows one kind of bearer credential: it asks what it has to and never raises."""

    async def verify(self, token: bytes, exchange: Exchange) -> Verified | Refusal: ...


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
    ) -> None:
        """``password`` is that of MLFLOW_TRACKING_USERNAME, set or generated. ``observe(method, result)`` is
        called once for every recall() that knew the caller and every verify(). Raises UserError as
        PasswordUsers does.
        """
        self._observe = observe
        self._passwords_count = settings.basic_auth
        self._remember_seconds = settings.credential_cache
        self._most_remembered = remembered
        self._limits = LoginLimits(settings.login_failures, settings.login_window)
        self._token_limits = LoginLimits(settings.login_failures * TOKEN_FACTOR, settings.login_window)
        self._users = PasswordUsers(settings, password, audit)
        # Digests are keyed anew in each process, so nothing that leaks from memory can be looked up.
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, _Remembered | Verified] = OrderedDict()
        self._checks: dict[bytes, _Check] = {}
        self._sleeping = 0
        self._slots = asyncio.Semaphore(HASH_THREADS)
        self._threads = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="password")
        self._jobs_token = jobs_token.encode()
        token = settings.metrics_token
        self._metrics_token = None if token is None else token.get_secret_value().encode()
        self._tokens: Bearers | None = None
        self._jwts: Bearers | None = None
        self._job = Identity("mlflow-jobs", Role.EDITOR, "job")
        self._metrics = Identity("metrics", Role.NONE, "metrics")

    @property
    def users(self) -> PasswordUsers:
        """Who has a password of ours."""
        return self._users

    def accept(self, tokens: Bearers, jwts: Bearers | None) -> None:
        """From now on take tokens of ours, and the JWTs of providers, for credentials."""
        self._tokens, self._jwts = tokens, jwts

    def close(self) -> None:
        """Start no further hash. Those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
        digest = self._digest(authorization)
        entry = self._remembered.get(digest)
        if entry is None:
            return None
        if isinstance(entry, Verified):
            return self._bearer_again(entry, digest, exchange)
        user = entry.user
        if self._users.find(user.name) is not user or entry.until < time.monotonic():
            del self._remembered[digest]
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
        digest = self._digest(authorization)
        network = network_of(exchange.client)
        # Counted apart: whoever sends wrong passwords, or keys of other services, stops no job's token.
        attempt = Attempt(network, None, digest)
        if self._tokens is not None and (token := self._token_in(credential)) is not None:
            return await self._bearer(self._tokens, token, attempt, exchange)
        if isinstance(credential, basic.Bearer):
            token, jwts = credential.token, self._jwts
            if jwts is not None and token.count(b".") == 2 and not self._is_metrics(token):
                return await self._bearer(jwts, token, attempt, exchange)
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

    async def _bearer(
        self, bearers: Bearers, token: bytes, attempt: Attempt, exchange: Exchange
    ) -> Identity | Refusal:
        if locked := self._token_limits.refused(attempt):
            return self._locked_out("bearer", locked, "tokens")
        outcome = await bearers.verify(token, exchange)
        if isinstance(outcome, Refusal):
            if isinstance(outcome, Wrong):
                self._token_limits.failed(attempt)
            return outcome
        identity = outcome.identity
        if identity is None:  # it was revoked while it was looked up
            return self._refuse("bearer", "ended", refusals.BAD_BEARER)
        outcome.used, outcome.client = time.time(), exchange.client
        self._keep(attempt.digest, outcome)
        return identity

    def _bearer_again(self, verified: Verified, digest: bytes, exchange: Exchange) -> Identity | None:
        identity, now = verified.identity, time.time()
        if identity is None or now >= verified.until:
            del self._remembered[digest]
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
        if locked := self._limits.refused(attempt):
            return self._locked_out("basic", locked)
        if (delay := self._limits.delay(attempt)) > 0:
            if self._sleeping >= WAITING:
                return self._busy(math.ceil(delay))
            self._sleeping += 1
            try:
                await asyncio.sleep(delay)
            finally:
                self._sleeping -= 1
        while True:
            check = self._checks.get(attempt.digest)
            if check is None:
                if len(self._checks) >= WAITING:
                    return self._busy(1)
                check = _Check(asyncio.create_task(self._check(credential, attempt)), {attempt.network})
                self._checks[attempt.digest] = check
            # Shielded: a client that leaves takes nothing from the others who wait for the same answer.
            result = await asyncio.shield(check.task)
            # Where the user was changed while the hash was computed, the new record is asked.
            if isinstance(result, User) and self._users.find(result.name) is result:
                self._limits.succeeded(attempt.network, result.name)
                self._observe("basic", "success")
                return _identity(result)
            if result is _Failure.WRONG:
                break
            if locked := self._limits.refused(attempt):
                return self._locked_out("basic", locked)
        if attempt.network not in check.counted:  # it waited for another address's hash
            check.counted.add(attempt.network)
            self._limits.failed(attempt)
        return self._refuse("basic", "wrong", refusals.WRONG)

    async def _check(self, credential: basic.Basic, attempt: Attempt) -> User | _Failure:
        """Hash once, with one of the two threads; what is right is remembered."""
        try:
            async with self._slots:
                # Looked at again: others of this caller's may have failed while this one waited.
                if self._limits.refused(attempt):
                    return _Failure.NOT_TRIED
                user = self._users.find(credential.name)
                hash_ = self._users.decoy(credential.name, self._digest) if user is None else user.hash
                right = await asyncio.get_running_loop().run_in_executor(
                    self._threads, passwords.verify, hash_, credential.password
                )
                if user is None or not right:
                    # Within the slot, so that whoever is next sees it.
                    self._limits.failed(attempt)
                    return _Failure.WRONG
            self._remember(attempt.digest, user)
            return user
        finally:
            del self._checks[attempt.digest]

    def _remember(self, digest: bytes, user: User) -> None:
        until = time.monotonic() + self._remember_seconds
        self._keep(digest, _Remembered(user, _identity(user), until, set()))

    def _keep(self, digest: bytes, entry: _Remembered | Verified) -> None:
        self._remembered[digest] = entry
        self._remembered.move_to_end(digest)
        if len(self._remembered) > self._most_remembered:
            self._remembered.popitem(last=False)

    def _digest(self, authorization: bytes) -> bytes:
        return hashlib.blake2b(authorization, digest_size=32, key=self._key).digest()

    def _refuse(self, method: str, result: str, message: str) -> Refusal:
        self._observe(method, result)
        return Refusal("unauthenticated", message, None)

    def _locked_out(self, method: str, locked: LockedOut, kind: str = "passwords") -> Refusal:
        self._observe(method, "locked_out")
        return Refusal("locked_out", refusals.locked_out(kind, locked.what, locked.seconds), locked.seconds)

    def _busy(self, seconds: int) -> Refusal:
        self._observe("basic", "locked_out")
        return Refusal("locked_out", refusals.busy(seconds), seconds)


def _identity(user: User) -> Identity:
    return Identity(user.name, user.role, "basic", PASSWORD_ISSUER, user.name)
