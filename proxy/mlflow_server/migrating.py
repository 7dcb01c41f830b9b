"""Before MLflow is started: its database can be asked, and has the right tables or is given them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from proxy import guard
from proxy.errors import UserError
from proxy.mlflow_server import schema
from proxy.mlflow_server.generation import Generation
from proxy.mlflow_server.plan import Plan
from proxy.mlflow_server.schema import Fit, Schema, Unreachable
from proxy.mlflow_server.starts import Starts

logger = logging.getLogger("proxy.mlflow_server")

AGAIN = 2.0
"""Seconds between two questions to a database that does not answer, or that another replica just makes."""
MAKING = 60.0
"""Seconds for which tables of an old version may be those that another replica is making."""


class Migrating:
    """Settles it. `state` is told what is waited for, `show` which process is at work."""

    def __init__(
        self,
        starts: Starts,
        stop: asyncio.Event,
        state: Callable[[str], None],
        show: Callable[[Generation], None],
    ) -> None:
        self._starts = starts
        self._stop = stop
        self._state = state
        self._show = show

    async def settle(self, plan: Plan) -> bool:
        """Wait until the database can be asked, and migrate it where that is wanted (PROXY_MIGRATE); False
        where the end was asked for meanwhile.

        Raises UserError where MLflow must not be started over this database.
        """
        began, before = time.monotonic(), None
        said = ""
        while not self._stop.is_set():
            try:
                found = await schema.looked(plan.uri)
            except Unreachable as error:
                if (text := str(error)) != said:
                    logger.warning("MLflow is not started yet: %s: %s", text, error.reason)
                said = text
                self._state(text)
                await self._wait()
                continue
            if fits(found):
                return True
            assert found is not None
            if found.fit is Fit.OLD and schema.policy(plan.settings, plan.uri) == "auto":
                return await self._migrate(plan, found)
            if time.monotonic() - began > MAKING or (found.found == before and found.found != schema.NONE):
                raise UserError(schema.refusal(found, plan.uri))
            before = found.found
            await self._wait()
        return False

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), AGAIN)

    async def _migrate(self, plan: Plan, found: Schema) -> bool:
        copy = await asyncio.to_thread(schema.copy_aside, plan.uri, found)
        kept = f"; as it was it is in {copy}" if copy is not None else ""
        logger.warning(
            "%s is migrated from version %s to %s%s", plan.database, found.found, found.wanted, kept
        )
        process = self._starts.new(plan, command=schema.upgrade_command())
        self._show(process)
        grace = guard.ORPHANED_GRACE
        try:
            if (failed := await self._starts.begin(process)) is None:
                stop = asyncio.create_task(self._stop.wait())
                try:
                    watched: set[asyncio.Future[Any]] = {stop, process.over}
                    await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stop.cancel()
                # Half a migration is worse than a late end.
                grace = plan.settings.grace_seconds
        finally:
            await self._starts.end(process, grace)
        if self._stop.is_set():
            return False
        if failed is None and fits(await schema.looked(plan.uri)):
            logger.info("%s was migrated", plan.database)
            return True
        said = "".join(f"\n    {line[:500]}" for line in process.last_lines)
        raise UserError(f"{plan.database} could not be migrated{kept}{said}")


def fits(found: Schema | None) -> bool:
    """Whether MLflow may be started: with these tables, or without our knowing."""
    return found is None or found.fit in (Fit.EMPTY, Fit.CURRENT)
