"""What commands do with the audit log: a chain of their own beside the service's, and the verification."""

from __future__ import annotations

import logging
import os
import pwd
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.audit import heads
from proxy.audit.entry import Entry, entry
from proxy.audit.events import NO_AUDIT, Audit, Detail, Event, Outcome
from proxy.audit.file import ChainFile
from proxy.audit.keys import Keys, audit_keys
from proxy.audit.log import audit_file
from proxy.audit.reading import files_of
from proxy.audit.report import Report
from proxy.audit.verify import verify
from proxy.errors import UserError
from proxy.logs.lines import printable
from proxy.store import Store, StoreUnavailable
from proxy.store import audit as rows
from proxy.store.audit import HeadRow

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.settings import Settings

log = logging.getLogger("proxy.audit")

_WAIT_SECONDS = 10.0  # for another command that is writing


def commands_file(settings: Settings) -> Path:
    """The commands' current file, beside the service's."""
    path = audit_file(settings)
    return path.with_name(f"{path.stem}-commands{path.suffix}")


@contextmanager
def commands_audit(settings: Settings) -> Iterator[Audit]:
    """The audit log for one command: what is recorded is written when the block ends, also by an exception.

    Where there is no data directory yet there is no service whose log it would be, and nothing is written.
    Raises UserError where the log can't be opened (before anything is done) or written (after it).
    """
    if not settings.audit or (settings.audit_file is None and not settings.data_dir.is_dir()):
        yield NO_AUDIT
        return
    keys = audit_keys(settings, make=True)
    file = ChainFile(commands_file(settings), keys, settings.audit_max_size, wait=_WAIT_SECONDS)
    try:
        events = _Commands()
        try:
            yield events
        finally:
            if events.pending:
                _write(settings, file, keys, events.pending)
    finally:
        file.close()


class _Commands:
    """Keeps what a command records until it ends."""

    def __init__(self) -> None:
        self.pending: deque[Entry] = deque()
        self._user = machine_user(os.getuid())

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
        """As Audit.record. Who acted is the user of this machine, whatever is said."""
        details.setdefault("sudo", os.environ.get("SUDO_USER"))
        self.pending.append(
            entry(
                event,
                at=time.time(),
                exchange=exchange,
                user=self._user,
                auth="command",
                credential=credential,
                client=client,
                target=target,
                outcome=outcome,
                details=details,
            )
        )


def machine_user(uid: int) -> str:
    """What a user of this machine is called."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _write(settings: Settings, file: ChainFile, keys: Keys, pending: deque[Entry]) -> None:
    """Write them after what is there, and tell the database of the last one."""
    store: Store | None = None
    try:
        try:
            store = Store.open(settings)
        except UserError as error:
            log.warning("the database can't be told of the audit log's newest line: %s", error)
        resumed = heads.resume(file, keys, store, "commands")
        pending.extendleft(reversed(resumed.first))
        file.append(pending)
        if store is not None and resumed.compared:
            new = heads.row_of(file.head, file)
            store.run_blocking(lambda db: rows.advance(db, new, resumed.row))
    except OSError as error:
        raise UserError(
            f"PROXY_AUDIT_FILE: what was done could not be written to {file.path} ({error.strerror})"
        ) from None
    except StoreUnavailable as error:
        log.warning("the database can't be told of the audit log's newest line: %s", error)
    finally:
        if store is not None:
            store.close()


def verify_audit(settings: Settings, files: Sequence[Path] = (), *, everything: bool = False) -> Report:
    """Look at these files; without any, at all of the service and the commands that lie where they are
    written. With `everything`, the database's chains of all hosts have to be among them, from their first
    lines on. Raises UserError."""
    keys = audit_keys(settings, make=False)
    found = _every_head(settings)
    service = audit_file(settings)
    chosen = list(files) or _listed(settings)
    here = (socket.gethostname()[:255], os.path.abspath(service.parent))  # noqa: PTH100 - as heads.place
    if not chosen and not any((row.host, str(Path(row.file).parent)) == here for row in found or ()):
        raise UserError(f"there is no {service} (PROXY_AUDIT_FILE): no audit log was written there yet")
    while True:
        report = verify(chosen, keys, found, here=here, everything=everything, only=bool(files))
        if files or (now := _listed(settings)) == chosen:
            return report
        chosen = now  # the service has begun a new file meanwhile


def _every_head(settings: Settings) -> list[HeadRow] | None:
    """What the database knows; None where it does not answer."""
    try:
        store = Store.open(settings)
    except UserError as error:
        log.warning("%s", error)
        return None
    try:
        return store.run_blocking(rows.every)
    except StoreUnavailable as error:
        log.warning("the database does not answer: %s", error)
        return None
    finally:
        store.close()


def _listed(settings: Settings) -> list[Path]:
    return [*files_of(audit_file(settings)), *files_of(commands_file(settings))]


_OUTCOMES = {
    0: "as they were written",
    3: "NOT as they were written",
    4: "nothing wrong in what could be verified",
}


def text(report: Report) -> str:
    """The report for a person, a line each; the last one says what came of it."""
    said = [str(finding) for finding in report.findings]
    said += [f"note: {note}" for note in report.notes]
    said += [f"not verified: {unsure}" for unsure in report.unsure]
    said += [f"{name}: up to line {head.sequence}" for name, head in sorted(report.chains.items())]
    said.append(f"{report.lines} lines: {_OUTCOMES[report.exit_code]}")
    # What is in a line may be a stranger's text, and a terminal obeys control characters.
    return "\n".join(printable(line) for line in said)
