"""MLflow kept running: start, readiness, restart with back-off, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from proxy import guard
from proxy.data_dir import layout
from proxy.errors import UserError
from proxy.mlflow_server import leftovers
from proxy.mlflow_server.delays import Delays
from proxy.mlflow_server.generation import Exit, Generation
from proxy.mlflow_server.jobs import Submissions
from proxy.mlflow_server.migrating import Migrating
from proxy.mlflow_server.plan import FRAME_OPTIONS, Plan, plan_of
from proxy.mlflow_server.probing import PROBLEMS, Probe, Replacing
from proxy.mlflow_server.roll import SUBMIT_PATIENCE, Roll, Rolled, swap
from proxy.mlflow_server.starts import Starts
from proxy.mlflow_server.state import State
from proxy.mlflow_server.upkeep import TICK, until_lost, until_ready
from proxy.settings.fields import Settings

logger = logging.getLogger("proxy.mlflow_server")

REASONS = frozenset({"exited", "killed", "start_timeout", "guard_lost", "jobs_lost"})
"""Why MLflow was started again, a closed set: ``restarts`` and the metric have no other keys.

exited: by itself, whatever its code; killed: by a signal; start_timeout: not ready in
PROXY_MLFLOW_START_TIMEOUT; guard_lost: the guard was killed; jobs_lost: the job runner ended, which MLflow
itself never notices."""

JOBS_PATIENCE = 600.0
"""Seconds in which a lost job runner restarts MLflow once; a second loss is reported and no more, because one
that can't run must not take the tracking server down again and again."""


class MlflowServer(State):
    """``mlflow server`` as our child. ``run`` keeps it running, ``roll`` puts another one in its place and
    ``stop`` ends it; everything else says how it is."""

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
        self.restarts: Counter[str] = Counter(dict.fromkeys(sorted(REASONS), 0))
        self.rolls: Counter[str] = Counter({"done": 0, "failed": 0})
        """Rolling restarts by what became of them, a closed set."""
        self.problems: Counter[str] = Counter(dict.fromkeys(sorted(PROBLEMS), 0))
        """How many times the probe began to see each (probing.PROBLEMS, a closed set)."""
        self.probe_seconds: float | None = None
        """How long the latest answer from the database took; None where none came."""
        self.submissions = Submissions()
        self._settings = settings
        self._passthrough = passthrough
        self._running_file = layout(settings.data_dir).running_file
        self._starts = Starts(runtime, self._running_file, jobs_token, observe)
        self._jobs_port = jobs_port
        self._jobs_token = jobs_token
        self._plan: Plan | None = None
        self._roll: Roll | None = None
        self._stop_asked = asyncio.Event()
        self._migrating = Migrating(self._starts, self._stop_asked, self._wait_for, self._show)
        self._replacing = Replacing()
        self._replacement: asyncio.Task[None] | None = None
        self._jobs_lost_at: float | None = None
        self._replaced = asyncio.Event()
        self._grace = settings.grace_seconds
        self._finished: asyncio.Event | None = None

    @property
    def generation(self) -> int:
        """The number of the latest start, whatever became of it."""
        return self._starts.number

    @property
    def frame_options(self) -> str:
        """MLflow's ``X-Frame-Options``; ``NONE`` where it says nothing of frames."""
        return FRAME_OPTIONS if self._plan is None else self._plan.frame_options

    async def stop(self, grace: float) -> None:
        """End MLflow, within `grace` seconds in good order and by force after that; return when nothing is
        left."""
        self._grace = grace
        self._stop_asked.set()
        if self._roll is not None:
            self._roll.hurry.set()
        if self._finished is not None:
            await self._finished.wait()

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

    async def roll(
        self,
        settings: Settings | None = None,
        passthrough: Mapping[str, str] | None = None,
        taken: Callable[[], None] = lambda: None,
    ) -> Rolled:
        """Start a second MLflow beside the first and, once it is ready, let it take the first one's place.

        With these settings, or with those in force. `taken` is called in the step in which requests begin to
        reach it. Returns when the first one has finished its requests and is gone; one that does not become
        ready is ended, and nothing has changed then. Where MLflow is not up, it is started anew with these
        settings, and they stay. Raises UserError where the settings can't be carried out at all.
        """
        if self._plan is None or self._stop_asked.is_set():
            return Rolled(False, "MLflow is not running")
        if self._roll is not None:
            return Rolled(False, "a rolling restart is under way already")
        plan = plan_of(
            settings or self._settings,
            self._plan.passthrough if passthrough is None else passthrough,
            self._jobs_port,
            self._jobs_token,
        )
        if not self.up:
            return await self._start_anew(plan, taken)
        roll = self._roll = Roll(self._starts, plan)
        # Whoever waits may go away; what was begun is ended in good order.
        roll.task = asyncio.create_task(self._rolling(roll, taken))
        return await asyncio.shield(roll.task)

    async def _rolling(self, roll: Roll, taken: Callable[[], None]) -> Rolled:
        old = None
        try:
            logger.info("a rolling restart of MLflow has begun (generation %d)", roll.heir.number)
            if (failed := await roll.prepare()) is not None:
                return self._not_rolled(roll, failed)
            try:
                await self.submissions.pause(SUBMIT_PATIENCE)
                if self._stop_asked.is_set() or roll.heir.over.done():
                    await roll.discard()
                    return self._not_rolled(roll, Exit("exited", "the new MLflow ended as it was ready"))
                old, grace = self._known(), self._grace
                roll.jobs_over.clear()
                moment = int(time.time() * 1000)
                self._take(roll.heir, roll.plan, old)
                taken()
                roll.decided.set()
                await asyncio.sleep(0.002)  # what is submitted from now on is later than `moment`
            finally:
                self.submissions.resume()
            cut = await roll.retire(old, grace, moment)
            text = f"MLflow's generation {roll.heir.number} has taken the place of {old.number}"
            if cut:
                text += f"; jobs cut off and run again: {', '.join(cut)}"
            self.rolls["done"] += 1
            logger.info("%s", text)
            self._observe("rolled", {"generation": roll.heir.number, "cut": cut})
            return Rolled(True, text)
        except asyncio.CancelledError:
            if old is None:
                await roll.discard()
            raise
        finally:
            roll.decided.set()
            self._roll = None

    def _not_rolled(self, roll: Roll, failed: Exit) -> Rolled:
        step = f": {roll.heir.progress.step}" if roll.heir.progress.step else ""
        text = f"the new MLflow was given up, and the old one stays: {failed.text}{step}"
        said = tuple(roll.heir.last_lines)
        self.rolls["failed"] += 1
        logger.error("%s%s", text, _indented(said))
        self._observe("roll_failed", {"text": text, "lines": list(said)})
        return Rolled(False, text, said)

    async def _start_anew(self, plan: Plan, taken: Callable[[], None]) -> Rolled:
        """There is nothing to be kept up: what is starting is ended, and the next start is with this plan."""
        if self._current is not None and self._current.number == 0:
            return Rolled(False, "the database is being migrated")
        self._plan, self._settings = plan, plan.settings
        taken()
        failures = self.restarts.total() + 1
        if self._current is not None and not self._current.over.done():
            self._current.give_up(Exit("exited", "MLflow is started anew with other settings"))
            failures += 1
        deadline = time.monotonic() + plan.settings.mlflow_start_timeout
        while self.restarts.total() < failures and time.monotonic() < deadline:
            if await self.wait_ready(TICK):
                break
        if self.ready:
            return Rolled(True, f"MLflow was started anew (generation {self.generation})")
        said = () if self._current is None else tuple(self._current.last_lines)
        return Rolled(False, f"MLflow was started anew and is not ready: {self.reason}", said)

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
            if killed := await leftovers.end_earlier(self._running_file):
                logger.warning("ended %d processes that an earlier instance had left", killed)
            self._plan = plan_of(self._settings, self._passthrough, self._jobs_port, self._jobs_token)
            delays = Delays()
            while not self._stop_asked.is_set():
                if (ended := await self._generations()) is None:
                    break
                current, over = ended
                since = current.ready_since
                delay = delays.after(None if since is None else time.monotonic() - since)
                self._report(current, over, delay)
                await self._pause(delay)
        finally:
            await self._end_roll()
            if self._plan is not None:
                self._starts.forget()
            self._unready("MLflow was stopped")
            self._current = None
            self._finished.set()

    async def _end_roll(self) -> None:
        if (roll := self._roll) is None or roll.task is None:
            return
        roll.hurry.set()
        if not self._stop_asked.is_set():
            roll.task.cancel()
        await asyncio.gather(roll.task, return_exceptions=True)

    async def _pause(self, delay: float) -> None:
        """Wait before MLflow is started again; no longer where a roll has one that is about to be ready."""
        stop = asyncio.create_task(self._stop_asked.wait())
        try:
            if (roll := self._roll) is not None and not roll.decided.is_set():
                decided = asyncio.create_task(roll.decided.wait())
                await asyncio.wait({stop, decided}, return_when=asyncio.FIRST_COMPLETED)
                decided.cancel()
            if not self._replaced.is_set():
                await asyncio.wait({stop}, timeout=delay)
            if roll is not None and not self._replaced.is_set():
                # Two job runners at once would run the same jobs.
                roll.hurry.set()
                await roll.jobs_over.wait()
        finally:
            stop.cancel()

    def _report(self, current: Generation, over: Exit, delay: float) -> None:
        self.restarts[over.reason] += 1
        step = f": {current.progress.step}" if current.progress.step else ""
        state = f"{over.text}{step}; it is started again in {delay:g} s"
        if not self._replaced.is_set():
            self._state = state
        # What it said last is all there is to know why it could not start.
        said = list(current.last_lines) if current.ready_since is None else []
        logger.error("%s%s", state, _indented(said))
        self._observe(
            "restart",
            {
                "reason": over.reason,
                "text": over.text,
                "delay": delay,
                "generation": current.number,
                "was_ready": current.ready_since is not None,
                "lines": said,
            },
        )

    async def _generations(self) -> tuple[Generation, Exit] | None:
        """Start MLflow, unless a roll has done so, and watch it and those that rolls put in its place: the
        last one and why it is over, or None where that was asked for."""
        plan = self._planned()
        if not self._replaced.is_set():
            if not await self._migrating.settle(plan):
                return None
            plan = self._planned()  # which may have changed meanwhile
            self._current = self._starts.new(plan)
            if (failed := await self._starts.begin(self._current)) is not None:
                return self._current, failed
        grace = guard.ORPHANED_GRACE  # where we are cancelled: whoever does that does not wait for long
        try:
            while True:
                self._replaced.clear()
                over = await self._watch(current := self._known())
                if current is self._current:
                    break
            grace = self._grace if over is None else min(self._grace, guard.ORPHANED_GRACE)
            return None if over is None else (current, over)
        finally:
            # A roll may have put another one here in the step in which we were cancelled.
            ending = self._known()
            self._unready(self._state)
            await self._starts.end(ending, grace)

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
                if self._replacing.due(probe.stuck_for, self._settings.stuck_restart) and self._roll is None:
                    logger.error(
                        "MLflow has been stuck for %.0f s and is replaced (PROXY_STUCK_RESTART): %s",
                        probe.stuck_for,
                        self._database_problem,
                    )
                    self._replacement = asyncio.create_task(self._replace())
        finally:
            await looks.aclose()

    async def _replace(self) -> None:
        # What became of it is in the log.
        with contextlib.suppress(UserError):
            await self.roll()

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


def _indented(lines: Iterable[str]) -> str:
    return "".join(f"\n    {line[:500]}" for line in lines)
