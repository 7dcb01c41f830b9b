"""What the tests of the audit log share: a log over a real database, requests that end, and a reader."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from proxy.audit.commands import verify_audit
from proxy.audit.log import AuditLog, audit_file
from proxy.audit.reading import files_of
from proxy.audit.report import Report
from proxy.exchange import Exchange
from proxy.identity import Credential, Identity, Role
from proxy.operations import operation_of
from proxy.settings import Settings
from proxy.store import Store

RUN = "0123456789abcdef0123456789abcdef"
DELETE_RUN = ("POST", "/api/2.0/mlflow/runs/delete")
ADA = Identity("ada", Role.ADMIN, "token", "", "ada", Credential("c0ffee0123456789", "nightly"))


def settings(folder: Path, **values: Any) -> Settings:
    return Settings(data_dir=folder, **values)


@contextlib.asynccontextmanager
async def running(given: Settings) -> AsyncIterator[AuditLog]:
    """The log as the service has it, ended in good order."""
    store = await asyncio.to_thread(Store.open, given)
    try:
        log = await asyncio.to_thread(AuditLog, given, store)
        run = asyncio.create_task(log.run())
        try:
            yield log
        finally:
            run.cancel()
            await log.aclose()
    finally:
        store.close()


def write(given: Settings, number: int) -> None:
    """One life of the log, with so many deletions in it."""

    async def life() -> None:
        async with running(given) as log:
            for each in range(number):
                log.record("deletion", user="ada", target={"run_id": f"{each:032x}"})

    asyncio.run(life())


def exchange(
    method: str = "POST",
    path: str = "/api/2.0/mlflow/runs/delete",
    status: int = 200,
    identity: Identity | None = ADA,
    **more: Any,
) -> Exchange:
    """A request that is over, as the edge hands it in."""
    over = Exchange(method, path, time.perf_counter(), time.time())
    over.client, over.request_id = "192.0.2.7", "req-1"
    over.operation, over.identity, over.status = operation_of(method, path), identity, status
    for name, value in more.items():
        setattr(over, name, value)
    return over


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of one file that look like ours; none where there is no file."""
    found = []
    for line in (path.read_bytes() if path.exists() else b"").split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and "hmac" in said:
                found.append(said)
    return found


def all_lines(given: Settings) -> list[dict[str, Any]]:
    """Those of all the service's files, in the chain's order."""
    found = [line for path in files_of(audit_file(given)) for line in lines(path)]
    return sorted(found, key=lambda line: line["sequence"])


def events(given: Settings) -> list[str]:
    return [line["event"] for line in all_lines(given)]


def kinds(report: Report) -> list[str]:
    return [finding.kind for finding in report.findings]


def whole(given: Settings) -> None:
    """Nothing is wrong with what was written."""
    report = verify_audit(given)
    assert (report.findings, report.unsure, report.exit_code) == ([], [], 0)


async def until(right: Callable[[], bool], patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not right():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.02)
