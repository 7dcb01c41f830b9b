"""Tasks that are to end: those that miss it once, and those that never do."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from proxy.tasks import ended


async def gone(task: asyncio.Task[None]) -> None:
    """So that the test ends, too, where it did not."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


async def deaf(times: int) -> None:
    """Misses so many cancellations."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    await asyncio.sleep(3600)


def test_a_task_that_missed_its_cancellation_is_cancelled_again() -> None:
    async def run() -> None:
        tasks = [asyncio.create_task(deaf(times)) for times in (0, 1, 2)]
        await asyncio.sleep(0)
        await ended(tasks)
        over = [task.cancelled() for task in tasks]
        for task in tasks:
            await gone(task)
        assert over == [True] * 3
        await ended([])
        await ended(tasks)

    asyncio.run(run())


def test_a_task_that_never_ends_is_said_and_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        task = asyncio.create_task(deaf(100))
        await asyncio.sleep(0)
        await asyncio.wait_for(ended([task]), 60)
        assert not task.done()
        assert "deaf" in caplog.text
        await gone(task)

    asyncio.run(run())
