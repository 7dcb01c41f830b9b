"""A rolling restart: a second MLflow beside the first, ready before it takes over; the first one's end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from proxy import guard
from proxy.mlflow_server import jobs, readiness, schema
from proxy.mlflow_server.generation import Exit, Generation
from proxy.mlflow_server.migrating import fits
from proxy.mlflow_server.plan import Plan
from proxy.mlflow_server.starts import Starts
from proxy.mlflow_server.upkeep import until_ready

logger = logging.getLogger("proxy.mlflow_server")

SETTLE = 1.0
"""Seconds between the change and the first one's end: who has just connected to it has sent its request."""
SUBMIT_PATIENCE = 30.0
"""Seconds that requests which submit a job are waited for, so that each job is of one generation."""
LEAST_GRACE = 5.0
"""Seconds that the first one gets for its requests at least, when its jobs have used the grace period up."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """What became of a rolling restart."""

    ok: bool
    text: str
    """For a person: what was done, or why nothing has changed."""
    lines: tuple[str, ...] = ()
    """What a second MLflow that was given up said last."""


class Roll:
    """One rolling restart. Its owner puts `heir` in the first one's place once ``prepare`` has succeeded."""

    def __init__(self, starts: Starts, plan: Plan) -> None:
        self.plan = plan
        self.heir = starts.new(plan, gated=True)
        self.task: asyncio.Task[Rolled] | None = None
        self.hurry = asyncio.Event()
        """Set where nothing is to be waited for any more."""
        self.decided = asyncio.Event()
        """Set when the heir has taken over or was given up."""
        self.jobs_over = asyncio.Event()
        """Set while no job runner of the first one lives beside the heir's."""
        self.jobs_over.set()
        self._starts = starts

    async def prepare(self) -> Exit | None:
        """Start the heir and wait until it is ready; why it was given up, else None."""
        heir = self.heir
        failed: Exit | None = Exit("exited", "the rolling restart was broken off")
        grace = guard.ORPHANED_GRACE
        try:
            if (failed := await self._unfit()) is None and (failed := await self._starts.begin(heir)) is None:
                ready = asyncio.create_task(until_ready(heir, self.plan))
                hurry = asyncio.create_task(self.hurry.wait())
                try:
                    await asyncio.wait({ready, hurry}, return_when=asyncio.FIRST_COMPLETED)
                    failed = ready.result() if ready.done() else Exit("exited", "the service is ending")
                finally:
                    ready.cancel()
                    hurry.cancel()
                    await asyncio.gather(ready, hurry, return_exceptions=True)
        except BaseException:
            await self._starts.end(heir, grace)
            raise
        if failed is not None:
            await self._starts.end(heir, grace)
        return failed

    async def _unfit(self) -> Exit | None:
        """Why the heir must not be started over its database: the first one still works with those tables."""
        try:
            found = await schema.looked(self.plan.uri)
        except schema.Unreachable as error:
            return Exit("exited", f"{error}: {error.reason}")
        if fits(found):
            return None
        assert found is not None
        refusal = schema.refusal(found, self.plan.uri)
        return Exit("exited", f"{refusal}; that takes a restart of the service")

    async def discard(self) -> None:
        """End the heir, which did not take over."""
        await self._starts.end(self.heir, guard.ORPHANED_GRACE)

    async def retire(self, old: Generation, grace: float, moment: int) -> list[str]:
        """End the first one: its jobs, then, its requests finished, itself; the jobs that were cut off.

        `grace` is in seconds, for both together. Up to `moment` (Unix time in ms) jobs were submitted to it.
        """
        began = time.monotonic()
        try:
            await self._settled(old)
            cut = await jobs.end_runner(old, grace, self.hurry)
            for job in cut:
                logger.warning("the job %s was cut off by the rolling restart and is run again", job)
        except BaseException:
            await self._starts.end(old, guard.ORPHANED_GRACE)
            raise
        finally:
            if not self.heir.over.done():
                self._starts.open_gate(self.heir, moment)
            self.jobs_over.set()
        left = guard.ORPHANED_GRACE if self.hurry.is_set() else grace - (time.monotonic() - began)
        await self._starts.end(old, max(LEAST_GRACE, left))
        return cut

    async def _settled(self, old: Generation) -> None:
        """Wait until the first one has accepted all who connected to it: they stand in a line, and we come
        last."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.hurry.wait(), SETTLE)
        if not self.hurry.is_set() and not old.over.done():
            await readiness.answers(old.socket, SETTLE * 5)


def swap(heir: Generation, old: Generation, shared: Path) -> None:
    """Have new connections reach the heir; the old one's socket gets its own name back, for the last of those
    who ask there."""
    with contextlib.suppress(OSError):
        old.socket.unlink(missing_ok=True)
        old.socket.hardlink_to(shared)
    heir.socket.rename(shared)
