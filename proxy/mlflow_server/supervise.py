"""MLflow kept running: start, readiness, restart with back-off, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxy import guard
from proxy.data_dir import layout
from proxy.errors import UserError
from proxy.mlflow_server import leftovers, readiness
from proxy.mlflow_server.command import command, environment
from proxy.mlflow_server.generation import Exit, Generation
from proxy.mlflow_server.keys import gateway_passphrase
from proxy.mlflow_server.output import Progress, masking, place_of, secrets_of
from proxy.settings.database import database_uri
from proxy.settings.fields import Settings

logger = logging.getLogger("proxy.mlflow_server")

REASONS = frozenset({"exited", "killed", "start_timeout", "guard_lost", "jobs_lost"})
"""Why MLflow was started again, a closed set: ``restarts`` and the metric have no other keys.

exited: by itself, whatever its code; killed: by a signal; start_timeout: not ready in
PROXY_MLFLOW_START_TIMEOUT; guard_lost: the guard was killed; jobs_lost: the job runner ended, which MLflow
itself never notices."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds before MLflow is started again: doubled each time, and short again after HEALTHY seconds of being
ready."""
HEALTHY = 60.0

JOBS_PATIENCE = 600.0
"""Seconds in which a lost job runner restarts MLflow once; a second loss is reported and no more, because one
that can't run must not take the tracking server down again and again."""

TICK = 1.0


class MlflowServer:
    """``mlflow server`` as our child. ``run`` keeps it running, ``stop`` ends it; everything else says how it
    is."""

    def __init__(
        self,
        settings: Settings,
        passthrough: Mapping[str, str],
        runtime: Path,
        jobs_port: int,
        jobs_token: str,
        observe: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.socket = runtime / "mlflow.sock"
        """Where requests go. Missing while nothing is ready; another file (another inode) with each
        generation."""
        self.ready = False
        self.generation = 0
        self.started_at: float | None = None
        """Unix time at which the running generation was started."""
        self.restarts: Counter[str] = Counter(dict.fromkeys(sorted(REASONS), 0))
        self._settings = settings
        self._passthrough = passthrough
        self._runtime = runtime
        self._jobs_port = jobs_port
        self._jobs_token = jobs_token
        self._observe = observe
        self._current: Generation | None = None
        self._state = "MLflow has not been started"
        self._database_problem: str | None = None
        self._jobs_problem: str | None = None
        self._jobs_lost_at: float | None = None
        self._ready_since: float | None = None
        self._became_ready = asyncio.Event()
        self._now_up = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._grace = settings.grace_seconds
        self._finished: asyncio.Event | None = None

    @property
    def pid(self) -> int | None:
        """Of ``mlflow server``; None while it does not run."""
        return self._current.pid if self._current is not None else None

    @property
    def reason(self) -> str:
        """Why it is not ready, for anybody to read; empty where it is."""
        if self.ready:
            return ""
        if self._current is None or self._current.over.done():
            return self._state
        if self._ready_since is not None:
            return self._database_problem or ""
        seconds = int(time.monotonic() - self._current.started)
        return f"MLflow is starting: {self._current.progress.step or 'loading'} ({seconds} s)"

    def checks(self) -> dict[str, str | None]:
        """Each check by name: None where it is good, else what is wrong, for anybody to read."""
        current = self._current
        running = current is not None and self._ready_since is not None and not current.over.done()
        mlflow = None if running else self.reason
        return {
            "mlflow": mlflow,
            "database": mlflow or self._database_problem,
            "jobs": mlflow or self._jobs_problem,
        }

    @property
    def up(self) -> bool:
        """Whether a generation has taken the socket: requests reach it, though its database may be away."""
        return self._now_up.is_set()

    async def wait_up(self, timeout: float) -> bool:  # noqa: ASYNC109 - False at the deadline, nothing raised
        """Wait until it is up; False where it is not after so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._now_up.wait(), timeout)
        return self.up

    async def wait_ready(self, timeout: float) -> bool:  # noqa: ASYNC109 - False at the deadline, nothing raised
        """Wait until MLflow is ready; False where it is not after so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._became_ready.wait(), timeout)
        return self.ready

    async def stop(self, grace: float) -> None:
        """End MLflow, within `grace` seconds in good order and by force after that; return when nothing is
        left."""
        self._grace = grace
        self._stop_asked.set()
        if self._finished is not None:
            await self._finished.wait()

    async def run(self) -> None:
        """Start MLflow and start it again whenever it ends, until stopped or cancelled; nothing is left after
        that.

        An earlier instance's processes are ended first: the data directory must be locked. Raises UserError
        where the settings can't be carried out at all, and nothing for what MLflow does.
        """
        self._finished = asyncio.Event()
        try:
            try:
                guard.become_subreaper()
            except OSError as error:
                raise UserError(f"MLflow can't be watched over here: {error}") from None
            where = layout(self._settings.data_dir)
            if killed := await leftovers.end_earlier(where.running_file):
                logger.warning("ended %d processes that an earlier instance had left", killed)
            values = environment(self._settings, self._passthrough, os.environ, self._jobs_token)
            values.update(gateway_passphrase(self._settings, values))
            delay = FIRST_DELAY
            while not self._stop_asked.is_set():
                over = await self._one_generation(values, where.running_file)
                if over is None:
                    break
                if self._ready_since is not None and time.monotonic() - self._ready_since >= HEALTHY:
                    delay = FIRST_DELAY
                self._report(over, delay)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_asked.wait(), delay)
                delay = min(delay * 2, LONGEST_DELAY)
            where.running_file.unlink(missing_ok=True)
        finally:
            self._unready("MLflow was stopped")
            self._current = None
            self._finished.set()

    def _report(self, over: Exit, delay: float) -> None:
        current = self._current
        assert current is not None
        self.restarts[over.reason] += 1
        step = f": {current.progress.step}" if current.progress.step else ""
        self._state = f"{over.text}{step}; it is started again in {delay:g} s"
        # What it said last is all there is to know why it could not start.
        said = list(current.last_lines) if self._ready_since is None else []
        logger.error("%s%s", self._state, "".join(f"\n    {line[:500]}" for line in said))
        self._observe(
            "restart",
            {
                "reason": over.reason,
                "text": over.text,
                "delay": delay,
                "generation": current.number,
                "was_ready": self._ready_since is not None,
                "lines": said,
            },
        )

    async def _one_generation(self, values: dict[str, str], running_file: Path) -> Exit | None:
        """Start MLflow and watch it; why it is over, or None where that was asked for."""
        self.generation += 1
        self._ready_since = self._database_problem = self._jobs_problem = None
        uri = database_uri(self._settings)
        mask = masking([*secrets_of(uri), uri, self._jobs_token])
        number = self.generation
        current = self._current = Generation(
            number,
            socket := self._runtime / f"g{number}.sock",
            command(self._settings, socket, self._jobs_port),
            values,
            self._grace,
            Progress(place_of(uri)),
            mask,
            lambda line: self._observe("line", {"text": line, "generation": number}),
        )
        grace = self._grace
        try:
            leftovers.write(running_file, current.marker, self._runtime, None)
            await current.start()
        except OSError as error:
            current.over.set_result(Exit("exited", f"MLflow could not be started: {error.strerror}"))
            return current.over.result()
        self.started_at = time.time()
        self._observe("starting", {"generation": number})
        try:
            over = await self._watch(current, place_of(uri), running_file)
            grace = self._grace if over is None else min(self._grace, guard.ORPHANED_GRACE)
            return over
        except BaseException:
            grace = guard.ORPHANED_GRACE  # cancelled: whoever does that does not wait for long
            raise
        finally:
            self._unready(self._state)
            await current.end(grace)

    async def _watch(self, current: Generation, database: str, running_file: Path) -> Exit | None:
        stop = asyncio.create_task(self._stop_asked.wait())
        serve = asyncio.create_task(self._serve(current, database, running_file))
        try:
            watched: set[asyncio.Future[Any]] = {stop, serve, current.over}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                self._state = "MLflow is being stopped"
                return None
            over = current.over.result() if current.over.done() else serve.result()
            self._state = over.text
            return over
        finally:
            for task in (stop, serve):
                task.cancel()
            await asyncio.gather(stop, serve, return_exceptions=True)

    async def _serve(self, current: Generation, database: str, running_file: Path) -> Exit:
        """Make it ready, then look after it; returns where it must be given up though it runs."""
        settings = self._settings
        answer = asyncio.create_task(readiness.first_answer(current.socket, settings.ready_timeout, database))
        try:
            while not (await asyncio.wait({answer}, timeout=TICK))[0]:
                if current.progress.migrating:
                    # A migration that is killed half-way can leave a database that nothing opens.
                    continue
                if time.monotonic() - current.started > settings.mlflow_start_timeout:
                    return Exit(
                        "start_timeout",
                        f"MLflow was not ready {settings.mlflow_start_timeout:g} s after its start "
                        "(PROXY_MLFLOW_START_TIMEOUT)",
                    )
            answer.result()
        finally:
            answer.cancel()
        await asyncio.to_thread(current.find_processes)
        if current.job_storage:
            try:
                leftovers.write(running_file, current.marker, self._runtime, current.job_storage)
            except OSError as error:  # a full disk is no reason to serve nobody
                logger.warning("%s can't be written: %s", running_file, error.strerror)
        current.socket.rename(self.socket)
        self._ready_since = time.monotonic()
        self._now_up.set()
        self._set_ready(True)
        seconds = round(self._ready_since - current.started, 1)
        logger.info("MLflow is ready (generation %d, pid %s, %.1f s)", current.number, current.pid, seconds)
        self._observe("ready", {"generation": current.number, "pid": current.pid, "seconds": seconds})
        probe = asyncio.create_task(self._probe(database))
        try:
            while True:
                await asyncio.wait({probe}, timeout=TICK)
                if probe.done():
                    probe.result()
                web_server, runner = current.web_server, current.job_runner
                if web_server is not None and not web_server.alive:
                    # Looked at first: its helpers follow it, and would be taken for the cause.
                    return Exit("exited", "MLflow's web server (uvicorn) has ended")
                if runner is not None and not runner.alive and self._jobs_lost(current):
                    return Exit("jobs_lost", "MLflow's job runner has ended, and MLflow goes on without jobs")
        finally:
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)

    async def _probe(self, database: str) -> None:
        """Ask again and again whether the database is reached, for as long as this generation lives."""
        while True:
            await asyncio.sleep(self._settings.ready_interval)
            problem = await readiness.database_problem(self.socket, self._settings.ready_timeout, database)
            if problem != self._database_problem:
                self._database_problem = problem
                if problem:
                    logger.warning("MLflow is not ready: %s", problem)
                else:
                    logger.info("MLflow is ready again")
                self._observe("database", {"problem": problem})
            self._set_ready(problem is None)

    def _jobs_lost(self, current: Generation) -> bool:
        """Whether the loss of the job runner is to restart MLflow."""
        now = time.monotonic()
        current.job_runner = None
        if self._jobs_lost_at is None or now - self._jobs_lost_at > JOBS_PATIENCE:
            self._jobs_lost_at = now
            return True
        self._jobs_problem = "MLflow's job runner has ended twice in ten minutes: jobs don't run"
        logger.error("%s; everything else does", self._jobs_problem)
        self._observe("jobs", {"problem": self._jobs_problem})
        return False

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        if ready:
            self._became_ready.set()
        else:
            self._became_ready.clear()

    def _unready(self, state: str) -> None:
        """Nothing is served any more: no connection may be made to what is ending."""
        self._state = state
        self._set_ready(False)
        self._now_up.clear()
        self.socket.unlink(missing_ok=True)
