"""Who has a password of ours: MLFLOW_TRACKING_USERNAME's user, and those of the users file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.audit import NO_AUDIT, Audit
from proxy.auth import basic, passwords
from proxy.auth.users import User, UsersFile
from proxy.errors import UserError
from proxy.identity import Role

if TYPE_CHECKING:
    from proxy.settings import Settings


class PasswordUsers:
    """The users as they are at this moment: a change of the file counts at once."""

    def __init__(self, settings: Settings, password: str, audit: Audit = NO_AUDIT) -> None:
        """``password`` is that of MLFLOW_TRACKING_USERNAME, set or generated.

        A user of that name in the users file takes the place of one whose password was generated; where a
        person set both, there is no telling which counts, and UserError is raised. Raises UserError for a
        users file with a problem, too. Computes one hash.
        """
        self._single_fingerprint = functools.cache(
            # Slow to try passwords against, as it is kept in the database; 50 ms, once.
            lambda: hashlib.scrypt(password.encode(), salt=b"a session's", n=2**14, r=8, p=1)[:16].hex()
        )
        self._file = None if settings.users_file is None else UsersFile(settings.users_file, audit)
        name = settings.username or "admin"
        if problem := basic.name_problem(name):
            raise UserError(f"MLFLOW_TRACKING_USERNAME: the user name {problem}")
        self._single = User(name, passwords.hash_password(password), Role.ADMIN)
        if self._file is not None and name in self._file.current() and settings.password is not None:
            raise UserError(
                f"{name!r} is in MLFLOW_TRACKING_USERNAME and in {self._file.path} (PROXY_USERS_FILE): "
                "unset MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or remove that line"
            )
        self._decoys: tuple[dict[str, User] | None, list[str]] = (None, [])

    @property
    def single_user(self) -> str | None:
        """The name of MLFLOW_TRACKING_USERNAME's user, or None where the users file has one of that name."""
        return self._single.name if self.find(self._single.name) is self._single else None

    @property
    def problem(self) -> str | None:
        """What is wrong with the users file by now, or None; its last good content is in force meanwhile."""
        return None if self._file is None else self._file.problem

    def find(self, name: str) -> User | None:
        """The user of that name, or None. Another object than before where anything about it changed."""
        if self._file is not None and (user := self._file.current().get(name)) is not None:
            return user
        return self._single if name == self._single.name else None

    def role(self, name: str) -> Role | None:
        """The role of the user of that name as it is now, None where there is none (any more)."""
        user = self.find(name)
        return None if user is None else user.role

    def fingerprint(self, name: str) -> str:
        """What tells one password of a user from the next, and nothing else; empty where there is none."""
        user = self.find(name)
        if user is None:
            return ""
        if user is self._single:
            # Its hash is made anew at each start, and differently on each replica.
            return self._single_fingerprint()
        return hashlib.sha256(user.hash.encode()).hexdigest()[:32]

    def decoy(self, name: str, digest: Callable[[bytes], bytes]) -> str:
        """What an unknown user's password is checked against: always the same for a name, and of a kind and
        cost that is as frequent among the decoys as among the users. `digest` is keyed."""
        users = None if self._file is None else self._file.current()
        if self._decoys[0] is not users or not self._decoys[1]:
            everyone = [*(users or {}).values(), self._single]
            self._decoys = (users, [passwords.decoy(user.hash) for user in everyone])
        decoys = self._decoys[1]
        return decoys[int.from_bytes(digest(name.encode())[:8], "big") % len(decoys)]
