"""A part's bytes on their way: counted, digested, compressed and sealed, or all of that back."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from proxy.backup import sealing
from proxy.backup.places import Place
from proxy.backup.places.place import READ
from proxy.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 3
"""Of zstd: faster than the databases give it, and a fifth of their size."""
COMPRESSED = ".zst"


class BrokenBackup(UserError):
    """What was kept is not what was written: cut short, changed, gone, or not to be decrypted."""


def pack(data: bytes) -> bytes:
    """A small thing, compressed."""
    return zstd.compress(data)


def unpack(data: bytes) -> bytes:
    """The same back. Raises ValueError."""
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None


class Stored(NamedTuple):
    """What became of a stream."""

    name: str
    bytes: int
    """As it lies there."""
    digest: str
    """SHA-256 of that, in hexadecimal."""
    plain_bytes: int
    plain_digest: str


class Writer:
    """Takes the plain bytes. `stored` tells after the end what became of them."""

    def __init__(
        self, kept: sealing.Writing, sealed: sealing.Sealed | None, tick: Callable[[int], None]
    ) -> None:
        self._to = sealed or kept
        self._zstd = zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: LEVEL,
                zstd.CompressionParameter.checksum_flag: 1,
            }
        )
        self._tick = tick
        self.bytes = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        self.bytes += len(data)
        self.digest.update(data)
        if packed := self._zstd.compress(data):
            self._to.write(packed)
        self._tick(len(data))
        return len(data)

    def end(self) -> None:
        self._to.write(self._zstd.flush())


class _Counted:
    """Counts and digests what is stored. Keeps what the place raised: the library would hide it."""

    def __init__(self, to: sealing.Writing) -> None:
        self._to = to
        self.bytes = 0
        self.digest = hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: bytes, /) -> int:
        try:
            self._to.write(bytes(data))
        except BaseException as error:
            self.error = error
            raise
        self.bytes += len(data)
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        pass


class Kept:
    """Where `writing` says what became of it."""

    stored: Stored


@contextlib.contextmanager
def writing(
    place: Place, name: str, keys: Sequence[Any], tick: Callable[[int], None]
) -> Iterator[tuple[Writer, Kept]]:
    """Write one part or copy: compressed, and sealed where there are keys (its name is to end so).

    Where the block raises, nothing is kept at that name.
    """
    kept = Kept()
    with place.create(name) as sink:
        counted = _Counted(sink)
        sealed = sealing.Sealed(counted, keys) if keys else None
        try:
            writer = Writer(counted, sealed, tick)
            yield writer, kept
            writer.end()
            if sealed is not None:
                sealed.finish()
        except BaseException:
            if sealed is not None:
                sealed.drop()
            if counted.error is not None:
                raise counted.error from None
            raise
        sink.commit()
    kept.stored = Stored(
        name, counted.bytes, counted.digest.hexdigest(), writer.bytes, writer.digest.hexdigest()
    )


class Reader:
    """Gives the plain bytes. Raises BrokenBackup where they are not what was written."""

    def __init__(
        self, place: Place, stored: Stored, source: sealing.Reading, key: sealing.Key | None
    ) -> None:
        self._stored = stored
        self._where = f"{place.text}/{stored.name}"
        self._raw = _Digested(source)
        self._opened = sealing.Opened(self._raw, key) if key is not None else None
        self._from: sealing.Reading = self._opened or self._raw
        self._zstd = zstd.ZstdDecompressor()
        self._digest = hashlib.sha256()
        self._bytes = 0

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, and none at the end."""
        data = b""
        try:
            while not data and not self._zstd.eof:
                packed = self._from.read(READ) if self._zstd.needs_input else b""
                if self._zstd.needs_input and not packed:
                    raise self.broken("it is cut short")
                data = self._zstd.decompress(packed, max(1, min(size, READ)))
        except sealing.Undecryptable as error:
            raise self.broken(_undecryptable(error)) from None
        except zstd.ZstdError:
            raise self.broken("it was changed") from None
        self._bytes += len(data)
        self._digest.update(data)
        return data

    def finish(self) -> None:
        """All was read, and it is what was written. Raises BrokenBackup."""
        while self.read(READ):
            pass
        try:
            while self._from.read(READ):
                raise self.broken("it was changed: more comes after its end")
        except sealing.Undecryptable as error:
            raise self.broken(_undecryptable(error)) from None
        stored = self._stored
        if (self._raw.bytes, self._raw.digest.hexdigest()) != (stored.bytes, stored.digest) or (
            self._bytes,
            self._digest.hexdigest(),
        ) != (stored.plain_bytes, stored.plain_digest):
            raise self.broken("it was changed: its digest is not the manifest's")

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def broken(self, why: str) -> BrokenBackup:
        return BrokenBackup(f"{self._where} can't be used: {why}")


class _Digested:
    """Counts and digests what is read; asks for more at once than the library does."""

    def __init__(self, source: sealing.Reading) -> None:
        self._source = source
        self._left = memoryview(b"")
        self.bytes = 0
        self.digest = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        if not self._left:
            data = self._source.read(READ)
            self.bytes += len(data)
            self.digest.update(data)
            self._left = memoryview(data)
        taken, self._left = self._left[:size], self._left[size:]
        return bytes(taken)


@contextlib.contextmanager
def reading(place: Place, stored: Stored, key: sealing.Key | None) -> Iterator[Reader]:
    """Read one part or copy. Leaving the block in order makes sure that all of it was right.

    Raises BrokenBackup, also where it is sealed and there is no key.
    """
    sealed = stored.name.endswith(sealing.SUFFIX)
    where = f"{place.text}/{stored.name}"
    if sealed and key is None:
        raise BrokenBackup(
            f"{where} is encrypted: set PROXY_BACKUP_IDENTITY_FILE to the file with the secret key"
        )
    if problem := missing(place, stored):
        raise BrokenBackup(problem)
    with place.open(stored.name) as source:
        reader = Reader(place, stored, source, key if sealed else None)
        try:
            yield reader
            reader.finish()
        finally:
            reader.close()


def missing(place: Place, stored: Stored) -> str | None:
    """What is wrong with a part or copy as far as its size tells; None where that is right."""
    found = place.stat(stored.name)
    where = f"{place.text}/{stored.name}"
    if found is None:
        return f"{where} is missing"
    if found.size < stored.bytes:
        return f"{where} is cut short: {found.size} of {stored.bytes} bytes"
    if found.size > stored.bytes:
        return f"{where} was changed: it has {found.size} bytes and had {stored.bytes}"
    return None


def damage(place: Place, stored: Stored, tick: Callable[[int], None]) -> str | None:
    """What is wrong with a part or copy, all of which is read; no key is needed. None where all is right."""
    if problem := missing(place, stored):
        return problem
    with place.open(stored.name) as source:
        digested = _Digested(source)
        while data := digested.read(READ):
            tick(len(data))
    if digested.digest.hexdigest() != stored.digest:
        return f"{place.text}/{stored.name} was changed: its digest is not the manifest's"
    return None


def _undecryptable(error: sealing.Undecryptable) -> str:
    if "No matching keys" in str(error):
        return "it is encrypted to other keys than those in PROXY_BACKUP_IDENTITY_FILE"
    return f"it can't be decrypted: it was changed or cut short ({error})"
