"""The logs as they lie there: plain, gzip, zstd or standard input, in pieces, in the order of their times."""

from __future__ import annotations

import glob
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from proxy.codings import ZstdError, zstd_reader

LONGEST = 64 * 1024
"""Bytes of a line; ours are shorter (logs/access.py, audit/entry.py), and what is longer is none of ours."""
_BLOCK = 1 << 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_TIME = re.compile(rb'\{"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)"')
_LOOKED_THROUGH = 1 << 18
"""Bytes at a file's beginning in which its first time is looked for."""
STANDARD_INPUT = "-"
_BROKEN = (OSError, EOFError, zlib.error, ZstdError)


class Stream:
    """One file that is read from its beginning, once its turn has come."""

    def __init__(self, name: str, took: Callable[[int], None]) -> None:
        """`took` is told how many bytes of the file were read since it was told last."""
        self.name = name
        self.trouble: str | None = None
        """Why it could not be read, or not to its end."""
        self.number = 0
        """The line that was given last, from 1."""
        self.too_long = 0
        """Lines that were longer than any of ours."""
        self._took = took
        self._blocks: Iterator[list[bytes]] | None = None
        self.pending: list[bytes] = []
        """What was read and not given yet, the next line last."""

    def begins(self) -> str:
        """The time of its first line that has one, as it stands there; empty where there is none."""
        if self.name == STANDARD_INPUT:
            self.fill()
            return _first_time(reversed(self.pending))
        try:
            with Path(self.name).open("rb") as raw:
                return _first_time(_unpacked(raw).read(_LOOKED_THROUGH).split(b"\n"))
        except _BROKEN as error:
            self.trouble = _why(error)
            return ""

    def fill(self) -> bool:
        """Have some lines in `pending`; False at the end."""
        if self._blocks is None:
            self._blocks = self._read()
        while not self.pending:
            block = next(self._blocks, None)
            if block is None:
                return False
            block.reverse()
            self.pending = block
        return True

    def _read(self) -> Iterator[list[bytes]]:
        """Whole lines without their newlines, many at once; the last may lack its newline."""
        rest, skipping, before = b"", False, 0
        try:
            with _open(self.name) as raw:
                file = _unpacked(raw)
                while block := file.read(_BLOCK):
                    after = _place(raw)
                    self._took(after - before)
                    before = after
                    lines = (rest + block).split(b"\n")
                    rest = lines.pop()
                    if skipping and lines:
                        lines[0], skipping = b"", False
                    if len(rest) > LONGEST or skipping:
                        self.too_long += not skipping
                        rest, skipping = b"", True
                    if lines:
                        yield lines
        except _BROKEN as error:
            self.trouble = _why(error)
        if rest:
            yield [rest]


def _first_time(lines: Iterable[bytes]) -> str:
    for line in lines:
        found = _TIME.match(line)
        if found is not None:
            return found[1].decode()
    return ""


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _place(raw: io.BufferedReader) -> int:
    try:
        return raw.tell()
    except OSError:  # a pipe has none
        return 0


def _open(name: str) -> io.BufferedReader:
    if name == STANDARD_INPUT:
        return os.fdopen(os.dup(0), "rb")
    return Path(name).open("rb")


def _unpacked(raw: io.BufferedReader) -> BinaryIO:
    begin = raw.peek(4)[:4]
    if begin[:2] == _GZIP:
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if begin == _ZSTD:
        return zstd_reader(raw)
    return raw


def files_named(names: Sequence[str]) -> list[str]:
    """Those files, each once; a name with *, ? or [ that is no file's stands for those that match it."""
    found: dict[object, str] = {}
    for name in names:
        matching = [name]
        if name != STANDARD_INPUT and not Path(name).exists() and glob.has_magic(name):
            matching = sorted(glob.glob(name, recursive=True)) or [name]  # noqa: PTH207 - an absolute pattern, too
        for each in matching:
            found.setdefault(_identity(each), each)
    return list(found.values())


def size_of(names: Sequence[str]) -> int:
    """Bytes in all files among them together."""
    total = 0
    for name in names:
        try:
            found = Path(name).stat()
        except OSError:
            continue
        total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _identity(name: str) -> object:
    try:
        found = Path(name).stat()
    except OSError:
        return name
    return found.st_dev, found.st_ino
