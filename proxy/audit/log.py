"""The service's audit log: events from any thread into one chain, whose newest line the database knows."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.audit import heads
from proxy.audit.entry import Entry, entry
from proxy.audit.events import NO_AUDIT, Detail, Event, NoAudit, Outcome
from proxy.audit.exchanges import told
from proxy.audit.file import ChainFile
from proxy.audit.keys import Keys, audit_keys
from proxy.audit.repeats import Repeats
from proxy.audit.writer import Writer
from proxy.errors import UserError
from proxy.store import Store, StoreUnavailable
from proxy.store import audit as rows
from proxy.store.audit import HeadRow

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.exchange import Exchange
    from proxy.settings import Settings

log = logging.getLogger("proxy.audit")

REPEATED: frozenset[Event] = frozenset({"refused", "sign_in_refused"})
"""What anybody can cause as often as they like: told of once a minute for each kind."""
_NOTE_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
# The database's head is found changed again and again where two services write one chain, from a copied data
# directory: that is told of this often.
_AGAIN_SECONDS = 60.0


def audit_file(settings: Settings) -> Path:
    """The service's current file; those that were full lie beside it."""
    return settings.audit_file or settings.data_dir / "audit" / "audit.jsonl"


async def open_audit(settings: Settings, store: Store) -> AuditLog | NoAudit:
    """The audit log, opened, or what stands for it where PROXY_AUDIT_LOG is off. Raises UserError."""
    if not settings.audit:
        return NO_AUDIT
    return await asyncio.to_thread(AuditLog, settings, store)


class AuditLog:
    """One replica's chain. Lines are on the disk some 20 ms after their event; the database is told of the
    newest one each second, and never waited for."""

    def __init__(self, settings: Settings, store: Store) -> None:
        """Opens the file and asks the database what was written last: blocks. Raises UserError."""
        self._store = store
        keys = audit_keys(settings, make=True)
        self._file = ChainFile(audit_file(settings), keys, settings.audit_max_size)
        self._writer = Writer(self._file)
        self._repeats = Repeats()
        self._lock = threading.Lock()
        self._noted: HeadRow | None = None
        self._compared = False
        self._given: deque[tuple[int, str]] = deque(maxlen=64)
        """The latest heads that the database was given, carried out or not."""
        self._quiet_until = 0.0
        self._broken = False
        self.counts: dict[str, int] = {}
        """Events handed in by name, repeats included."""
        self._resume(keys)
        self._writer.start()

    @property
    def lost(self) -> int:
        """Events that were not written and will not be."""
        return self._writer.lost

    @property
    def problem(self) -> str | None:
        """What is wrong with the log, for anybody to read, or None."""
        if (trouble := self._writer.trouble) is not None:
            return f"lines can't be written ({trouble}); {self._writer.waiting} wait"
        if self._broken or self._file.broken:
            return "it was changed from outside; mlflow-proxy audit verify says more"
        return None

    def record(
        self,
        event: Event,
        *,
        exchange: Exchange | None = None,
        user: str = "",
        auth: str = "",
        credential: str = "",
        client: str = "",
        target: Mapping[str, str] | None = None,
        outcome: Outcome = "success",
        **details: Detail,
    ) -> None:
        """As Audit.record."""
        try:
            line = entry(
                event,
                at=time.time(),
                exchange=exchange,
                user=user,
                auth=auth,
                credential=credential,
                client=client,
                target=target,
                outcome=outcome,
                details=details,
            )
            self._hand_in(line)
        except Exception:
            self._writer.lose()
            log.exception("an event (%s) can't be written to the audit log", event)

    def observe(self, exchange: Exchange) -> None:
        """Note a request that is over, where it is an event. Never blocks, never raises."""
        try:
            found = told(exchange)
            if found is None:
                return
            event, outcome, target, details = found
            at = time.time()
            self._hand_in(
                entry(event, at=at, exchange=exchange, target=target, outcome=outcome, details=details)
            )
        except Exception:
            self._writer.lose()
            log.exception("request %s can't be written to the audit log", exchange.request_id)

    def _hand_in(self, line: Entry) -> None:
        event = line["event"]
        with self._lock:
            self.counts[event] = self.counts.get(event, 0) + 1
        first = self._repeats.first(line, time.monotonic()) if event in REPEATED else line
        if first is not None:
            self._writer.put(first)

    async def run(self) -> None:
        """Tell the database of the newest line, and the log of what came again; until cancelled."""
        while True:
            await asyncio.sleep(_NOTE_SECONDS)
            for line in self._repeats.due(time.monotonic()):
                self._writer.put(line)
            await self._try_to_note()

    async def aclose(self) -> None:
        """Write what waits, for some seconds, and tell the database of the last line."""
        for line in self._repeats.due():
            self._writer.put(line)
        self.record("service_stopped")
        ended = await asyncio.to_thread(self._writer.close, _CLOSE_SECONDS)
        await self._try_to_note()
        if ended:
            self._file.close()

    # ---- what the database knows ----

    def _resume(self, keys: Keys) -> None:
        """Go on in the chain where it ended, and say what was found there."""
        try:
            resumed = heads.resume(self._file, keys, self._store, "service")
        except OSError as error:
            raise UserError(
                f"PROXY_AUDIT_FILE is {self._file.path}: one beside it can't be read ({error.strerror})"
            ) from None
        self._noted, self._compared, self._broken = resumed.row, resumed.compared, resumed.broken
        for line in resumed.first:
            self._writer.put(line)
        if self._file.head.sequence:
            knows = "an earlier line" if self._noted else "nothing" if self._compared else "not asked"
            self.record("chain_continued", host=heads.place(self._file)[0], database=knows)
        self.record("service_started", pid=os.getpid(), version=__version__)

    async def _try_to_note(self) -> None:
        try:
            await self._note()
        except StoreUnavailable:
            pass  # the store has said so
        except Exception:
            log.exception("the database could not be told of the audit log's newest line")

    async def _note(self) -> None:
        """Put the newest synced line's number and digest into the database, where it changes them."""
        head = self._file.synced
        if head.sequence == 0 or (self._noted is not None and head.sequence == self._noted.sequence):
            return
        if not self._compared:
            found = await self._store.run(lambda db: rows.read(db, head.chain))
            wrong = None if found is None else await asyncio.to_thread(heads.difference, self._file, found)
            self._compared, self._noted = True, found
            if wrong is not None:
                self._tampered(wrong)
        new, before = heads.row_of(head, self._file), self._noted
        self._given.append((new.sequence, new.digest))
        as_expected, found = await self._store.run(lambda db: rows.advance(db, new, before))
        self._noted = new
        if found is not None and (found.sequence, found.digest) in self._given:
            return  # what was given up after a while may have been carried out all the same
        if not as_expected and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _AGAIN_SECONDS
            self._tampered(
                {
                    "what": "the database does not have the head that it was given",
                    "given": 0 if before is None else before.sequence,
                    "found": 0 if found is None else found.sequence,
                }
            )

    def _tampered(self, details: dict[str, Detail]) -> None:
        self._broken = True
        self._writer.put(heads.broken(details))
