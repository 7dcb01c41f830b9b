"""Processes of MLflow that no guard ends any more: how they are known, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxy import guard, private_file, runtime_dir
from proxy.mlflow_server.command import MARKER

logger = logging.getLogger("proxy.mlflow_server")


def members(marker: str, session: int | None = None) -> list[int]:
    """The living processes of a start of MLflow: all that carry its marker, are in its session, or descend
    from such.

    The marker is random, so that a pid used again for something else is not mistaken for one of them.
    """
    found = []
    for pid in guard.processes():
        known = guard.stat(pid)
        if known is None or known[0] in "ZX" or pid == os.getpid():
            continue
        if (session is not None and known[2] == session) or guard.environment_of(pid).get(MARKER) == marker:
            found.append(pid)
    return found + guard.descendants(*found)


async def end(marker: str, session: int | None = None, storage: Iterable[str] = ()) -> int:
    """Kill what is left of a start of MLflow, reap what came to us, remove its job queues; how many were
    killed."""
    directories = set(storage)
    killed: set[int] = set()
    while found := await asyncio.to_thread(members, marker, session):
        directories.update(
            path for pid in found if (path := guard.environment_of(pid).get(guard.JOB_STORAGE))
        )
        guard.send(found, signal.SIGKILL)
        killed.update(found)
        await asyncio.sleep(0.02)
        _reap(killed, session)
    _reap(killed, session)
    for path in directories:
        guard.remove_job_storage(path)
    return len(killed)


def _reap(pids: set[int], session: int | None) -> None:
    """Take those of our children that are named or in that session; the others have owners who wait."""
    for pid in guard.processes():
        state, parent, its_session, _ = guard.stat(pid) or ("", 0, 0, 0)
        if state != "Z" or parent != os.getpid():
            continue
        if pid in pids or its_session == session != pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


@dataclass(frozen=True, slots=True)
class Start:
    """One start of MLflow, as it is noted."""

    marker: str
    storage: str | None
    """Where its job queues are, as far as that is known."""


def write(file: Path, runtime: Path, starts: Iterable[Start]) -> None:
    """Note what is running, for a start after we and the guard were killed at once. Raises OSError."""
    noted = {"runtime": str(runtime), "starts": [asdict(start) for start in starts]}
    private_file.write(file, json.dumps(noted).encode() + b"\n")


async def end_earlier(file: Path) -> int:
    """End what an earlier instance on this data directory left, and forget it; how many processes were
    killed.

    To be called with the data directory locked: nobody else's processes can be meant then.
    """
    try:
        noted: dict[str, Any] = json.loads(file.read_bytes())
        runtime = Path(noted["runtime"])
        starts = [Start(str(start["marker"]), start["storage"]) for start in noted["starts"]]
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError):
        logger.warning("%s can't be read: what an earlier instance left, if anything, is not ended", file)
        return 0
    killed = 0
    for start in starts:
        killed += await end(start.marker, storage=[start.storage] if start.storage else [])
    runtime_dir.remove(runtime)
    file.unlink(missing_ok=True)
    return killed
