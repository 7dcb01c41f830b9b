"""What can be done with a place, whatever keeps it; and the errors that people see."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from proxy.errors import UserError

PIECE = 8 * 2**20
"""Bytes that are sent at once. Grows with what was sent (`piece`), because a store takes 10,000 pieces."""
READ = 2**20
_TRIES = 5


class PlaceFailed(UserError):
    """A place can't be used; one line that names it and what was to be done, and no key."""


class Replaced(PlaceFailed):
    """What has that name now is not what was to be read."""


class Entry(NamedTuple):
    """One thing that is kept."""

    name: str
    """Its path below the place, with slashes."""
    size: int
    etag: str
    """Changes whenever the content does; of a directory's files, from time, size and inode."""
    version: str
    """The store's version id; empty where it keeps no versions."""
    modified: float


class Sink(ABC):
    """Takes the bytes of one thing. Nothing is seen at its name before `commit`, and nothing ever where the
    block ends without."""

    def __init__(self) -> None:
        self._committed = False

    @abstractmethod
    def write(self, data: bytes, /) -> int: ...

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def _drop(self) -> None: ...

    def commit(self) -> None:
        self._finish()
        self._committed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            # What could not be dropped is not at its name either; the next run's tidying takes it.
            with contextlib.suppress(PlaceFailed, OSError):
                self._drop()


class Source(ABC):
    """The bytes of one thing, from an offset on."""

    def __init__(self, etag: str) -> None:
        self.etag = etag

    @abstractmethod
    def read(self, size: int, /) -> bytes: ...

    @abstractmethod
    def close(self) -> None: ...


class Place(ABC):
    """Things by name. Every method raises PlaceFailed where the place does not do its part."""

    def __init__(self, text: str) -> None:
        self.text = text
        """As it was set; holds no secret."""
        self.setting = ""
        """What named it, for errors; empty where no setting did."""
        self.links: list[str] = []
        """Symbolic links that the latest listing has met: what they lead to is not listed."""

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[Entry]:
        """All whose name begins with that, in no particular order; nothing half-written is among them."""

    def versioned(self, prefix: str) -> Iterator[Entry]:
        """The same, with the version ids where the place keeps versions."""
        return self.entries(prefix)

    @abstractmethod
    def stat(self, name: str) -> Entry | None: ...

    @abstractmethod
    def create(self, name: str) -> Sink: ...

    @abstractmethod
    def remove(self, name: str) -> None:
        """No error where it is not there."""

    @abstractmethod
    def put_new(self, name: str, data: bytes) -> str | None:
        """Its etag, or None where there is one already. One of several at once gets it."""

    @abstractmethod
    def exchange(self, name: str, data: bytes, etag: str) -> str | None:
        """Replace what has that etag: the new one, or None where it is another by now."""

    @abstractmethod
    def get(self, name: str) -> tuple[bytes, str] | None:
        """A small thing and its etag."""

    @abstractmethod
    def _open(self, name: str, offset: int, etag: str) -> Source:
        """What has that etag, or whatever is there where it is empty. Raises Replaced."""

    @abstractmethod
    def tidy(self, prefix: str) -> None:
        """Remove what broken-off writes of such names left, where nobody else writes now."""

    def failed(self, where: object, what: str, reason: object) -> PlaceFailed:
        """The error for what could not be done there: written, read, listed."""
        named = f"{self.setting}: " if self.setting else ""
        return PlaceFailed(f"{named}{where} can't be {what}: {reason}")

    def put(self, name: str, data: bytes) -> None:
        with self.create(name) as sink:
            sink.write(data)
            sink.commit()

    @contextlib.contextmanager
    def open(self, name: str, etag: str = "") -> Iterator[Source]:
        """Read it from its beginning; a connection that breaks is made again where it was.

        Raises Replaced, from the block too, where what is read is not, or no longer, what has that etag.
        """
        source = _Patient(self, name, etag)
        try:
            yield source
        finally:
            source.close()


class _Patient(Source):
    """A stream that goes on after a broken connection, if what it began with is still there."""

    def __init__(self, place: Place, name: str, etag: str) -> None:
        source = place._open(name, 0, etag)
        super().__init__(source.etag)
        self._place = place
        self._name = name
        self._at = 0
        self._source: Source | None = source

    def read(self, size: int, /) -> bytes:
        for left in reversed(range(_TRIES)):
            try:
                if self._source is None:
                    self._source = self._place._open(self._name, self._at, self.etag)
                data = self._source.read(size)
            except PlaceFailed as error:
                self.close()
                if not left or isinstance(error, Replaced):
                    raise
                time.sleep(_TRIES - left)
                continue
            self._at += len(data)
            return data
        raise AssertionError("unreachable")

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()


def piece(number: int) -> int:
    """How many bytes the piece of that number (from 0) has: 10,000 of them are 880 GB."""
    return PIECE * (1 + number // 500)
