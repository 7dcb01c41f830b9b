"""What the database knows of a chain against what is in its file; a difference is never papered over."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass, field

from proxy.audit.chain import BEGINNING, Head
from proxy.audit.entry import Entry, entry
from proxy.audit.events import Detail
from proxy.audit.file import ChainFile
from proxy.audit.keys import Keys
from proxy.store import Store, StoreUnavailable
from proxy.store import audit as rows
from proxy.store.audit import HeadRow

log = logging.getLogger("proxy.audit")


@dataclass(slots=True)
class Resumed:
    """Where a process goes on in a chain."""

    row: HeadRow | None = None
    """What the database knows of it."""
    compared: bool = False
    """Whether the database has answered."""
    broken: bool = False
    first: list[Entry] = field(default_factory=list)
    """What is to be written before anything else."""


def resume(file: ChainFile, keys: Keys, store: Store | None, kind: str) -> Resumed:
    """Find where the chain goes on, and let the file go on there; a new chain's name begins with `kind`.

    Asks the database, and blocks. Raises OSError.
    """
    resumed = Resumed()
    last, (host, path) = file.found.last, place(file)
    try:
        if store is not None:
            resumed.row = store.run_blocking(
                lambda db: rows.of_place(db, host, path) if last is None else rows.read(db, last.head.chain)
            )
            resumed.compared = True
    except StoreUnavailable as error:
        log.warning("the audit log can't be compared with the database: %s", error)
    row = resumed.row
    if last is None and row is None and not file.found.foreign:
        file.begin(Head(f"{kind}-{secrets.token_hex(8)}", 0, BEGINNING))
        resumed.first.append(entry("chain_started", at=time.time(), details={"host": host}))
        return resumed
    wrong = _wrong(file, keys, row)
    if row is not None and row.sequence > file.head.sequence:
        # The lines that are missing keep their numbers, so that they stay missing.
        file.begin(Head(row.chain, row.sequence, row.digest))
    elif last is None:
        file.begin(Head(f"{kind}-{secrets.token_hex(8)}", 0, BEGINNING))
    if file.found.elsewhere:
        why = {"why": "the one before was renamed"}
        resumed.first.append(entry("file_started", at=time.time(), details=why))
    if wrong is not None:
        resumed.broken = True
        resumed.first.append(broken(wrong))
    return resumed


def broken(details: dict[str, Detail]) -> Entry:
    """The event of a chain that is not as it was written; said in the application's log, too."""
    said = ", ".join(f"{name}: {value}" for name, value in details.items())
    log.error("the audit log is not as it was written: %s", said)
    return entry("chain_broken", at=time.time(), outcome="failed", details=details)


def place(file: ChainFile) -> tuple[str, str]:
    """The host and the file, as the database has them."""
    return socket.gethostname()[:255], os.path.abspath(file.path)  # noqa: PTH100 - a link keeps its name


def row_of(head: Head, file: ChainFile) -> HeadRow:
    host, path = place(file)
    return HeadRow(head.chain, head.sequence, head.digest, path, host, time.time())


def difference(file: ChainFile, row: HeadRow) -> dict[str, Detail] | None:
    """What is wrong with the file's lines by what the database was told of them; None where nothing is.

    The file may be ahead: a line is on the disk before the database hears of it. Raises OSError.
    """
    head = file.head
    if row.sequence > head.sequence:
        return {"what": "lines are missing at the end", "written": row.sequence, "found": head.sequence}
    digest = head.digest if row.sequence == head.sequence else file.digest_of(row.sequence)
    if digest is None:
        return {"what": "a line that was written is not here", "number": row.sequence}
    if digest != row.digest:
        return {"what": "a line is not the one that was written", "number": row.sequence}
    return None


def _wrong(file: ChainFile, keys: Keys, row: HeadRow | None) -> dict[str, Detail] | None:
    """What is wrong with a file as it was found, by itself and by what the database knows of its chain."""
    found = file.found
    if found.foreign:
        return {"what": "lines at the end are not ours", "lines": found.foreign}
    if found.last is None:
        return {"what": "the file is gone or empty", "written": 0 if row is None else row.sequence}
    authentic = found.last.authentic(keys)
    if authentic is False:
        return {"what": "the last line was changed", "number": found.last.head.sequence}
    if authentic is None:
        log.warning(
            "the last line of the audit log was written with another key (%s): name that one in "
            "PROXY_AUDIT_KEY after the new one, or it can't be verified",
            found.last.key,
        )
    return None if row is None else difference(file, row)
