"""MLflow that answers nothing any more: noticed within seconds, and replaced where the setting says so."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from mlflow_helpers import living, place, until

__all__ = ["place"]

SOON = {"ready_interval": 0.2, "ready_timeout": 2.0}


def test_a_stuck_mlflow_is_replaced_by_another_beside_it(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}, **SOON, stuck_restart=4, grace_seconds=1) as life:
            assert await life.server.wait_ready(60)
            stuck = life.server.pid
            assert stuck is not None
            os.kill(stuck, signal.SIGSTOP)
            said = "MLflow takes connections and has answered nothing within 2 s"
            await until(lambda: life.server.reason == said)
            assert not life.server.ready
            assert life.server.problems["silent"] == 1
            await until(lambda: life.server.generation == 2)
            await until(lambda: life.server.rolls["done"] == 1)
            assert await life.server.wait_ready(60)
            assert life.server.pid != stuck
            assert not Path(f"/proc/{stuck}").exists()
            assert life.server.restarts.total() == 0

    asyncio.run(run())


def test_without_the_setting_it_is_only_said(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}, **SOON, grace_seconds=1) as life:
            assert await life.server.wait_ready(60)
            life.plan(slow=6)
            await until(lambda: life.server.reason.endswith("was not answered within 2 s"))
            assert not life.server.ready
            assert life.server.problems["frozen"] == 1
            life.plan()
            assert await life.server.wait_ready(60)
            assert life.server.generation == 1
            assert life.server.probe_seconds is not None

    asyncio.run(run())


def test_another_that_is_as_stuck_is_given_up_and_the_first_stays(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}, **SOON, stuck_restart=1, mlflow_start_timeout=10) as life:
            assert await life.server.wait_ready(60)
            first = life.server.pid
            life.plan(slow=60)
            await until(lambda: life.server.rolls["failed"] == 1)
            await asyncio.sleep(2)
            assert life.server.generation == 2, "it is not tried again and again"
            assert life.server.pid == first

    asyncio.run(run())
