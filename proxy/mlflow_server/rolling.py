"""Rolling restarts as the supervisor has them: asked for, or needed by an MLflow that is stuck."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from proxy.errors import UserError
from proxy.mlflow_server.generation import REASONS, Exit
from proxy.mlflow_server.in_force import InForce
from proxy.mlflow_server.jobs import Submissions
from proxy.mlflow_server.plan import Plan, plan_of
from proxy.mlflow_server.probing import Replacing
from proxy.mlflow_server.roll import SUBMIT_PATIENCE, Roll, Rolled
from proxy.mlflow_server.upkeep import TICK
from proxy.settings.fields import Settings

logger = logging.getLogger("proxy.mlflow_server")


class Rolling(InForce):
    """At most one rolling restart at a time."""

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
        self.restarts: Counter[str] = Counter(dict.fromkeys(sorted(REASONS), 0))
        """How many times MLflow was started again."""
        self.rolls: Counter[str] = Counter({"done": 0, "failed": 0})
        """Rolling restarts by what became of them, a closed set."""
        self.submissions = Submissions()
        self._roll: Roll | None = None
        self._replacing = Replacing()
        self._replacement: asyncio.Task[None] | None = None

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
        logger.error("%s%s", text, indented(said))
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

    async def _end_roll(self) -> None:
        if (roll := self._roll) is None or roll.task is None:
            return
        roll.hurry.set()
        if not self._stop_asked.is_set():
            roll.task.cancel()
        await asyncio.gather(roll.task, return_exceptions=True)

    def _stuck(self, seconds: float) -> None:
        if self._replacing.due(seconds, self._settings.stuck_restart) and self._roll is None:
            logger.error(
                "MLflow has been stuck for %.0f s and is replaced (PROXY_STUCK_RESTART): %s",
                seconds,
                self._database_problem,
            )
            self._replacement = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        # What became of it is in the log.
        with contextlib.suppress(UserError):
            await self.roll()


def indented(lines: Iterable[str]) -> str:
    """Lines of MLflow's for our log, below one of ours."""
    return "".join(f"\n    {line[:500]}" for line in lines)
