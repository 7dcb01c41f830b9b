"""The proxy's memory, descriptors and tasks through half an hour of mishaps: do they end where they began?

    .venv/bin/python benchmarks/chaos/soak.py [--minutes 30] [--clients 4] [--keep FOLDER]

Clients log to mlflow-proxy as in run.py, while MLflow is killed, rolled, moved to another database login and
its database stopped, in turn. Compared is the service at rest after a first turn of each of these and at
rest in the end. Exit code 1 where descriptors or tasks are more, threads more than pools may start, or memory
has grown by over a quarter.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from arrangements import Proxy
from database import LOGINS, Database
from disturbances import World, kills, logins, outages, rolls
from judge import judge
from mlflow.tracking import MlflowClient
from processes import descriptors, resident, threads
from run import client_environment, finish, start_clients, take

EACH = 45.0  # seconds of one kind of mishap, then of the next
WARM_UP = 4 * EACH  # before the first look: what is imported, cached and pooled once, threads among it
REST = 120.0  # seconds within which a service without clients has to come to rest
SAMPLED = 15.0  # seconds between two lines
GROWTH = 1.25
IN_POOLS = 4  # threads that bounded pools may yet start: each does so when all of its are busy at once


class Watched(Proxy):
    """The same service, and how many tasks it has."""

    def command(self) -> list[str]:
        here = Path(__file__).with_name("watched.py")
        return [sys.executable, str(here), str(self.folder / "tasks"), "serve"]

    def look(self) -> Look:
        pid = self.process.pid
        tasks = self.folder / "tasks"
        return Look(resident(pid), descriptors(pid), threads(pid), int(tasks.read_text()))


@dataclass(frozen=True)
class Look:
    """The service's process at one moment; memory in bytes."""

    memory: int
    descriptors: int
    threads: int
    tasks: int

    def __str__(self) -> str:
        return (
            f"{self.memory / 2**20:.0f} MiB, {self.descriptors} descriptors, {self.threads} threads, "
            f"{self.tasks} tasks"
        )

    def within(self, first: Look) -> bool:
        """Whether it holds no more than `first`, but for what GROWTH and IN_POOLS allow."""
        return (
            self.memory <= first.memory * GROWTH
            and self.descriptors <= first.descriptors
            and self.threads <= first.threads + IN_POOLS
            and self.tasks <= first.tasks
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    with tempfile.TemporaryDirectory(prefix="chaos-database-", ignore_cleanup_errors=True) as place:
        database = Database(Path(place))
        database.create()
        served = Watched(folder / "proxy", database.uri(LOGINS[0]))
        served.start()
        try:
            served.wait_ready()
            good = soak(served, database, asked)
        finally:
            served.stop()
            database.stop()
            if not asked.keep:
                shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)


def soak(served: Watched, database: Database, asked: argparse.Namespace) -> bool:
    load(served, database, "warm-up", WARM_UP, asked.clients)
    first = at_rest(served, None)
    say(f"at rest in the beginning: {first}")
    load(served, database, "soak", asked.minutes * 60, asked.clients)
    last = at_rest(served, first)
    say(f"at rest in the beginning: {first}")
    say(f"at rest in the end:       {last}")
    return last.within(first)


def load(served: Watched, database: Database, name: str, seconds: float, clients: int) -> None:
    """Clients and mishaps for that long, and what became of the calls."""
    folder = served.folder / name
    folder.mkdir()
    take(served)
    experiment = MlflowClient().create_experiment(name)
    running = start_clients(folder, experiment, clients, 1, client_environment(served, False))
    stop = threading.Event()
    mishaps = threading.Thread(target=in_turn, args=(served, database, stop))
    mishaps.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(max(0.0, min(SAMPLED, until - time.monotonic())))
        say(f"{name}: {served.look()}")
    stop.set()
    mishaps.join()
    finish(running, folder, say)
    served.wait_ready()
    verdict = judge(folder, experiment, served.artifacts)
    say(f"{name}: {verdict.calls} calls, failed: {dict(verdict.reasons)}")
    say(
        f"{name}: metrics lost {verdict.metrics_lost}, doubled {verdict.metrics_doubled}; runs created twice "
        f"{verdict.runs_twice}; artifacts wrong {verdict.checksums_wrong}"
    )
    shutil.rmtree(served.artifacts / experiment, ignore_errors=True)


def in_turn(served: Watched, database: Database, stop: threading.Event) -> None:
    """One kind of mishap after the other."""
    for disturb in cycle((kills, rolls, outages, logins)):
        if stop.is_set():
            return
        enough = threading.Event()
        world = World(served, database, enough, say, random.Random(1))
        disturber = threading.Thread(target=world.disturb, args=(disturb,))
        disturber.start()
        stop.wait(EACH)
        enough.set()
        disturber.join()


def at_rest(served: Watched, first: Look | None) -> Look:
    """When its connections have been let go: the same number of all twice, or no more than `first`."""
    served.wait_ready()
    deadline = time.monotonic() + REST
    before = served.look()
    while time.monotonic() < deadline:
        time.sleep(SAMPLED)
        now = served.look()
        if first is not None and now.within(first):
            return now
        if first is None and (now.descriptors, now.tasks) == (before.descriptors, before.tasks):
            return now
        before = now
    return served.look()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
