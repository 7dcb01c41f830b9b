"""The generation in force: made ready, put in its place, and looked after until it is over or replaced."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxy.data_dir import layout
from proxy.mlflow_server.generation import Exit, Generation
from proxy.mlflow_server.plan import FRAME_OPTIONS, Plan, plan_of
from proxy.mlflow_server.probing import PROBLEMS, Probe
from proxy.mlflow_server.roll import swap
from proxy.mlflow_server.starts import Starts
from proxy.mlflow_server.state import State
from proxy.mlflow_server.upkeep import until_lost, until_ready
from proxy.settings.fields import Settings

logger = logging.getLogger("proxy.mlflow_server")

JOBS_PATIENCE = 600.0
"""Seconds in which a lost job runner restarts MLflow once; a second loss is reported and no more, because one
that can't run must not take the tracking server down again and again."""


class InForce(State, ABC):
    """One generation at a time has the socket; which settings it was started with, and how it does."""

    def __init__(
        self,
        settings: Settings,
        passthrough: Mapping[str, str],
        runtime: Path,
        jobs_port: int,
        jobs_token: str,
        observe: Callable[[str, dict[str, Any]], None],
    ) -> None:
        super().__init__(runtime / "mlflow.sock", observe)
        self.problems: Counter[str] = Counter(dict.fromkeys(sorted(PROBLEMS), 0))
        """How many times the probe began to see each (probing.PROBLEMS, a closed set)."""
        self.probe_seconds: float | None = None
        """How long the latest answer from the database took; None where none came."""
        self._settings = settings
        self._passthrough = passthrough
        self._running_file = layout(settings.data_dir).running_file
        self._starts = Starts(runtime, self._running_file, jobs_token, observe)
        self._jobs_port = jobs_port
        self._jobs_token = jobs_token
        self._plan: Plan | None = None
        self._stop_asked = asyncio.Event()
        self._jobs_lost_at: float | None = None
        self._replaced = asyncio.Event()
        """Set when a roll has put another generation in this one's place, until that is watched."""
        self._grace = settings.grace_seconds

    @property
    def generation(self) -> int:
        """The number of the latest start, whatever became of it."""
        return self._starts.number

    @property
    def frame_options(self) -> str:
        """MLflow's ``X-Frame-Options``; ``NONE`` where it says nothing of frames."""
        return FRAME_OPTIONS if self._plan is None else self._plan.frame_options

    def differs(self, settings: Settings, passthrough: Mapping[str, str]) -> bool:
        """Whether MLflow would be started in another way with these. Raises UserError as ``run`` does."""
        assert self._plan is not None
        plan = plan_of(settings, passthrough, self._jobs_port, self._jobs_token)
        return not self._plan.starts_the_same(plan)

    def adopt(self, settings: Settings) -> None:
        """Take these settings for what is looked at and waited for from now on; MLflow itself goes on."""
        assert self._plan is not None
        self._settings = settings
        self._grace = settings.grace_seconds
        self._plan = dataclasses.replace(self._plan, settings=settings)

    @abstractmethod
    def _stuck(self, seconds: float) -> None:
        """It has been stuck for so long; 0 where it is not."""

    def _planned(self) -> Plan:
        assert self._plan is not None
        return self._plan

    async def _watch(self, current: Generation) -> Exit | None:
        """Make it ready, then look after it, until it is over, the end is asked for or it is replaced."""
        stop = asyncio.create_task(self._stop_asked.wait())
        replaced = asyncio.create_task(self._replaced.wait())
        serve = asyncio.create_task(self._serve(current))
        try:
            watched: set[asyncio.Future[Any]] = {stop, replaced, serve, current.over}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                self._state = "MLflow is being stopped"
                return None
            if replaced.done():
                return None
            over = current.over.result() if current.over.done() else serve.result()
            self._state = over.text
            return over
        finally:
            for task in (stop, replaced, serve):
                task.cancel()
            await asyncio.gather(stop, replaced, serve, return_exceptions=True)

    async def _serve(self, current: Generation) -> Exit:
        """Make it ready, then look after it; returns where it must be given up though it runs."""
        plan = self._plan
        assert plan is not None
        if current.ready_since is None:
            if (failed := await until_ready(current, plan)) is not None:
                return failed
            self._take(current, plan)
        probe = asyncio.create_task(self._probe())
        lost = asyncio.create_task(until_lost(current, self._jobs_lost))
        try:
            await asyncio.wait({probe, lost}, return_when=asyncio.FIRST_COMPLETED)
            if probe.done():
                probe.result()
            return await lost
        finally:
            for task in (probe, lost):
                task.cancel()
            await asyncio.gather(probe, lost, return_exceptions=True)

    def _take(self, current: Generation, plan: Plan, old: Generation | None = None) -> None:
        """Have requests reach it, in the place of `old` where there is one."""
        self._current, self._plan, self._settings = current, plan, plan.settings
        self._grace = plan.settings.grace_seconds
        self.problem = self._database_problem = self._jobs_problem = None
        self.started_at = current.started_at
        self._starts.renote()
        if old is None:
            current.socket.rename(self.socket)
        else:
            swap(current, old, self.socket)
            self._replaced.set()
        current.ready_since = time.monotonic()
        self._now_up.set()
        self._set_ready(True)
        seconds = round(current.ready_since - current.started, 1)
        logger.info("MLflow is ready (generation %d, pid %s, %.1f s)", current.number, current.pid, seconds)
        self._observe("ready", {"generation": current.number, "pid": current.pid, "seconds": seconds})

    async def _probe(self) -> None:
        """Ask again and again whether the database is reached, for as long as this generation lives."""
        plan = self._planned()
        probe = Probe(
            self.socket,
            plan.uri,
            plan.settings.mlflow_workers,
            lambda: (self._settings.ready_interval, self._settings.ready_timeout),
            self.problems,
        )
        looks = probe.looks()
        try:
            async for found in looks:
                self.probe_seconds = probe.latency
                self._looked(found)
                self._stuck(probe.stuck_for)
        finally:
            await looks.aclose()

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
