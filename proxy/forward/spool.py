"""Bodies that stream to MLflow, kept while they do: a part in memory, the rest in files without a name."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path

from proxy.exchange import Refused
from proxy.forward.resending import Kept
from proxy.hold import Hold

IN_MEMORY = 1024 * 1024
"""Bytes of one body that are in memory at most; more go into its file, so many at a time."""
READ = 256 * 1024

log = logging.getLogger("proxy.forward")


class Spool:
    """What all those files may take, in bytes, and where they are; one body may have `each` bytes."""

    def __init__(self, folder: Path, *, limit: int, each: int) -> None:
        self._folder = folder
        self._limit = limit
        self.each = each
        self.used = 0
        """Bytes that they take now."""
        self._failed = False

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes more, which `free` gives back."""
        if self.used + size > self._limit:
            return False
        self.used += size
        return True

    def free(self, size: int) -> None:
        self.used -= size

    def file(self) -> FileIO:
        """A file that has no name. Raises OSError."""
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    def failed(self, error: OSError) -> None:
        """Say, once, that files can't be written; whatever else goes on."""
        if not self._failed:
            self._failed = True
            log.warning("uploads are not kept for sending again: %s: %s", self._folder, error.strerror)


class KeptBody:
    """One body as far as it has come, to be read again from its beginning.

    Whatever keeps it from being kept (it is too large, there is no room, a disk is full) makes it GONE, and
    fails nothing: the request passes all the same.
    """

    def __init__(self, spool: Spool, hold: Hold) -> None:
        self._spool = spool
        self._hold = hold
        self._memory: list[bytes] = []
        self._in_memory = 0
        self._file: FileIO | None = None
        self._in_file = 0
        self._writing: asyncio.Future[None] | None = None
        self._gone = False

    @property
    def kept(self) -> Kept:
        if self._gone:
            return Kept.GONE
        return Kept.MEMORY if self._file is None else Kept.FILE

    def put(self, piece: bytes) -> None:
        """Keep a piece; `settle` has to follow before the next wait."""
        if self._gone:
            return
        if self._in_file + self._in_memory + len(piece) > self._spool.each:
            self.drop()
            return
        try:
            self._hold.take(len(piece))
        except Refused:
            self.drop()
            return
        self._memory.append(piece)
        self._in_memory += len(piece)

    async def settle(self) -> None:
        """Move what is too much for memory into the file."""
        if self._gone or self._in_memory <= IN_MEMORY:
            return
        size = self._in_memory
        if not self._spool.reserve(size):
            self.drop()
            return
        data, at = b"".join(self._memory), self._in_file
        # From here on it counts as in the file, whoever is cancelled meanwhile: `pieces` waits for it.
        self._memory, self._in_memory, self._in_file = [], 0, at + size
        self._hold.give(size)
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, data, at)
        await self.written()

    def _write(self, data: bytes, at: int) -> None:
        if self._file is None:
            self._file = self._spool.file()
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, at)
            view, at = view[written:], at + written

    async def written(self) -> None:
        """Wait until what goes into the file is there, or has failed."""
        if self._writing is None:
            return
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            self._spool.failed(error)
            self.drop()

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it from the beginning. Raises OSError; what is GONE has no pieces."""
        await self.written()
        at = 0
        while at < self._in_file:
            assert self._file is not None
            data = await asyncio.to_thread(os.pread, self._file.fileno(), READ, at)
            if not data:
                raise OSError("a kept body is shorter than it was")
            at += len(data)
            yield data
        for piece in self._memory:
            yield piece

    def drop(self) -> None:
        """Let it go."""
        self._gone = True
        self._hold.give(self._in_memory)
        self._spool.free(self._in_file)
        self._memory, self._in_memory, self._in_file = [], 0, 0
        if self._writing is not None and not self._writing.done():
            # A thread writes to the file: its number must not become another's before that has ended.
            self._writing.add_done_callback(self._close)
        else:
            self._close()

    def _close(self, written: asyncio.Future[None] | None = None) -> None:
        if written is not None and not written.cancelled():
            written.exception()  # nobody waits for it any more
        if self._file is not None:
            self._file.close()
            self._file = None
