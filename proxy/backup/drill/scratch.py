"""What a drill makes and removes: a folder, one for temporary files, and databases on a server that is lent.

All of one drill has one name, with its time in it. While the lock is held, a folder of another name is what a
drill left that was killed; it tells which databases were that one's.
"""

from __future__ import annotations

import calendar
import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from proxy.backup import databases
from proxy.backup.databases import scratch as lent
from proxy.backup.sources import ROLES
from proxy.errors import UserError

PREFIX = "mlflow_drill_"
_TIME = "%Y%m%d%H%M%S"
_LOST_SECONDS = 2 * 86400.0


class Busy(UserError):
    """Another drill is under way."""


class Scratch:
    """The place of one drill."""

    def __init__(self, folder: Path, name: str, server: str | None) -> None:
        self.folder = folder
        self.temporary = _temporary(name)
        """For what its service and its client keep while they run: a socket's path has to be short."""
        self._name = name
        self._server = server
        self._made: list[str] = []

    def database(self, role: str, kind: str) -> str:
        """An empty database of that kind, for that role: its URI. Raises UserError."""
        # Whoever can write where the backups are could have given it any name, a path for instance.
        if role not in ROLES:
            raise UserError(f"the backup has a database of {role!r}, which this version does not know")
        if kind == "sqlite":
            return f"sqlite:///{self.folder / f'{role}.db'}"
        if self._server is None or databases.kind(self._server) != kind:
            raise UserError(
                f"PROXY_DRILL_SERVER_URL names no {kind} server: the backup's {role} database needs one that "
                "a scratch database can be made on, and a login that may create databases there"
            )
        name = f"{self._name}_{role}"
        self._made.append(name)
        return lent.create(self._server, name)

    def remove(self) -> None:
        """All of it. Raises DatabaseFailed, after all was tried."""
        for folder in (self.temporary, self.folder):
            shutil.rmtree(folder, ignore_errors=True)
        problem: databases.DatabaseFailed | None = None
        for name in self._made:
            try:
                assert self._server is not None
                lent.drop(self._server, name)
            except databases.DatabaseFailed as failed:
                problem = failed
        if problem is not None:
            raise problem


@contextlib.contextmanager
def scratch(data_dir: Path, server: str | None) -> Iterator[Scratch]:
    """A new one, alone on this data directory; what a killed drill left is removed first. `server` is the
    URI of PROXY_DRILL_SERVER_URL. Raises UserError."""
    parent = data_dir.absolute() / "backup" / "drill"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"PROXY_DATA_DIR is {data_dir}: {parent} can't be made ({error.strerror})") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another drill is under way on {data_dir}: wait for its end") from None
        _remove_left(parent, server)
        name = f"{PREFIX}{time.strftime(_TIME, time.gmtime())}_{secrets.token_hex(3)}"
        made = Scratch(parent / name, name, server)
        made.folder.mkdir(mode=0o700)
        try:
            made.temporary.mkdir(mode=0o700)
            yield made
        finally:
            made.remove()
    finally:
        os.close(lock)


def _remove_left(parent: Path, server: str | None) -> None:
    folders = list(parent.glob(f"{PREFIX}*"))
    if server is not None:
        mine = {folder.name for folder in folders}
        for name in lent.named(server, PREFIX):
            # Of a folder that is gone too: a pod's. A drill elsewhere may be under way for a while.
            if name.rpartition("_")[0] in mine or _age(name) > _LOST_SECONDS:
                lent.drop(server, name)
    for folder in folders:
        shutil.rmtree(_temporary(folder.name), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(name: str) -> Path:
    return Path(tempfile.gettempdir()) / name


def _age(name: str) -> float:
    try:
        made = time.strptime(name.removeprefix(PREFIX).partition("_")[0] + " UTC", _TIME + " %Z")
    except ValueError:
        return 0.0
    return time.time() - calendar.timegm(made)
