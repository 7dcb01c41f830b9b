"""One start of ``mlflow server`` with its guard: the processes, what they say, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy import guard
from proxy.mlflow_server import leftovers
from proxy.mlflow_server.command import MARKER
from proxy.mlflow_server.output import Lines, Progress

KILL_GRACE = 3.0
"""Seconds beyond its grace that a guard gets before it is killed and its work done here."""

_JOB_RUNNERS = {b"mlflow.server.jobs._job_runner", b"mlflow.server.jobs._executor_runner"}


REASONS = frozenset({"exited", "killed", "start_timeout", "guard_lost", "jobs_lost"})
"""Why MLflow was started again, a closed set: ``restarts`` and the metric have no other keys.

exited: by itself, whatever its code; killed: by a signal; start_timeout: not ready in
PROXY_MLFLOW_START_TIMEOUT; guard_lost: the guard was killed; jobs_lost: the job runner ended, which MLflow
itself never notices."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a generation is over."""

    reason: str
    """From REASONS."""
    text: str
    """The same for a person."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that can't be mistaken for a later one with its pid."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        known = guard.stat(self.pid)
        return known is not None and known[0] not in "ZX" and known[3] == self.started


class Generation:
    """Started once, ended once; everything it started is gone when ``end`` has returned."""

    def __init__(
        self,
        number: int,
        socket: Path,
        command: list[str],
        environment: dict[str, str],
        grace: float,
        progress: Progress,
        mask: Callable[[str], str],
        take: Callable[[str], None],
    ) -> None:
        self.number = number
        self.socket = socket
        """The path that this generation binds, before it is renamed."""
        self.marker = secrets.token_hex(16)
        self.progress = progress
        self.pid: int | None = None
        """Of ``mlflow server``."""
        self.started = time.monotonic()
        self.started_at = time.time()
        """The same as Unix time."""
        self.last_lines: deque[str] = deque(maxlen=20)
        self.ready_since: float | None = None
        """When it took the socket (monotonic); None while it has not."""
        self.over: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        """Set as soon as ``mlflow server`` or its guard is gone; ``end`` is still to be called."""
        self.web_server: Process | None = None
        self.job_runner: Process | None = None
        self.job_storage: str | None = None
        self._command = command
        self._environment = {**environment, MARKER: self.marker}
        self._grace = grace
        self._mask = mask
        self._take = take
        self._orderly = False
        self._ended = asyncio.Lock()
        self._transports: list[asyncio.BaseTransport] = []

    async def start(self) -> None:
        """Start the guard, which starts MLflow. Raises OSError where that can't be done."""
        # Each end that is ours is closed in the guard and in every other child, now and later (PEP 446): were
        # the life line's end to leak, our death would not be seen.
        life, self._life = os.pipe()
        said, status = os.pipe()
        printed, output = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a few milliseconds, and asyncio would keep a pipe end
                [sys.executable, "-I", "-S", guard.__file__, str(self._grace), *self._command],
                stdin=life,
                stdout=status,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        except OSError:
            for end in (self._life, said, printed):
                os.close(end)
            raise
        finally:
            for end in (life, status, output):
                os.close(end)
        self._output = await self._read(printed, self._on_line)
        self._status = await self._read(said, self._on_status)
        self._status.ended.add_done_callback(
            lambda _: self._over(Exit("guard_lost", "the guard process of MLflow was killed"))
        )

    async def _read(self, end: int, take: Callable[[str], None]) -> Lines:
        loop = asyncio.get_running_loop()
        file = os.fdopen(end, "rb", buffering=0)
        transport, protocol = await loop.connect_read_pipe(lambda: Lines(take), file)
        self._transports.append(transport)
        return protocol

    def _on_line(self, line: str) -> None:
        line = self._mask(line)
        self.progress.read(line)
        self.last_lines.append(line)
        self._take(line)

    def _on_status(self, line: str) -> None:
        said: dict[str, Any] = json.loads(line)
        if said["event"] == "started":
            self.pid = said["pid"]
        elif said["event"] == "ended":
            self._orderly = True
        elif "signal" in said:
            self._over(Exit("killed", f"MLflow was ended by signal {said['signal']}"))
        elif "code" in said:
            self._over(Exit("exited", f"MLflow ended by itself (exit code {said['code']})"))
        else:
            self._orderly = True
            self._over(Exit("exited", f"MLflow could not be started: {said['error']}"))

    def _over(self, why: Exit) -> None:
        # The first to be told is the cause; what the guard ends after that is not.
        if not self.over.done():
            self.over.set_result(why)

    def give_up(self, why: Exit) -> None:
        """Have it count as over, though it runs."""
        self._over(why)

    def find_processes(self) -> None:
        """Find uvicorn and the job runner, ``mlflow server``'s children, and where the job queues are.

        The job runner's end MLflow never notices, and uvicorn's it takes seconds to follow.
        """
        for pid in guard.descendants(self._process.pid):
            known = guard.stat(pid)
            if known is None or known[1] != self.pid:
                continue
            if self.job_storage is None:
                self.job_storage = guard.environment_of(pid).get(guard.JOB_STORAGE)
            with contextlib.suppress(OSError):
                arguments = set(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
                if arguments & _JOB_RUNNERS:
                    self.job_runner = Process(pid, known[3])
                elif b"uvicorn" in arguments:
                    self.web_server = Process(pid, known[3])

    async def end(self, grace: float) -> None:
        """End all of it, in good order within `grace` seconds and by force after that."""
        async with self._ended:
            if self._life < 0:
                return
            try:
                with contextlib.suppress(OSError):
                    os.write(self._life, f"stop {grace}\n".encode())
                patience = grace + guard.REST_GRACE + KILL_GRACE
                try:
                    await asyncio.wait_for(asyncio.shield(self._status.ended), patience)
                except TimeoutError:
                    self._process.kill()
                await asyncio.to_thread(self._process.wait)
                if not self._orderly:
                    storage = [self.job_storage] if self.job_storage else []
                    await leftovers.end(self.marker, self._process.pid, storage)
                elif self.job_storage:
                    guard.remove_job_storage(self.job_storage)
                # The last words of what has ended are in the pipe, and nobody else holds its other end now.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(self._output.ended), 1)
            finally:
                # Where we were cancelled, this alone makes the guard end everything.
                os.close(self._life)
                self._life = -1
                for transport in self._transports:
                    transport.close()
                self.socket.unlink(missing_ok=True)
