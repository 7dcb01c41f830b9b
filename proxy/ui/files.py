"""Which files the installed MLflow's UI has: a closed set, looked at once, with what is said of each."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INDEX = "index.html"

# MLflow takes them from the machine's own list, which may lack some; a browser takes no script that is not
# called one (nosniff).
_TYPES = {
    ".cjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".eot": "application/vnd.ms-fontobject",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/vnd.microsoft.icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".otf": "font/otf",
    ".png": "image/png",
    ".svg": "image/svg+xml; charset=utf-8",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
_ANYTHING = "application/octet-stream"
# What is compressed already gains nothing.
_PACKED = frozenset({".gif", ".jpeg", ".jpg", ".png", ".webp", ".woff", ".woff2"})
_SMALLEST = 256
# main.c2f5f8d4.js, codicon.f6283f7ccaed1249d9eb.ttf: webpack puts the content's hash into the name.
_HASH_IN_NAME = re.compile(r"\.[0-9a-f]{8,64}\.")


@dataclass(frozen=True, slots=True)
class File:
    """One file, as it was when it was looked at."""

    name: str
    """Its path below the folder, with slashes."""
    source: Path
    size: int
    changed: int
    """Its modification time, in nanoseconds."""
    digest: str
    """SHA-256 of its content, in hexadecimal digits."""
    content_type: bytes
    lasting: bool
    """Whether its name changes with its content."""
    compressible: bool


@dataclass(frozen=True, slots=True)
class Files:
    """All of them, by name."""

    by_name: Mapping[str, File]
    digest: str
    """Of all names and contents."""


def folder() -> Path | None:
    """Where the installed MLflow has them; None where it has none. MLflow itself is not imported, which would
    take seconds."""
    package = importlib.util.find_spec("mlflow")
    if package is None or package.origin is None:
        return None
    found = Path(package.origin).parent / "server" / "js" / "build"
    return found if (found / INDEX).is_file() else None


def scan(root: Path) -> Files:
    """Look at every file there. Links are left out, so that none leads elsewhere. Raises OSError."""
    by_name: dict[str, File] = {}
    for place, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        for name in sorted(names):
            file = look(Path(place) / name, root)
            if file is not None:
                by_name[file.name] = file
    whole = hashlib.sha256()
    for name, file in by_name.items():
        whole.update(f"{name}\0{file.digest}\n".encode())
    return Files(by_name, whole.hexdigest())


def look(source: Path, root: Path) -> File | None:
    """That file; None where it is a link, or nothing that can be served. Raises OSError."""
    if source.is_symlink():
        return None
    descriptor = opened(source)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - opened without following a link
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    ending = source.suffix.lower()
    return File(
        source.relative_to(root).as_posix(),
        source,
        status.st_size,
        status.st_mtime_ns,
        digest,
        _TYPES.get(ending, _ANYTHING).encode("ascii"),
        lasting=_HASH_IN_NAME.search(source.name) is not None,
        compressible=ending not in _PACKED and status.st_size >= _SMALLEST,
    )


def opened(source: Path) -> int:
    """A descriptor to read it; no link is followed, and no pipe waited for. Raises OSError."""
    return os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)


def unchanged(file: File, descriptor: int) -> bool:
    """Whether what was opened is still what was looked at."""
    status = os.fstat(descriptor)
    return (status.st_size, status.st_mtime_ns) == (file.size, file.changed)
