"""MLflow's jobs when one generation follows another: who submits one, and the end of the old job runner."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator

from proxy import guard
from proxy.mlflow_server.generation import Generation, Process

_CONSUMER = "huey.bin.huey_consumer"
_NAME, _ID = "_MLFLOW_SERVER_JOB_NAME", "_MLFLOW_SERVER_JOB_ID"  # mlflow/server/jobs/utils.py

LOOK = 0.5
"""Seconds between two looks whether a job is under way."""
POLITE = 1.0
"""Seconds that a job which is cut off gets between SIGTERM and SIGKILL."""


class Submissions:
    """The requests that submit a job. They wait while `paused`: only for as long as it takes that each job
    belongs to the one generation or to the other."""

    def __init__(self) -> None:
        self.under_way = 0
        self._open = asyncio.Event()
        self._open.set()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def paused(self) -> bool:
        return not self._open.is_set()

    async def wait(self, seconds: float) -> bool:
        """Wait until they are not paused; False where they still are after so many seconds."""
        return await _within(self._open, seconds)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Around the sending of such a request, up to the end of its answer. To be entered in the same step
        in which `paused` was seen to be false."""
        self.under_way += 1
        self._none.clear()
        try:
            yield
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._none.set()

    async def pause(self, seconds: float) -> None:
        """Let no further one begin, and wait for those under way, no longer than so many seconds."""
        self._open.clear()
        await _within(self._none, seconds)

    def resume(self) -> None:
        self._open.set()


async def _within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


async def end_runner(old: Generation, patience: float, hurry: asyncio.Event) -> list[str]:
    """End a generation's job runner with its jobs, while its web server goes on; the jobs that were cut off.

    A job under way has `patience` seconds to end by itself, less where `hurry` is set. One that is cut off
    stays RUNNING in the database, and the next job runner runs it again.
    """
    runner = old.job_runner
    if runner is None or not runner.alive:
        return []
    deadline = time.monotonic() + patience
    while not hurry.is_set() and (left := deadline - time.monotonic()) > 0:
        if not await asyncio.to_thread(_jobs, runner):
            break
        await _within(hurry, min(LOOK, left))
    return await asyncio.to_thread(_end, runner)


def _children(*roots: int) -> dict[int, bytes]:
    """The descendants and what each was started as."""
    found = {}
    for pid in guard.descendants(*roots):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            found[pid] = file.read()
    return found


def _jobs(runner: Process) -> list[Process]:
    """What runs below a job runner that is not one of its consumers."""
    below = _children(runner.pid)
    return [
        Process(pid, known[3])
        for pid, line in below.items()
        if _CONSUMER.encode() not in line and (known := guard.stat(pid))
    ]


def _end(runner: Process) -> list[str]:
    """Kill the runner and its consumers, then end the jobs. In this order: a consumer that sees its job end
    by a signal writes into the database that it has failed (mlflow/server/jobs/utils.py, _exec_job)."""
    if not runner.alive:
        return []
    # Stopped, none can start anything while we look; the runner would start a new consumer.
    guard.send([runner.pid], signal.SIGSTOP)
    below = _children(runner.pid)
    consumers = [pid for pid, line in below.items() if _CONSUMER.encode() in line]
    guard.send(consumers, signal.SIGSTOP)
    jobs = _jobs(runner)
    cut = _names(jobs)
    helpers = [Process(pid, known[3]) for pid in (runner.pid, *consumers) if (known := guard.stat(pid))]
    guard.send([process.pid for process in helpers], signal.SIGKILL)
    _wait(helpers, None)
    guard.send([job.pid for job in jobs if job.alive], signal.SIGTERM)
    _wait(jobs, POLITE)
    guard.send([job.pid for job in jobs if job.alive], signal.SIGKILL)
    _wait(jobs, None)
    return cut


def _wait(processes: list[Process], seconds: float | None) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while any(process.alive for process in processes):
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _names(jobs: list[Process]) -> list[str]:
    found = {}
    for job in jobs:
        environment = guard.environment_of(job.pid)
        if key := environment.get(_ID):
            found[key] = f"{environment.get(_NAME, 'job')} {key}"
    return sorted(found.values())
