"""MLflow kept running: start, readiness, restart with back-off, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proxy import guard
from proxy.errors import UserError
from proxy.mlflow_server import leftovers
from proxy.mlflow_server.delays import Delays
from proxy.mlflow_server.generation import Exit, Generation
from proxy.mlflow_server.migrating import Migrating
from proxy.mlflow_server.plan import plan_of
from proxy.mlflow_server.rolling import Rolling, indented
from proxy.settings.fields import Settings

logger = logging.getLogger("proxy.mlflow_server")


class MlflowServer(Rolling):
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
        super().__init__(settings, passthrough, runtime, jobs_port, jobs_token, observe)
        self._migrating = Migrating(self._starts, self._stop_asked, self._wait_for, self._show)
        self._finished: asyncio.Event | None = None

    async def stop(self, grace: float) -> None:
        """End MLflow, within `grace` seconds in good order and by force after that; return when nothing is
        left."""
        self._grace = grace
        self._stop_asked.set()
        if self._roll is not None:
            self._roll.hurry.set()
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
        logger.error("%s%s", state, indented(said))
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
