"""Runs each look at its own pace and keeps what it found, for /readyz?verbose and for Prometheus."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from proxy.probes.looks import Failed, NotNow

log = logging.getLogger("proxy.probes")

DEADLINE = 10.0
"""Seconds that a look may take."""


class Look(NamedTuple):
    """What is done, and how many seconds lie between two times; with 0 it is not done."""

    look: Callable[[], Awaitable[None]]
    interval: Callable[[], float]


class Target:
    """What the looks at one thing found."""

    __slots__ = ("last_success", "looked", "problem", "seconds")

    def __init__(self) -> None:
        self.looked: float | None = None
        """When, in Unix seconds; None before the first time."""
        self.problem: str | None = None
        self.seconds = 0.0
        self.last_success: float | None = None


class Probes:
    """The looks by name (docs/operations.md). `run` does them; never on a request's path."""

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self._looks = dict(looks)
        self.targets = {name: Target() for name in looks}

    def checks(self) -> dict[str, str | None]:
        """Of those that were looked at, by name: None where it is well, else what is wrong."""
        return {
            f"probe-{name}": target.problem
            for name, target in self.targets.items()
            if target.looked is not None
        }

    def notes(self) -> dict[str, str]:
        """Of the same: how long the latest look took, how long ago, and since when it is not well."""
        now = time.time()
        found = {}
        for name, target in self.targets.items():
            if target.looked is None:
                continue
            note = f"took {target.seconds:.3g} s, {now - target.looked:.0f} s ago"
            if target.problem is not None:
                well = target.last_success
                note += "; never well yet" if well is None else f"; last well {now - well:.0f} s ago"
            found[f"probe-{name}"] = note
        return found

    async def run(self) -> None:
        """Look, for ever."""
        async with asyncio.TaskGroup() as group:
            for name in self._looks:
                group.create_task(self._repeat(name))

    async def _repeat(self, name: str) -> None:
        look, interval = self._looks[name]
        began = -math.inf
        while True:
            every = interval()
            if every > 0 and time.monotonic() - began >= every:
                now = time.monotonic()
                if await self._once(name, look):
                    began = now
            # Short, so that what a reload has set holds soon.
            await asyncio.sleep(min(every or 1.0, 1.0))

    async def _once(self, name: str, look: Callable[[], Awaitable[None]]) -> bool:
        """Whether anything could be told."""
        target = self.targets[name]
        began = time.monotonic()
        problem = None
        try:
            async with asyncio.timeout(DEADLINE):
                await look()
        except NotNow:
            return False
        except TimeoutError:
            problem = f"no answer within {DEADLINE:g} s"
        except Failed as failed:
            problem = str(failed)
        except Exception as error:
            # One that we have not thought of must not end the others.
            log.exception("the probe %s has failed", name)
            problem = f"the probe itself failed ({type(error).__name__}); the log says why"
        target.seconds = time.monotonic() - began
        now = time.time()
        if problem is None:
            target.last_success = now
        if problem != target.problem:
            if problem is not None:
                log.warning("probe %s: %s", name, problem)
            elif target.looked is not None:
                log.info("probe %s: well again", name)
        target.looked, target.problem = now, problem
        return True
