"""The file of credentials, ~/.mlflow/mlflow-proxy.json: by server, its owner's alone, replaced whole."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_proxy_client.addresses import covers
from mlflow_proxy_client.errors import Problem, plain
from mlflow_proxy_client.oauth import Client, Tokens

try:
    import fcntl
except ImportError:
    LOCKS = False
else:
    LOCKS = True
    """Whether processes can shut each other out; not on Windows."""

VERSION = 1
LOCKED_FOR = 60.0
"""Seconds that one waits for the file's lock: longer than a renewal may take."""


def folder() -> Path:
    """Where MLflow's own client has its credentials (mlflow/utils/credentials.py)."""
    return Path("~/.mlflow").expanduser()


@dataclass(frozen=True)
class OwnToken:
    """A token of the server's own (a personal access token). `expires` is Unix seconds."""

    id: str
    name: str
    secret: str
    expires: float | None


@dataclass(frozen=True)
class Grant:
    """A sign-in with the identity provider, from which access tokens are renewed."""

    client: Client
    tokens: Tokens
    ended: str | None = None
    """Why the provider renews nothing more, once it has said so: nobody has to ask again."""
    failed: float = 0.0
    """When a renewal last got no answer (Unix seconds): every process that shares the file waits a little."""


@dataclass(frozen=True)
class Entry:
    """What there is for one server."""

    user: str
    """Who one is there; for people to read."""
    grant: Grant | None = None
    token: OwnToken | None = None


class CredentialsFile:
    """The file; several processes may use it at once."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or folder() / "mlflow-proxy.json"
        self._seen: tuple[tuple[int, int, int], Mapping[str, Entry]] | None = None

    def read(self) -> Mapping[str, Entry]:
        """Every server's, by its URL; empty where there is no file. Raises Problem."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                state = (status.st_ino, status.st_mtime_ns, status.st_size)
                if self._seen is not None and self._seen[0] == state:
                    return self._seen[1]
                text = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Problem(f"{self.path} can't be read: {error.strerror}") from None
        entries = self._entries(text)
        self._seen = (state, entries)
        return entries

    def find(self, url: str) -> tuple[str, Entry] | None:
        """The server that a request to `url` is for, the longest path first, and what there is for it."""
        found = [(server, entry) for server, entry in self.read().items() if covers(server, url)]
        return max(found, key=lambda pair: len(pair[0]), default=None)

    def put(self, server: str, entry: Entry | None) -> None:
        """Write it, or remove what there was. Only under the lock."""
        entries = dict(self.read())
        if entry is None:
            entries.pop(server, None)
        else:
            entries[server] = entry
        data = {"version": VERSION, "servers": {url: asdict(one) for url, one in entries.items()}}
        write_private(self.path, json.dumps(data, indent=1).encode() + b"\n")

    @contextlib.contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Alone with the file, across processes and threads; False where somebody else is and `wait` is not.

        Raises Problem where that can't be had: the folder is read-only, or another process has held the lock
        for LOCKED_FOR seconds. Where the system has no such locks (LOCKS), nobody is shut out.
        """
        path = self.path.with_suffix(".lock")
        try:
            make_private_folder(self.path.parent)
            # Opened anew each time: a lock belongs to the opening, so threads exclude each other too.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Problem(f"{path} can't be written: {error.strerror}") from None
        try:
            deadline = time.monotonic() + (LOCKED_FOR if wait else 0)
            while not (alone := _lock(descriptor, path)) and time.monotonic() < deadline:
                time.sleep(0.05)
            if wait and not alone:
                raise Problem(f"another process has held {path} for {LOCKED_FOR:g} s; end it")
            yield alone
        finally:
            os.close(descriptor)

    def _entries(self, text: bytes) -> Mapping[str, Entry]:
        try:
            data = json.loads(text)
            if data["version"] != VERSION:
                raise Problem(
                    f"{self.path} is of another version ({plain(data['version'])}) of mlflow-proxy-client; "
                    "install the newest, or remove the file and run mlflow-proxy login again"
                )
            return {server: _entry(fields) for server, fields in data["servers"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Problem(f"{self.path} is damaged; remove it and run mlflow-proxy login again") from None


def _lock(descriptor: int, path: Path) -> bool:
    if not LOCKS:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Problem(f"{path} can't be locked: {error.strerror}") from None
    return True


def _entry(fields: Mapping[str, Any]) -> Entry:
    entry = Entry(**fields)
    if entry.token is not None:
        entry = replace(entry, token=OwnToken(**fields["token"]))
    if entry.grant is not None:
        grant = Grant(**fields["grant"])
        grant = replace(
            grant, client=Client(**fields["grant"]["client"]), tokens=Tokens(**fields["grant"]["tokens"])
        )
        entry = replace(entry, grant=grant)
    return entry


def make_private_folder(path: Path) -> None:
    """Make it for its owner alone. MLflow makes the same one with the usual mode, and whoever may write to it
    could put a file of theirs in the place of ours."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_mode & 0o077 and hasattr(os, "geteuid") and status.st_uid == os.geteuid():
        path.chmod(0o700)


def write_private(path: Path, content: bytes) -> None:
    """Replace the file at once and for good: its owner's alone from the beginning, whole after a crash.

    Raises Problem.
    """
    target = Path(os.path.realpath(path))  # somebody may keep such files elsewhere, with a link here
    try:
        make_private_folder(path.parent)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise Problem(f"{path} can't be written: {error.strerror}") from None


def _sync_folder(path: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
