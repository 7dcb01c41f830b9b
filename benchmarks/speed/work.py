"""Real work: MLflow's own client in four processes, against MLflow alone and through the proxy; and how many
requests MLflow's basic-auth application answers beside the proxy.

    .venv/bin/python benchmarks/speed/work.py [--rounds 3] [--calls 400] [--seconds 5]

By itself it prints what it found and keeps nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from arrangements import PASSWORD, USER, Arrangement
from load import wrk
from mlflows import CHEAP, ENVIRONMENT, Bare, BasicAuth, Proxied
from processes import cpu, forget_peak, with_children
from small import Rows, add, run

PROCESSES, MEBIBYTES, SEARCHES = 4, 50, 20
BASIC_AUTH_CONNECTIONS = 4

SLOWNESS = 2
"""How much longer MLflow's own application is measured: it answers a few requests a second."""

Work = dict[str, dict[str, list[float]]]
"""By arrangement: each figure, round by round."""


def measure(folder: Path, *, rounds: int, calls: int, seconds: int) -> tuple[Work, Rows]:
    """The work, each first in every second round, and the requests per second of a cheap call."""
    done: Work = {}
    rows: Rows = {}
    with contextlib.ExitStack() as stack:
        socket = folder / "none"
        bare, ours = Bare(folder / "bare", socket), Proxied(folder / "ours", socket)
        for one in (bare, ours):
            stack.enter_context(one.running())
            _work(one, min(calls, 20))
        for number in range(rounds):
            for one in (bare, ours) if number % 2 == 0 else (ours, bare):
                row = done.setdefault(one.name, {})
                pids = one.pids()
                forget_peak(pids)
                before, all_before = cpu(pids), cpu(with_children(one.process.pid))
                began = time.monotonic()
                took = _work(one, calls)
                whole = time.monotonic() - began
                row.setdefault("seconds", []).append(took)
                # Of the machine's CPU in that time, the start of the client's processes left out.
                share = (cpu(pids) - before) / took / (os.cpu_count() or 1)
                row.setdefault("CPU share", []).append(share)
                row.setdefault("server CPU s", []).append(cpu(with_children(one.process.pid)) - all_before)
                row.setdefault("whole seconds", []).append(whole)
        basic_auth = BasicAuth(folder / "basic-auth", socket)
        with basic_auth.running():
            for one in (bare, basic_auth, ours):
                wrk(one.url + CHEAP, BASIC_AUTH_CONNECTIONS, 3, one.authorization)
            for _ in range(rounds):
                for one in (bare, basic_auth, ours):
                    row = rows.setdefault((one.name, BASIC_AUTH_CONNECTIONS), {})
                    so_long = seconds * SLOWNESS if one is basic_auth else seconds
                    add(row, *run(one, BASIC_AUTH_CONNECTIONS, so_long, CHEAP))
    return done, rows


def _work(one: Arrangement, calls: int) -> float:
    """Seconds that the client's processes were at work. Exits where one of them failed."""
    script = Path(__file__).with_name("work_client.py")
    asked = [sys.executable, str(script), *map(str, (PROCESSES, calls, MEBIBYTES, SEARCHES))]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(one.folder),
        "MLFLOW_TRACKING_URI": one.url,
        **ENVIRONMENT,
    }
    if one.authorization:
        environment |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    run = subprocess.run(asked, env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{one.name}: {run.stderr[-3000:]}")
    return float(run.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=400, help="log-metric and log-batch calls a process")
    parser.add_argument("--seconds", type=int, default=5, help="of each with the cheap call")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        done, rows = measure(Path(folder), rounds=asked.rounds, calls=asked.calls, seconds=asked.seconds)
    print(json.dumps(done, indent=1))
    for (name, _), row in rows.items():
        print(name, json.dumps(row))


if __name__ == "__main__":
    main()
