"""MLflow is killed, restarted and moved while clients log: what fails, is lost, doubled or wrong?

    .venv/bin/python benchmarks/chaos/run.py [--minutes 3] [--others 1]
                                             [--arrangements proxy,bare,nginx,caddy]
                                             [--scenarios kill,kill-retry,roll,login,database]

Eight processes with MLflow's own client log to each arrangement in turn: create a run, log batches and single
metrics, set a tag, 20 MB artifacts up and down, search, end the run. Meanwhile one thing is done to MLflow
again and again. Afterwards each client's ledger of what it was told is held against what MLflow has. All
arrangements run all the while, each on a PostgreSQL of its own, and take turns scenario by scenario, so that
what else the machine does is spread over them. Prints a table in Markdown; --json FILE keeps all counts and
each failure, --keep FOLDER the logs and ledgers. It needs PostgreSQL (initdb, postgres, psql, pg_isready),
and nginx and Caddy where they are asked for. Exit code 1 where an arrangement did not outlast its scenario.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from arrangements import ALL, PASSWORD, USER, Arrangement, NotReady, Proxy
from database import LOGINS, Database
from disturbances import SCENARIOS, World
from judge import Verdict, judge
from mlflow.tracking import MlflowClient

CLIENTS = 8
PATIENCE = 400.0  # seconds that clients get to finish the run in hand: MLflow's client repeats for that long


@dataclass
class Row:
    """What came of one scenario on one arrangement."""

    served: str
    title: str
    minutes: float
    world: World
    verdict: Verdict

    def times(self) -> str:
        """How often it was done, and in how long."""
        refused = f", {self.world.refused} refused" if self.world.refused else ""
        broken = ", then broken" if self.world.broken else ""
        return f"{self.world.done} in {self.minutes:g} min{refused}{broken}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3, help="of each scenario on each arrangement")
    parser.add_argument("--others", type=float, help="minutes where mlflow-proxy is not in front")
    parser.add_argument("--arrangements", default="proxy,bare,nginx,caddy")
    parser.add_argument("--scenarios", default="kill,kill-retry,roll,login,database")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    try:
        with ExitStack() as running:
            places = [running.enter_context(_place(ALL[name], folder)) for name in _names(asked.arrangements)]
            for scenario in _names(asked.scenarios):
                for place in places:
                    rows.append(one(scenario, place, asked))
                    if asked.json:
                        asked.json.write_text(json.dumps([_json(row) for row in rows], indent=1) + "\n")
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"\n{len(rows)} runs with {asked.clients} clients\n\n{table(rows)}")
    sys.exit(any(row.world.broken for row in rows))


@dataclass
class Place:
    """An arrangement that runs, and the database that is its own."""

    served: Arrangement
    database: Database


@contextmanager
def _place(kind: type[Arrangement], folder: Path) -> Iterator[Place]:
    # Not in our folder, which may be closed to the database server's account.
    with tempfile.TemporaryDirectory(prefix="chaos-database-", ignore_cleanup_errors=True) as files:
        database = Database(Path(files))
        database.create()
        served = kind(folder / kind.__name__.lower(), database.uri(LOGINS[0]))
        served.start()
        try:
            served.wait_ready()
            yield Place(served, database)
        finally:
            served.stop()
            database.stop()


def one(name: str, place: Place, asked: argparse.Namespace) -> Row:
    """One scenario: the clients, the disturbances, the verdict."""
    scenario, served, began = SCENARIOS[name], place.served, time.monotonic()
    minutes = asked.minutes if asked.others is None or isinstance(served, Proxy) else asked.others
    folder = served.folder / name
    folder.mkdir()

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {served.name}, {scenario.title}: {text}", flush=True)

    stop = threading.Event()
    world = World(served, place.database, stop, say, random.Random(asked.seed))
    verdict = Verdict()
    try:
        served.wait_ready()
        environment = client_environment(served, scenario.own_retries)
        take(served)
        experiment = MlflowClient().create_experiment(name)
        clients = start_clients(folder, experiment, asked.clients, asked.seed, environment)
        disturber = threading.Thread(target=world.disturb, args=(scenario.disturb,))
        disturber.start()
        time.sleep(minutes * 60)
        stop.set()
        disturber.join()
        finish(clients, folder, say)
        served.wait_ready()
        verdict = judge(folder, experiment, served.artifacts)
        shutil.rmtree(served.artifacts / experiment, ignore_errors=True)
    except NotReady as error:
        world.broken = str(error)
        say(world.broken)
    told = {what: count for what, count in verdict.as_json().items() if what != "failures"}
    say(f"{world.done} times in {time.monotonic() - began:.0f} s: {json.dumps(told, indent=1)}")
    return Row(served.name, scenario.title, minutes, world, verdict)


def client_environment(served: Arrangement, own_retries: bool) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(served.folder),
        "MLFLOW_TRACKING_URI": served.url,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        **({} if own_retries else {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}),
    }


def start_clients(
    folder: Path, experiment: str, count: int, seed: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Returns when they have begun."""
    with (folder / "clients.log").open("wb") as log:
        clients = subprocess.Popen(
            [
                *(sys.executable, str(Path(__file__).with_name("client.py"))),
                *(str(folder), experiment, str(count), str(seed)),
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
    while not (folder / "started").exists():
        if clients.poll() is not None:
            sys.exit((folder / "clients.log").read_text())
        time.sleep(0.1)
    return clients


def finish(clients: subprocess.Popen[bytes], folder: Path, say: Callable[[str], None]) -> None:
    """Have them finish the run in hand."""
    (folder / "stop").touch()
    try:
        code = clients.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        clients.kill()
        code = -1
    if code:
        say(f"the clients ended with {code}: {(folder / 'clients.log').read_text()[-2000:]}")


def take(served: Arrangement) -> None:
    """Have MLflow's client in this process go there."""
    os.environ.update(client_environment(served, True))


def table(rows: list[Row]) -> str:
    """Markdown, scenario by scenario."""
    head = (
        "what is done",
        "in front",
        "times",
        "calls",
        "failed",
        "told that it may be done",
        "upload too large to keep",
        "runs created twice",
        "data lost or doubled",
        "artifacts wrong",
        "longest pause",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        verdict = row.verdict
        cells = (
            row.title,
            row.served,
            row.times(),
            f"{verdict.calls:,}",
            f"{verdict.failed.total():,}",
            verdict.failed["told"],
            verdict.failed["stream"],
            verdict.runs_twice,
            verdict.data_wrong(),
            verdict.checksums_wrong,
            f"{verdict.longest_pause:.0f} s",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _names(text: str) -> list[str]:
    return text.split(",")


def _json(row: Row) -> dict[str, object]:
    world = row.world
    return {
        "in front": row.served,
        "scenario": row.title,
        "minutes": row.minutes,
        "times": world.done,
        "refused": world.refused,
        "broken": world.broken,
        "events": world.events,
        **row.verdict.as_json(),
    }


if __name__ == "__main__":
    main()
