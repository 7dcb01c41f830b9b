"""Whole lines into a file or descriptor, from one thread of their own, so that a slow reader stops nobody."""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue

from proxy.logs.file import LogFile

MAX_LINES = 100_000
MAX_BYTES = 64 * 1024 * 1024
"""The most that waits for a reader that takes nothing; what comes after is dropped and counted."""

_GATHER_SECONDS = 0.02
"""How long the first line of a batch waits for others: a wake-up of the thread costs more than a line."""

_BATCH_BYTES = 256 * 1024
_PIPE_BYTES = select.PIPE_BUF
"""What a pipe takes in one piece, so that lines of two writers (`2>&1 |`) do not run into each other."""


class LineWriter:
    """Writes lines in batches; never blocks and never raises where `put` is called.

    `put` belongs to one thread at a time. Lines that find the queue full, or that the descriptor
    refuses (EPIPE: the reader is gone; ENOSPC: the disk is full), are counted in `dropped`; the first
    of each is said in `reports`, and each later batch is tried again, so that a disk with room again is
    written again.
    """

    def __init__(self, output: int | LogFile, name: str, reports: logging.Logger | None) -> None:
        self._output = output
        self._name = str(output.path) if isinstance(output, LogFile) else name
        self._reports = reports
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._max_lines = MAX_LINES
        # Each of these has one thread that writes it; the other only reads.
        self._bytes_put = 0
        self._refused = 0
        self._bytes_taken = 0
        self._lost = 0
        self._said: set[str] = set()
        self._torn: int | None = None
        """The file that ends within a line, by its number."""
        self._closing = threading.Event()
        pipe = isinstance(output, int) and _is_pipe(output)
        self._batch_bytes = _PIPE_BYTES if pipe else _BATCH_BYTES
        self._thread = threading.Thread(target=self._run, name=f"log to {name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written and will not be."""
        return self._refused + self._lost

    def put(self, line: bytes) -> None:
        """Write this line, newline included, soon; or drop it if too much waits already."""
        if self._queue.qsize() >= self._max_lines or self._bytes_put - self._bytes_taken > MAX_BYTES:
            self._refused += 1
            return
        self._bytes_put += len(line)
        self._queue.put(line)

    def reopen(self) -> None:
        """Go on in the file that now has the name; nothing where the output is no file."""
        if isinstance(self._output, LogFile):
            self._output.reopen()
            self._queue.put(b"")  # so that it is there at once, whenever the next line comes

    def close(self, timeout: float = 2.0) -> bool:
        """Write what waits, for at most `timeout` seconds. True if all of it was written or refused."""
        self._max_lines = 0
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        line = self._queue.get()
        while line is not None:
            self._closing.wait(_GATHER_SECONDS)
            batch = [line]
            size = len(line)
            with suppress(Empty):
                while (line := self._queue.get_nowait()) is not None:
                    if size + len(line) > self._batch_bytes:
                        self._write(batch, size)
                        batch, size = [], 0
                    batch.append(line)
                    size += len(line)
            self._write(batch, size)
            if self._refused:
                self._say(
                    "slow",
                    "%s takes lines too slowly: %d dropped so far; see mlflow_proxy_log_lines_dropped_total",
                    self._name,
                    self._refused,
                )
            if line is not None:
                line = self._queue.get()

    def _write(self, batch: list[bytes], size: int) -> None:
        data = b"".join(batch)
        mend = b""
        done = 0
        try:
            output = self._output
            descriptor = output if isinstance(output, int) else output.descriptor_for(size)
            if self._torn is not None and self._torn == os.fstat(descriptor).st_ino:
                # A write that broke off within a line must not swallow the line that comes next.
                mend = b"\n"
                data = mend + data
            while done < len(data):
                try:
                    done += os.write(descriptor, memoryview(data)[done:])
                except BlockingIOError:
                    # Somebody who shares the descriptor has made it non-blocking.
                    poll = select.poll()
                    poll.register(descriptor, select.POLLOUT)
                    poll.poll(1000)
            self._torn = None
        except OSError as problem:
            if done:
                self._torn = None if data.endswith(b"\n", 0, done) else os.fstat(descriptor).st_ino
            self._lost += data.count(b"\n", max(done, len(mend)))
            self._say(
                errno.errorcode.get(problem.errno or 0, "error"),
                "%s takes no lines (%s): they are dropped; see mlflow_proxy_log_lines_dropped_total",
                self._name,
                problem.strerror,
            )
        self._bytes_taken += size

    def _say(self, what: str, message: str, *arguments: object) -> None:
        if self._reports is not None and what not in self._said:
            self._said.add(what)
            self._reports.error(message, *arguments)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
