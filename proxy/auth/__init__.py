"""Who is calling: a credential is verified once, at the cost of a hash, and then recalled for a while."""

from __future__ import annotations

import asyncio
import enum
import functools
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
from typing import TYPE_CHECKING

from proxy.auth import basic, passwords, refusals
from proxy.auth.login_limits import Attempt, LockedOut, LoginLimits, network_of
from proxy.auth.refusals import Refusal
from proxy.auth.users import User, UsersFile
from proxy.errors import UserError
from proxy.identity import PASSWORD_ISSUER, Identity, Role

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.settings import Settings

__all__ = ["METHODS", "RESULTS", "Authenticator", "Refusal"]

log = logging.getLogger(__name__)

METHODS = frozenset({"basic", "bearer", "job", "metrics", "none", "session"})
RESULTS = frozenset(
    {"success", "remembered", "wrong", "missing", "malformed", "locked_out", "ended", "unavailable"}
)
"""What ``observe`` is called with: closed sets, they are metric labels."""

REMEMBERED = 10_000
"""Credentials kept at once unless said otherwise; the oldest gives way."""
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


class Authenticator:
    """Verifies credentials: the users' passwords, the jobs' token and the scraper's."""

    def __init__(
        self,
        settings: Settings,
        password: str,
        jobs_token: str,
        observe: Callable[[str, str], None],
        *,
        remembered: int = REMEMBERED,
    ) -> None:
        """``password`` is that of MLFLOW_TRACKING_USERNAME, set or generated. ``observe(method, result)`` is
        called once for every recall() that knew the caller and every verify().

        A user of that name in the users file takes the place of one whose password was generated; where a
        person set both, there is no telling which counts, and UserError is raised. Raises UserError for a
        users file with a problem, too. Computes one hash.
        """
        self._observe = observe
        self._passwords_count = settings.basic_auth
        self._single_fingerprint = functools.cache(
            # Slow to try passwords against, as it is kept in the database; 50 ms, once.
            lambda: hashlib.scrypt(password.encode(), salt=b"a session's", n=2**14, r=8, p=1)[:16].hex()
        )
        self._remember_seconds = settings.credential_cache
        self._most_remembered = remembered
        self._limits = LoginLimits(settings.login_failures, settings.login_window)
        self._file = None if settings.users_file is None else UsersFile(settings.users_file)
        name = settings.username or "admin"
        if problem := basic.name_problem(name):
            raise UserError(f"MLFLOW_TRACKING_USERNAME: the user name {problem}")
        self._single = User(name, passwords.hash_password(password), Role.ADMIN)
        if self._file is not None and name in self._file.current() and settings.password is not None:
            raise UserError(
                f"{name!r} is in MLFLOW_TRACKING_USERNAME and in {self._file.path} (PROXY_USERS_FILE): "
                "unset MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or remove that line"
            )
        # Digests are keyed anew in each process, so nothing that leaks from memory can be looked up.
        self._key = secrets.token_bytes(32)
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._checks: dict[bytes, _Check] = {}
        self._sleeping = 0
        self._slots = asyncio.Semaphore(HASH_THREADS)
        self._threads = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="password")
        self._decoys: tuple[dict[str, User] | None, list[str]] = (None, [])
        self._jobs_token = jobs_token.encode()
        token = settings.metrics_token
        self._metrics_token = None if token is None else token.get_secret_value().encode()
        self._job = Identity("mlflow-jobs", Role.EDITOR, "job")
        self._metrics = Identity("metrics", Role.NONE, "metrics")

    @property
    def single_user(self) -> str | None:
        """The name of MLFLOW_TRACKING_USERNAME's user, or None where the users file has one of that name."""
        return self._single.name if self._user(self._single.name) is self._single else None

    @property
    def problem(self) -> str | None:
        """What is wrong with the users file by now, or None; its last good content is in force meanwhile."""
        return None if self._file is None else self._file.problem

    def close(self) -> None:
        """Start no further hash. Those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def fingerprint(self, name: str) -> str:
        """What tells one password of a user from the next, and nothing else; empty where there is none."""
        user = self._user(name)
        if user is None:
            return ""
        if user is self._single:
            # Its hash is made anew at each start, and differently on each replica.
            return self._single_fingerprint()
        return hashlib.sha256(user.hash.encode()).hexdigest()[:32]

    def role_of(self, name: str, fingerprint: str | None) -> Role | None:
        """The role of the user of that name as it is now; None where there is none (any more), or where the
        password is another one than when `fingerprint` was taken."""
        user = self._user(name)
        if user is None or fingerprint != self.fingerprint(name):
            return None
        return user.role

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
        user = entry.user
        if self._user(user.name) is not user or entry.until < time.monotonic():
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
        if isinstance(credential, basic.Basic) and not self._passwords_count:
            return self._refuse("basic", "wrong", refusals.NO_PASSWORDS)
        digest = self._digest(authorization)
        network = network_of(exchange.client)
        if isinstance(credential, basic.Bearer):
            return self._token(credential.token, Attempt(network, None, digest))
        return await self._password(credential, Attempt(network, credential.name, digest))

    def _token(self, token: bytes, attempt: Attempt) -> Identity | Refusal:
        if self._metrics_token is None:
            return self._refuse("bearer", "wrong", refusals.BAD_BEARER)
        if locked := self._limits.refused(attempt):
            return self._locked_out("bearer", locked)
        if hmac.compare_digest(token, self._metrics_token):
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
            if isinstance(result, User) and self._user(result.name) is result:
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
                user = self._user(credential.name)
                hash_ = self._decoy(credential.name) if user is None else user.hash
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
        self._remembered[digest] = _Remembered(user, _identity(user), until, set())
        self._remembered.move_to_end(digest)
        if len(self._remembered) > self._most_remembered:
            self._remembered.popitem(last=False)

    def _digest(self, authorization: bytes) -> bytes:
        return hashlib.blake2b(authorization, digest_size=32, key=self._key).digest()

    def _user(self, name: str) -> User | None:
        if self._file is not None and (user := self._file.current().get(name)) is not None:
            return user
        return self._single if name == self._single.name else None

    def _decoy(self, name: str) -> str:
        """What an unknown user's password is checked against: always the same for a name, and of a kind and
        cost that is as frequent among the decoys as among the users."""
        users = None if self._file is None else self._file.current()
        if self._decoys[0] is not users or not self._decoys[1]:
            everyone = [*(users or {}).values(), self._single]
            self._decoys = (users, [passwords.decoy(user.hash) for user in everyone])
        decoys = self._decoys[1]
        return decoys[int.from_bytes(self._digest(name.encode())[:8], "big") % len(decoys)]

    def _refuse(self, method: str, result: str, message: str) -> Refusal:
        self._observe(method, result)
        return Refusal("unauthenticated", message, None)

    def _locked_out(self, method: str, locked: LockedOut) -> Refusal:
        self._observe(method, "locked_out")
        return Refusal("locked_out", refusals.locked_out(locked.what, locked.seconds), locked.seconds)

    def _busy(self, seconds: int) -> Refusal:
        self._observe("basic", "locked_out")
        return Refusal("locked_out", refusals.busy(seconds), seconds)


def _identity(user: User) -> Identity:
    return Identity(user.name, user.role, "basic", PASSWORD_ISSUER, user.name)
