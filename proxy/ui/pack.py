"""The compressed files as they are kept: one file, which is whole or not there.

A line of JSON says what it is for and where each body lies, the bodies follow, and the SHA-256 of all of it
ends it. It is written beside its name, synchronised and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_DIGEST = hashlib.sha256().digest_size
_PIECE = 1 << 20
_LONGEST_INDEX = 4 << 20
UNFINISHED = ".unfinished"
"""What the name of one that is being written ends with."""


class Unusable(Exception):
    """It is not whole, or for something else."""


@dataclass(frozen=True, slots=True)
class Body:
    """One file in one coding."""

    offset: int
    size: int
    etag: bytes
    """A strong one, of these very bytes."""


class Pack:
    """One that was read and found whole: `bodies` by file name and coding."""

    def __init__(self, path: Path, digest: str) -> None:
        """Read it all. Raises OSError, and Unusable where it is not what was written for `digest`."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        start, index = self._checked()
        if not isinstance(index, dict) or index.get("for") != digest:
            raise Unusable("it was made of other files")
        self.bodies: dict[str, dict[str, Body]] = {}
        self.size = 0
        for name, codings in index["files"].items():
            for coding, (offset, size, tag) in codings.items():
                etag = f'"{tag}-{coding}"'.encode("ascii")
                self.bodies.setdefault(name, {})[coding] = Body(start + offset, size, etag)

    def _checked(self) -> tuple[int, object]:
        length = os.fstat(self._descriptor).st_size - _DIGEST
        digest = hashlib.sha256()
        place, first = 0, b""
        while place < length:
            piece = os.pread(self._descriptor, min(_PIECE, length - place), place)
            if not piece:
                break
            digest.update(piece)
            if b"\n" not in first and len(first) < _LONGEST_INDEX:
                first += piece
            place += len(piece)
        if length <= 0 or os.pread(self._descriptor, _DIGEST, length) != digest.digest():
            raise Unusable("it is not whole")
        line, newline, _ = first.partition(b"\n")
        try:
            return len(line) + len(newline), json.loads(line)
        except ValueError:
            raise Unusable("it is no pack") from None

    def read(self, body: Body) -> bytes:
        """The whole body. Raises OSError, also where the file has become shorter since."""
        data = os.pread(self._descriptor, body.size, body.offset)
        while len(data) < body.size:
            more = os.pread(self._descriptor, body.size - len(data), body.offset + len(data))
            if not more:
                raise OSError("the pack of the UI's files has become shorter")
            data += more
        return data


def write(path: Path, digest: str, bodies: Iterable[tuple[str, str, bytes]]) -> None:
    """Write one; `bodies` are names, codings and bytes. Raises OSError, and leaves nothing at `path` then."""
    beside = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    parts: list[bytes] = []
    files: dict[str, dict[str, tuple[int, int, str]]] = {}
    offset = 0
    for name, coding, data in bodies:
        tag = hashlib.sha256(data).hexdigest()[:20]
        files.setdefault(name, {})[coding] = (offset, len(data), tag)
        parts.append(data)
        offset += len(data)
    head = json.dumps({"for": digest, "files": files}, separators=(",", ":")).encode() + b"\n"
    whole = hashlib.sha256(head)
    try:
        with beside.open("xb") as file:
            file.write(head)
            for data in parts:
                whole.update(data)
                file.write(data)
            file.write(whole.digest())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
