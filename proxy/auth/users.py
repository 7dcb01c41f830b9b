"""The users file: htpasswd's lines with a role after them, read again whenever it changes, edited in place.

A line is ``name:hash`` or ``name:hash:role``. Without a role a user is a viewer, the least that can do
anything. Empty lines and lines that begin with ``#`` stay as they are. Tools for htpasswd files leave the
other users' lines alone, and a web server that shares the file reads no further than the second colon
(nginx calls the rest a comment); ``htpasswd`` drops the role of a user whose password it changes.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import stat
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proxy import private_file
from proxy.audit import NO_AUDIT, Audit
from proxy.auth import basic, passwords
from proxy.errors import UserError
from proxy.identity import Role

log = logging.getLogger(__name__)

LARGEST = 1024 * 1024
"""Bytes of a users file: about 8,000 users, read in some 0.1 s."""
_LOOK = 0.0005  # seconds that the file is not looked at again: a look costs as much as the rest of a recall
_SETTLED = 0.1  # seconds after a change in which a second one might leave the same times and size behind
_BY = "the users file"
_EMPTIED = 1.0  # seconds that an empty file is taken for one that is just being written

Signature = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class User:
    """One line of the file, or the user of MLFLOW_TRACKING_USERNAME."""

    name: str
    hash: str = field(repr=False)
    role: Role


def parse(content: bytes, path: Path) -> tuple[dict[str, User], list[str]]:
    """The users of a file and its problems, each naming file and line. Pure."""
    users: dict[str, User] = {}
    lines: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            user = _user(line)
            if user is None:
                continue
            if user.name in users:
                raise ValueError(f"{user.name!r} is in line {lines[user.name]} already; keep one of the two")
        except ValueError as problem:
            problems.append(f"{path} line {number}: {problem}")
        else:
            users[user.name] = user
            lines[user.name] = number
    return users, problems


def _user(line: bytes) -> User | None:
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not text or text.startswith("#"):
        return None
    name, *fields = text.split(":")
    if not fields or len(fields) > 2:
        raise ValueError("is not name:hash:role")
    if problem := basic.name_problem(name):
        raise ValueError(f"the user name {problem}")
    name = unicodedata.normalize("NFC", name)
    try:
        passwords.check_hash(fields[0])
    except passwords.UnsupportedHash as problem:
        raise ValueError(
            f"the password of {name!r} {problem}; set it again: mlflow-proxy users passwd {name}"
        ) from None
    return User(name, fields[0], Role.parse(fields[1]) if len(fields) == 2 else Role.VIEWER)


def read(path: Path) -> dict[str, User]:
    """The users of a file. Raises UserError with one line for each problem."""
    users, problems = parse(_content(path), path)
    if problems:
        raise UserError("\n".join(problems))
    return users


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(
            f"{path} (PROXY_USERS_FILE) does not exist; make it: mlflow-proxy users add NAME --role admin"
        ) from None
    except OSError as error:
        raise UserError(f"{path} (PROXY_USERS_FILE) can't be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise UserError(f"{path} (PROXY_USERS_FILE) is larger than {LARGEST // 1024**2} MiB")
    return content


class UsersFile:
    """The users in force. A file that became wrong while we run changes nothing and is said in the log."""

    def __init__(self, path: Path, audit: Audit = NO_AUDIT) -> None:
        """Raises UserError as read() does."""
        self.path = path
        self._audit = audit
        self.problem: str | None = None
        """Why the file's present content is not in force, or None."""
        self._signature = self._look()
        self._looked = -math.inf
        self._users = read(path)
        found = path.stat()
        self._inode = found.st_ino
        if found.st_mode & stat.S_IWOTH:
            log.warning("%s can be written by everybody on this machine; chmod o-w is advised", path)

    def current(self) -> dict[str, User]:
        """The users by name, as they were half a millisecond ago or later. Costs one stat(2) at most while
        nothing has changed; an unchanged user stays the very same object, so ``is`` tells whether a record is
        still in force. Never raises."""
        now = time.monotonic()
        if self._signature is None or now - self._looked > _LOOK:
            self._looked = now
            if self._signature is None or self._signature != self._stat():
                self._reread()
        return self._users

    def _stat(self) -> Signature | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116 - half the time of Path.stat, and on every request
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev

    def _look(self) -> Signature | None:
        # A file that changed just now may change again within the same tick of its clock, unseen: no
        # signature is kept for it, so that it is read again.
        found = self._stat()
        if found is None or 0 <= time.time() - found[1] / 1e9 < _SETTLED:
            return None
        return found

    def _reread(self) -> None:
        signature = self._look()
        try:
            content = _content(self.path)
            found = self.path.stat()
            if not content and found.st_ino == self._inode and time.time() - found.st_mtime < _EMPTIED:
                return  # htpasswd(1) empties the file before it writes it; we put another one in its place
            users, problems = parse(content, self.path)
        except (UserError, OSError) as error:
            self._signature = signature
            self._complain(str(error))
            return
        self._signature = signature
        if problems:
            self._complain("\n".join(problems))
            return
        if self.problem is not None:
            log.info("%s is right again", self.path)
            self.problem = None
        self._inode = found.st_ino
        old = self._users
        self._users = {name: old[name] if old.get(name) == user else user for name, user in users.items()}
        if self._users != old:
            changed = sorted(
                name for name in old.keys() | users.keys() if self._users.get(name) is not old.get(name)
            )
            log.info("%s was read again: %d users, %d changed", self.path, len(users), len(changed))
            self._tell(old, changed)

    def _tell(self, old: dict[str, User], changed: list[str]) -> None:
        """Who changed the file is not known here; the commands that do tell of it themselves, too."""
        for name in changed:
            before, after = old.get(name), self._users.get(name)
            target = {"user": name}
            if before is None and after is not None:
                self._audit.record("user_added", target=target, role=after.role.name.lower(), by=_BY)
            elif after is None:
                self._audit.record("user_removed", target=target, by=_BY)
            elif before is not None:
                if before.role != after.role:
                    was, now = before.role.name.lower(), after.role.name.lower()
                    self._audit.record("role_changed", target=target, by=_BY, before=was, after=now)
                if before.hash != after.hash:
                    self._audit.record("password_changed", target=target, by=_BY)

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            log.error("The users of before stay in force until this is put right: %s", problem)
        self.problem = problem


def has(path: Path, name: str) -> bool:
    """Whether there is a line of that name, right or wrong; False without a file. Raises UserError."""
    if not path.exists():
        return False
    return bool(_find(_content(path).split(b"\n"), unicodedata.normalize("NFC", name)))


# Editing. Each function returns what is still wrong in other lines of the file, for the command to print.


def add(path: Path, name: str, password: str, role: Role) -> list[str]:
    """A new line at the end; the file is made where there is none. Raises UserError."""
    name = _checked_name(name)
    hash_ = passwords.hash_password(password)
    with _editing(path, create=True) as lines:
        if _find(lines, name):
            raise UserError(
                f"{path} has a user {name!r} already; mlflow-proxy users passwd {name} changes the password"
            )
        lines.append(_line(name, hash_, role))
        return parse(b"\n".join(lines), path)[1]


def change(path: Path, name: str, password: str | None = None, role: Role | None = None) -> list[str]:
    """Another password, another role, or both, for a user of the file. Raises UserError."""
    name = unicodedata.normalize("NFC", name)
    hash_ = None if password is None else passwords.hash_password(password)
    with _editing(path) as lines:
        for index in _found(lines, name, path):
            fields = lines[index].decode().strip().split(":")
            kept = fields[2] if len(fields) > 2 else ""
            try:
                new_role = role if role is not None else Role.parse(kept) if kept else Role.VIEWER
            except ValueError as problem:
                raise UserError(f"{path} line {index + 1}: {problem}; say which with --role") from None
            lines[index] = _line(name, fields[1] if hash_ is None else hash_, new_role)
        return parse(b"\n".join(lines), path)[1]


def remove(path: Path, name: str) -> list[str]:
    """Take every line of that user out. Raises UserError."""
    name = unicodedata.normalize("NFC", name)
    with _editing(path) as lines:
        for index in reversed(_found(lines, name, path)):
            del lines[index]
        return parse(b"\n".join(lines), path)[1]


def _checked_name(name: str) -> str:
    if problem := basic.name_problem(name):
        raise UserError(f"the user name {problem}")
    return unicodedata.normalize("NFC", name)


def _line(name: str, hash_: str, role: Role) -> bytes:
    return f"{name}:{hash_}:{role.name.lower()}".encode()


def _find(lines: list[bytes], name: str) -> list[int]:
    # By the name alone, so that a line whose hash or role is wrong can be put right or removed.
    return [
        index
        for index, line in enumerate(lines)
        if b":" in line
        and unicodedata.normalize("NFC", line.partition(b":")[0].decode(errors="replace").strip()) == name
    ]


def _found(lines: list[bytes], name: str, path: Path) -> list[int]:
    found = _find(lines, name)
    if not found:
        raise UserError(f"{path} has no user {name!r}; mlflow-proxy users list names them")
    return found


@contextmanager
def _editing(path: Path, *, create: bool = False) -> Iterator[list[bytes]]:
    """The file's lines, to be changed in place; written back, whole, where the block does not raise."""
    try:
        path = path.resolve()  # a symlink stays one
        handle = _lock(path, create)
        try:
            found = os.fstat(handle)
            content = _content(path).removesuffix(b"\n")
            lines = content.split(b"\n") if content else []
            yield lines
            written = b"".join(line + b"\n" for line in lines)
            private_file.write(
                path, written, mode=stat.S_IMODE(found.st_mode), owner=(found.st_uid, found.st_gid)
            )
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(
            f"{path} can't be changed ({error.strerror}): its folder must be writable for you and the file "
            "no mount of its own (a mounted secret is changed where it comes from)"
        ) from None


def _lock(path: Path, create: bool) -> int:
    # The rename puts another file in the place of the one that was waited for: then wait for that one.
    while True:
        try:
            handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            if create:
                raise
            raise UserError(
                f"{path} does not exist; make it: mlflow-proxy users add NAME --role admin"
            ) from None
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)
