"""What is done to MLflow while clients log."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from arrangements import KILLS, Arrangement, NotReady, Refused
from database import LOGINS, Database

BETWEEN = (2.0, 5.0)  # seconds that MLflow serves between two disturbances
OUTAGE = 5.0  # seconds that the database is away

Say = Callable[[str], None]


@dataclass
class World:
    """What is disturbed, until `stop`. `refused` counts what the arrangement would not do, `events` says when
    each disturbance began and was done, `broken` why there were no more of them.
    """

    served: Arrangement
    database: Database
    stop: threading.Event
    say: Say
    random: random.Random
    done: int = 0
    refused: int = 0
    events: list[tuple[float, str]] = field(default_factory=list)
    broken: str = ""

    def disturb(self, how: Callable[[World], None]) -> None:
        """In a thread, whose end nobody would see otherwise."""
        try:
            how(self)
        except (Exception, SystemExit) as error:
            self.broken = f"{type(error).__name__}: {error}"
            self.note(self.broken)

    def pause(self) -> bool:
        """Until MLflow has served for a while; False where the time is up."""
        while not self.stop.is_set() and not self.served.ready():
            self.stop.wait(0.2)
        return not self.stop.wait(self.random.uniform(*BETWEEN))

    def note(self, what: str) -> None:
        self.events.append((time.time(), what))
        self.say(what)

    def did(self, what: str) -> None:
        self.done += 1
        self.note(what)

    def replaced(self, by: Callable[[], None]) -> bool:
        """Whether the arrangement put a new MLflow in the place of the old one."""
        self.events.append((time.time(), "a new MLflow is asked for"))
        began = time.monotonic()
        try:
            by()
        except (NotReady, Refused) as error:
            self.refused += 1
            self.note(f"NOT replaced after {time.monotonic() - began:.1f} s: {error}")
            return False
        self.did(f"a new MLflow after {time.monotonic() - began:.1f} s")
        return True


def kills(world: World) -> None:
    for which in itertools.cycle(KILLS):
        if not world.pause():
            return
        world.events.append((time.time(), f"kills: {which}"))
        world.served.kill(which)
        world.did(f"killed: {which}")
        world.stop.wait(0.5)  # until what was killed no longer answers


def rolls(world: World) -> None:
    while world.pause():
        world.replaced(world.served.restart)


def logins(world: World) -> None:
    for old, new in itertools.cycle((LOGINS, LOGINS[::-1])):
        if not world.pause():
            break
        if f"//{old}:" not in world.served.uri:
            continue
        world.database.enable(new)
        if world.replaced(lambda: world.served.move(world.database.uri(new))):  # noqa: B023 - called at once
            world.database.disable(old)
            world.note(f"moved to {new}; {old} is disabled")


def outages(world: World) -> None:
    while world.pause():
        world.database.stop()
        try:
            world.note(f"the database is away for {OUTAGE:.0f} s")
            time.sleep(OUTAGE)
        finally:
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
