"""Four processes at work with MLflow's own unmodified client; prints the seconds that they took.

    python work_client.py PROCESSES CALLS MEBIBYTES SEARCHES

The environment says where the server is and who we are.
"""

from __future__ import annotations

import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient


def work(number: int, start: Barrier, calls: int, mebibytes: int, searches: int) -> None:
    client = MlflowClient()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "artifact.bin"
        file.write_bytes(bytes(mebibytes * 2**20))
        client.search_runs(["0"], max_results=1)  # a first call, and its connection
        start.wait()
        run = client.create_run("0", tags={"worker": str(number)}).info.run_id
        for step in range(calls // 2):
            now = time.time_ns() // 10**6
            client.log_metric(run, "loss", 1 / (step + 1), now, step)
            batch = [Metric(f"m{index}", float(step), now, step) for index in range(10)]
            client.log_batch(run, batch, [Param(f"p{step}", str(step))])
        client.log_artifact(run, str(file))
        client.download_artifacts(run, file.name, folder)
        for _ in range(searches):
            assert client.search_runs(["0"], f"tags.worker = '{number}'", max_results=5)
        client.set_terminated(run)


def main(processes: int, calls: int, mebibytes: int, searches: int) -> None:
    context = get_context("fork")  # importing MLflow costs seconds: once is enough
    start = context.Barrier(processes + 1)
    workers = [
        context.Process(target=work, args=(number, start, calls, mebibytes, searches))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    start.wait(120)
    began = time.monotonic()
    for worker in workers:
        worker.join()
    print(time.monotonic() - began)
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
