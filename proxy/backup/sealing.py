"""Encryption to public keys, in the age format: whoever has the secret key needs no program of ours."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyrage

from proxy.errors import UserError

FORMAT = "age"
SUFFIX = ".age"
_AHEAD = 8
_CHUNK = 2**18
Key = Sequence[Any]
"""What opens what was encrypted: the identities of one file."""


class Undecryptable(Exception):
    """What is read is not encrypted to that key, or was changed or cut short."""


class Reading(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Writing(Protocol):
    def write(self, data: bytes, /) -> int: ...


def keygen() -> tuple[str, str]:
    """A new pair: the public key, and what belongs into its file, as `age-keygen` writes it."""
    made = pyrage.x25519.Identity.generate()
    public = str(made.to_public())
    return public, f"# public key: {public}\n{made}\n"


def recipients(texts: Sequence[str]) -> list[Any]:
    """The public keys. Raises UserError."""
    found = []
    for text in texts:
        kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
        try:
            found.append(kind.Recipient.from_str(text))
        except pyrage.RecipientError as error:
            raise UserError(f"PROXY_BACKUP_RECIPIENT: {text[:40]} is no public key ({error})") from None
    return found


def identity(path: Path | None) -> Key | None:
    """The secret keys in that file, as `mlflow-proxy backup keygen`, `age-keygen` or `ssh-keygen` write it.

    Raises UserError, which quotes nothing of it.
    """
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"PROXY_BACKUP_IDENTITY_FILE: {path} can't be read: {error.strerror}") from None
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return [pyrage.ssh.Identity.from_buffer(data)]
        lines = [line.strip() for line in data.decode().splitlines()]
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line and line[0] != "#"]
    except (pyrage.IdentityError, UnicodeDecodeError):
        found = []
    if not found:
        raise UserError(
            f"PROXY_BACKUP_IDENTITY_FILE: {path} holds no secret key: a line that begins with "
            "AGE-SECRET-KEY-1, or an SSH key without passphrase"
        )
    return found


class Sealed:
    """Encrypts what is written to it and writes that to `to`, in a thread of its own: the library pulls."""

    def __init__(self, to: Writing, keys: Sequence[Any]) -> None:
        self._pipe = _Pipe(lambda source: pyrage.encrypt_io(source, to, keys), "seal")

    def write(self, data: bytes, /) -> int:
        return self._pipe.write(data)

    def finish(self) -> None:
        """All is written. Raises what writing raised."""
        self._pipe.finish()

    def drop(self) -> None:
        self._pipe.drop()


class Opened:
    """Decrypts what `source` gives, in a thread of its own. `read` raises Undecryptable, or what `source`
    raised."""

    def __init__(self, source: Reading, key: Key) -> None:
        self._out: queue.Queue[bytes] = queue.Queue(_AHEAD)
        self._left = b""
        self._gone = threading.Event()
        self._error: BaseException | None = None
        self._source = _Kept(source)
        self._key = key
        self._thread = threading.Thread(target=self._run, name="open", daemon=True)
        self._thread.start()

    def read(self, size: int, /) -> bytes:
        if not self._left:
            while True:
                try:
                    self._left = self._out.get(timeout=0.5)
                    break
                except queue.Empty:
                    if not self._thread.is_alive() and self._out.empty():
                        break
        if not self._left and self._error is not None:
            raise self._error
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def close(self) -> None:
        self._gone.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            pyrage.decrypt_io(self._source, self, list(self._key))
        except BaseException as error:
            # The library tells of what its files raised in words of its own.
            self._error = self._source.error or Undecryptable(str(error))
        with contextlib.suppress(OSError):  # nobody reads any more
            self._put(b"")

    # What the library writes to.
    def write(self, data: bytes) -> int:
        for start in range(0, len(data), _CHUNK):
            self._put(bytes(data[start : start + _CHUNK]))
        return len(data)

    def flush(self) -> None:
        pass

    def _put(self, data: bytes) -> None:
        while True:
            if self._gone.is_set():
                raise OSError("nobody reads any more")
            try:
                self._out.put(data, timeout=0.5)
                return
            except queue.Full:
                continue


class _Kept:
    """Keeps what the file raised."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._file.read(size))
        except BaseException as error:
            self.error = error
            raise


class _Pipe:
    """Feeds a function that reads, from one that writes."""

    def __init__(self, run: Callable[[Any], None], name: str) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._left = b""
        self._ended = False
        self._dropped = threading.Event()
        self._error: BaseException | None = None
        self._call = run
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), _CHUNK):
            self._put(bytes(data[start : start + _CHUNK]))
        return len(data)

    def finish(self) -> None:
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def drop(self) -> None:
        self._dropped.set()
        self._thread.join()

    def _put(self, data: bytes | None) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(data, timeout=0.5)
                return
            except queue.Full:
                continue
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._call(self)
        except BaseException as error:
            self._error = error

    def read(self, size: int) -> bytes:
        """What the library reads from."""
        while not self._left and not self._ended:
            if self._dropped.is_set():
                raise OSError("dropped")
            try:
                data = self._queue.get(timeout=0.5)
            except queue.Empty:
                continue
            if data is None:
                self._ended = True
            else:
                self._left = data
        taken, self._left = self._left[:size], self._left[size:]
        return taken
