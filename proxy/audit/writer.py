"""The thread that writes: whoever hands an event in waits for no disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue

from proxy.audit.entry import Entry, entry
from proxy.audit.file import ChainFile
from proxy.errors import UserError

log = logging.getLogger("proxy.audit")

MOST = 20_000
"""Events that wait for a disk that takes none; what comes after is lost and counted."""
_GATHER_SECONDS = 0.02  # how long the first event of a batch waits for others: syncing costs more than a line
_RETRY_SECONDS = 1.0


class Writer:
    """Writes events to the chain's file in the order of `put`, in batches that are synced.

    What can't be written waits and is tried again each second.
    """

    def __init__(self, file: ChainFile) -> None:
        """The file is the thread's from `start` until `close` has returned True."""
        self._file = file
        self._queue: SimpleQueue[Entry | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._lost = 0
        self._told_lost = 0
        self._held = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self.trouble: str | None = None
        """Why the file takes no lines at present; None where it does."""

    @property
    def lost(self) -> int:
        """Events that were not written and will not be."""
        return self._lost

    @property
    def waiting(self) -> int:
        return self._held + self._queue.qsize()

    def start(self) -> None:
        self._thread.start()

    def put(self, event: Entry) -> None:
        """Write it soon, or count it as lost; from any thread."""
        if self._closing.is_set() or self.waiting >= MOST:
            self.lose()
        else:
            self._queue.put(event)

    def lose(self, number: int = 1) -> None:
        """Count events as lost; the log tells of them when it can."""
        with self._lock:
            self._lost += number

    def close(self, timeout: float) -> bool:
        """Write what waits, for at most that many seconds; True where the thread has ended."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pending: deque[Entry] = deque()
        ended = False
        while not ended:
            with suppress(Empty):
                event = self._queue.get(timeout=_RETRY_SECONDS if pending else None)
                self._closing.wait(_GATHER_SECONDS)
                while event is not None:
                    pending.append(event)
                    event = self._queue.get_nowait()
                ended = True
            self._held = len(pending)
            self._write(pending)
            self._held = len(pending)
        if pending:
            self.lose(len(pending))
            log.error("%d events could not be written to the audit log", len(pending))

    def _write(self, pending: deque[Entry]) -> None:
        try:
            self._file.append(pending)
            if (lost := self._lost) > self._told_lost:
                details = {"lost": lost - self._told_lost}
                self._told_lost = lost
                pending.append(entry("events_lost", at=time.time(), outcome="failed", details=details))
                self._file.append(pending)
        except (OSError, UserError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if self.trouble is None:
                log.error("the audit log can't be written (%s): %d events wait", why, len(pending))
            self.trouble = why
        except Exception:
            # A defect of ours: what can't be sealed would be tried for ever.
            log.exception("%d events could not be written to the audit log", len(pending))
            self.lose(len(pending))
            pending.clear()
        else:
            if self.trouble is not None:
                log.warning("the audit log can be written again")
            self.trouble = None
