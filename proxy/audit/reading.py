"""A chain's files as they lie in a directory, and what stands at the end of each."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from proxy.audit.chain import Line, read

_BLOCK = 64 * 1024


def numbered(path: Path, first: int) -> Path:
    """What a full file is called whose first line has that number."""
    return path.with_name(f"{path.stem}-{first:010d}{path.suffix}")


def files_of(path: Path) -> list[Path]:
    """The chain's files that are there, the current one last: those that were full, in their order, and what
    others (logrotate) have renamed."""
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    name = re.compile(rf"{stem}(?:-(\d{{10,}}))?{suffix}(?:[.-]\d[\d.-]*)?(?:\.gz)?", re.ASCII)
    found = []
    for each in path.parent.iterdir() if path.parent.is_dir() else ():
        match = name.fullmatch(each.name)
        if match is not None and each.is_file():
            found.append((each == path, int(match[1] or 0), each.stat().st_mtime, each))
    return [each for *_, each in sorted(found)]


def backwards(descriptor: int) -> Iterator[bytes]:
    """What is between the newlines of a file, from its end: the first piece is what follows the last one."""
    at = os.fstat(descriptor).st_size
    held: list[bytes] = []
    while at > 0:
        step = min(_BLOCK, at)
        at -= step
        block = os.pread(descriptor, step, at)
        if b"\n" not in block:
            held.append(block)
            continue
        first, *pieces = block.split(b"\n")
        pieces[-1] += b"".join(reversed(held))
        held = [first]
        yield from reversed(pieces)
    yield b"".join(reversed(held))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def tail(descriptor: int) -> tuple[Line | None, int, int]:
    """The last line that is one, how many whole lines come after it, and the bytes after the last newline."""
    pieces = backwards(descriptor)
    torn = len(next(pieces))
    foreign = 0
    for piece in pieces:
        line = read(piece)
        if line is not None:
            return line, foreign, torn
        foreign += 1
    return None, foreign, torn
