"""The end of tasks of our own: cancelled until they have ended, and never waited for without end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

log = logging.getLogger("proxy.tasks")

AGAIN = 2.0
"""Seconds after which a task that goes on is cancelled once more. A cancellation can be lost: by
``asyncio.wait_for`` of Python 3.11, where it comes in the step in which the answer does."""
TIMES = 5


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them and return when they have ended, or when they won't; what they raise is not raised here."""
    left = set(tasks)
    for _ in range(TIMES):
        for task in left:
            task.cancel()
        if left:
            done, left = await asyncio.wait(left, timeout=AGAIN)
            await asyncio.gather(*done, return_exceptions=True)
    for task in left:
        log.error("a part of the service does not end: %s", task.get_coro())
