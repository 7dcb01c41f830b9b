"""The databases' own programs: which is there and how old it is, and what goes through their pipes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from proxy.backup.databases.kinds import PIECE, DatabaseFailed, Reader, Writer

_LAST_WORDS = 4096
_SECONDS_FOR_VERSION = 30
# Ours and MLflow's settings are nobody else's business.
_PRIVATE = ("MLFLOW_", "_MLFLOW_", "PROXY_")
_VERSION = re.compile(r"(?:from|Distrib|\(PostgreSQL\)|Ver)\s+(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is installed."""

    path: str
    version: tuple[int, int]
    text: str
    """What it says of its version."""

    @property
    def name(self) -> str:
        return Path(self.path).name


def installed(*names: str, folders: Sequence[Path] = ()) -> Iterator[Program]:
    """Those of these names that can be run: by PATH, and then in `folders`."""
    for name in names:
        found = shutil.which(name)
        for path in [found] if found else []:
            if program := _asked(path):
                yield program
        for folder in folders:
            if (folder / name).is_file() and (program := _asked(str(folder / name))):
                yield program


def _asked(path: str) -> Program | None:
    try:
        done = subprocess.run(
            [path, "--version"],
            env=environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS_FOR_VERSION,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.decode("utf-8", "replace").strip()
    # MariaDB's programs give a version of the client, and then of the distribution that it belongs to.
    found = _VERSION.findall(text)
    if done.returncode or not found:
        return None
    major, minor = next((pair for pair in found[1:]), found[0])
    return Program(path, (int(major), int(minor or 0)), text)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """For a database's program: ours without what is private, its words in English, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    return {**kept, "LC_ALL": "C", **more}


class Child:
    """A program at work. It is ended with the context that it was started in, however that ends."""

    def __init__(self, uri: str, process: subprocess.Popen[bytes], words: IO[bytes], name: str) -> None:
        self._uri = uri
        self._process = process
        self._words = words
        self._name = name

    def read(self, size: int) -> bytes:
        """Some bytes of its output, none at the end. Raises DatabaseFailed where it has failed."""
        assert self._process.stdout is not None
        piece = self._process.stdout.read(size)
        if not piece:
            self._finish()
        return piece or b""

    def pour(self, to: Writer) -> None:
        """The rest of its output. Raises DatabaseFailed, and what `to` raises."""
        while piece := self.read(PIECE):
            to.write(piece)

    def feed(self, source: Reader) -> None:
        """Give it all of `source`, and wait for its end. Raises DatabaseFailed, and what `source` raises."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            while piece := source.read(PIECE):
                view = memoryview(piece)
                while view:
                    view = view[stdin.write(view) :]
            stdin.close()
        except BrokenPipeError:
            self._finish()
            raise DatabaseFailed.at(self._uri, f"{self._name} has ended too early") from None
        self._finish()

    def kill(self) -> None:
        self._process.kill()

    def _finish(self) -> None:
        if self._process.wait():
            raise DatabaseFailed.at(self._uri, f"{self._name} has failed: {self._said()}")

    def _said(self) -> str:
        """The line that matters of what it said."""
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - _LAST_WORDS))
        lines = self._words.read().decode("utf-8", "replace").splitlines()
        wrong = [line for line in lines if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE)]
        code = self._process.returncode
        return next(iter(wrong), next(iter(lines[-1:]), f"exit code {code}"))


@contextlib.contextmanager
def running(
    uri: str, command: Sequence[str], more: Mapping[str, str], *, fed: bool = False, **popen: Any
) -> Iterator[Child]:
    """Start it, to be read from, or with `fed` to be written to. Raises DatabaseFailed.

    On an error in the context it is killed before its input ends: the end of a script that was cut short
    must not be taken for its end.
    """
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                command,
                env=environment(more),
                stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if fed else subprocess.PIPE,
                stderr=words,
                bufsize=0,
                **popen,
            )
        except OSError as error:
            raise DatabaseFailed.at(uri, f"{command[0]} can't be run ({error.strerror})") from None
        try:
            yield Child(uri, process, words, Path(command[0]).name)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
