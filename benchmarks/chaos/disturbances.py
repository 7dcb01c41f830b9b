"""What is done to MLflow while clients log."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from arrangements import KILLS, Arrangement
from database import LOGINS, Database

BETWEEN = (2.0, 5.0)  # seconds that MLflow serves between two disturbances
OUTAGE = 5.0  # seconds that the database is away

Say = Callable[[str], None]


@dataclass
class World:
    """What is disturbed, until `stop`."""

    served: Arrangement
    database: Database
    stop: threading.Event
    say: Say
    random: random.Random
    done: int = 0

    def pause(self) -> bool:
        """Until MLflow has served for a while; False where the time is up."""
        while not self.stop.is_set() and not self.served.ready():
            self.stop.wait(0.2)
        return not self.stop.wait(self.random.uniform(*BETWEEN))

    def did(self, what: str) -> None:
        self.done += 1
        self.say(what)


def kills(world: World) -> None:
    for which in itertools.cycle(KILLS):
        if not world.pause():
            return
        world.served.kill(which)
        world.did(f"killed: {which}")
        world.stop.wait(0.5)  # until what was killed no longer answers


def rolls(world: World) -> None:
    while world.pause():
        began = time.monotonic()
        world.served.restart()
        world.did(f"a new MLflow after {time.monotonic() - began:.1f} s")


def logins(world: World) -> None:
    for old, new in itertools.cycle((LOGINS, LOGINS[::-1])):
        if not world.pause():
            break
        if f"//{old}:" not in world.served.uri:
            continue
        world.database.enable(new)
        began = time.monotonic()
        world.served.move(world.database.uri(new))
        world.database.disable(old)
        world.did(f"moved to {new} after {time.monotonic() - began:.1f} s; {old} is disabled")


def outages(world: World) -> None:
    while world.pause():
        world.database.stop()
        try:
            world.say(f"the database is away for {OUTAGE:.0f} s")
            time.sleep(OUTAGE)
        finally:
            with contextlib.suppress(RuntimeError):
                world.database.start()
        world.did("the database is back")


def nothing(world: World) -> None:
    world.stop.wait()


@dataclass(frozen=True)
class Scenario:
    """`own_retries`: whether MLflow's client repeats calls itself, as it does unless told not to."""

    title: str
    disturb: Callable[[World], None]
    own_retries: bool


SCENARIOS = {
    "none": Scenario("undisturbed", nothing, False),
    "kill": Scenario("MLflow killed", kills, False),
    "kill-retry": Scenario("MLflow killed, clients repeat", kills, True),
    "roll": Scenario("MLflow restarted", rolls, False),
    "login": Scenario("database login moved", logins, False),
    "database": Scenario("database stopped and started", outages, False),
}
