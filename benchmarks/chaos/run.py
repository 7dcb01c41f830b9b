"""MLflow is killed, restarted and moved while clients log: what fails, is lost, doubled or wrong?

    .venv/bin/python benchmarks/chaos/run.py [--minutes 1] [--arrangements proxy,bare,nginx,caddy]
                                             [--scenarios kill,kill-retry,roll,login,database]

Eight processes with MLflow's own client log to each arrangement in turn: create a run, log batches and single
metrics, set a tag, 20 MB artifacts up and down, search, end the run. Meanwhile one thing is done to MLflow
again and again. Afterwards each client's ledger of what it was told is held against what MLflow has. Prints a
table in Markdown; --json FILE keeps all counts, --keep FOLDER the logs and ledgers. It needs PostgreSQL
(initdb, postgres, psql, pg_isready), and nginx and Caddy where they are asked for.
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
from collections.abc import Callable
from pathlib import Path

from arrangements import ALL, PASSWORD, USER, Arrangement
from database import LOGINS, Database
from disturbances import SCENARIOS, Scenario, World
from judge import Verdict, judge
from mlflow.tracking import MlflowClient

CLIENTS = 8
PATIENCE = 400.0  # seconds that clients get to finish the run in hand: MLflow's client repeats for that long

Row = tuple[str, str, int, Verdict]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3, help="of each scenario on each arrangement")
    parser.add_argument("--arrangements", default="proxy,bare,nginx,caddy")
    parser.add_argument("--scenarios", default="kill,kill-retry,roll,login,database")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    rows: list[Row] = []
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in asked.arrangements.split(","):
            rows += compare(ALL[name], folder / name, asked)
            if asked.json:
                asked.json.write_text(json.dumps([_json(row) for row in rows], indent=1) + "\n")
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{len(rows)} runs of {asked.minutes:g} min with {asked.clients} clients\n\n{table(rows)}")


def compare(kind: type[Arrangement], folder: Path, asked: argparse.Namespace) -> list[Row]:
    """All scenarios on one arrangement, on a database of its own."""
    rows: list[Row] = []
    # Not in our folder, which may be closed to the server's account.
    with tempfile.TemporaryDirectory(prefix="chaos-database-", ignore_cleanup_errors=True) as place:
        database = Database(Path(place))
        database.create()
        served = kind(folder, database.uri(LOGINS[0]))
        served.start()
        try:
            served.wait_ready()
            for name in asked.scenarios.split(","):
                rows.append(one(SCENARIOS[name], name, served, database, asked))
        finally:
            served.stop()
            database.stop()
    return rows


def one(
    scenario: Scenario, name: str, served: Arrangement, database: Database, asked: argparse.Namespace
) -> Row:
    """One scenario: the clients, the disturbances, the verdict."""
    began = time.monotonic()
    folder = served.folder / name
    folder.mkdir()

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {served.name}, {scenario.title}: {text}", flush=True)

    served.wait_ready()
    environment = client_environment(served, scenario.own_retries)
    take(served)
    experiment = MlflowClient().create_experiment(name)
    stop = threading.Event()
    world = World(served, database, stop, say, random.Random(asked.seed))
    clients = start_clients(folder, experiment, asked.clients, asked.seed, environment)
    disturber = threading.Thread(target=scenario.disturb, args=(world,))
    disturber.start()
    time.sleep(asked.minutes * 60)
    stop.set()
    disturber.join()
    finish(clients, folder, say)
    served.wait_ready()
    verdict = judge(folder, experiment, served.artifacts)
    say(f"{world.done} times in {time.monotonic() - began:.0f} s: {json.dumps(verdict.as_json(), indent=1)}")
    shutil.rmtree(served.artifacts / experiment, ignore_errors=True)
    return served.name, scenario.title, world.done, verdict


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
        "of these creations",
        "of these told that they may have been done",
        "uploads too large to keep",
        "runs created twice",
        "metrics lost or doubled",
        "artifacts wrong",
        "longest pause",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    titles = list(dict.fromkeys(row[1] for row in rows))
    for served, title, times, verdict in sorted(rows, key=lambda row: titles.index(row[1])):
        told = verdict.failed["told"]
        cells = (
            title,
            served,
            times,
            f"{verdict.calls:,}",
            f"{verdict.failed.total():,}",
            told + verdict.failed["create"],
            told,
            verdict.failed["stream"],
            verdict.runs_twice,
            verdict.metrics_lost + verdict.metrics_doubled + verdict.metrics_wrong,
            verdict.checksums_wrong,
            f"{verdict.longest_pause:.0f} s",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _json(row: Row) -> dict[str, object]:
    served, title, times, verdict = row
    return {"in front": served, "scenario": title, "times": times, **verdict.as_json()}


if __name__ == "__main__":
    main()
