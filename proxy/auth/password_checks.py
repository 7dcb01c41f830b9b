"""Checks of passwords: slowed down where many were wrong, and one hash for all who wait for it."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from proxy.auth import basic, passwords
from proxy.auth.login_limits import Attempt, LockedOut, LoginLimits
from proxy.auth.password_users import PasswordUsers
from proxy.auth.users import User

HASH_THREADS = 2
WAITING = 256
"""Different credentials that wait for a hash at once, and attempts that are being slowed down at once."""


class _Failure(enum.Enum):
    WRONG = 1
    NOT_TRIED = 2  # the caller who began it was locked out while it waited


class Wrong:
    """The user name or the password is."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Too much is being checked at this moment."""

    seconds: int
    """After which to try again."""


@dataclass(slots=True)
class _Check:
    """One credential on its way through the hash, and the networks whose failure was counted for it."""

    task: asyncio.Task[User | _Failure]
    counted: set[str]


class PasswordChecks:
    """One event loop's."""

    def __init__(
        self,
        users: PasswordUsers,
        limits: LoginLimits,
        digest: Callable[[bytes], bytes],
        right: Callable[[bytes, User], None],
    ) -> None:
        """``digest`` is keyed. ``right(digest, user)`` is called once for each hash that was right."""
        self._users = users
        self._limits = limits
        self._digest = digest
        self._right = right
        self._checks: dict[bytes, _Check] = {}
        self._sleeping = 0
        self._slots = asyncio.Semaphore(HASH_THREADS)
        self._threads = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="password")

    def close(self) -> None:
        """Start no further hash. Those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, credential: basic.Basic, attempt: Attempt) -> User | Wrong | LockedOut | Busy:
        """Whose password it is. An unknown user costs what a wrong password costs."""
        if locked := self._limits.refused(attempt):
            return locked
        if (delay := self._limits.delay(attempt)) > 0:
            if self._sleeping >= WAITING:
                return Busy(math.ceil(delay))
            self._sleeping += 1
            try:
                await asyncio.sleep(delay)
            finally:
                self._sleeping -= 1
        while True:
            check = self._checks.get(attempt.digest)
            if check is None:
                if len(self._checks) >= WAITING:
                    return Busy(1)
                check = _Check(asyncio.create_task(self._hash(credential, attempt)), {attempt.network})
                self._checks[attempt.digest] = check
            # Shielded: a client that leaves takes nothing from the others who wait for the same answer.
            result = await asyncio.shield(check.task)
            # Where the user was changed while the hash was computed, the new record is asked.
            if isinstance(result, User) and self._users.find(result.name) is result:
                self._limits.succeeded(attempt.network, result.name)
                return result
            if result is _Failure.WRONG:
                break
            if locked := self._limits.refused(attempt):
                return locked
        if attempt.network not in check.counted:  # it waited for another address's hash
            check.counted.add(attempt.network)
            self._limits.failed(attempt)
        return Wrong()

    async def _hash(self, credential: basic.Basic, attempt: Attempt) -> User | _Failure:
        """Hash once, with one of the two threads."""
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
            self._right(attempt.digest, user)
            return user
        finally:
            del self._checks[attempt.digest]
