"""Clients that log with MLflow's own unmodified client, each a process with a ledger of what it was told.

    python client.py FOLDER EXPERIMENT COUNT SEED

Each writes ``FOLDER/client-N.jsonl``: one line a call, with what the client was told, until ``FOLDER/stop``
is there; the run in hand is finished then. The environment says where the server is and who we are.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

T = TypeVar("T")

ARTIFACT = 20 * 2**20  # bytes
BIG_ARTIFACT = 40 * 2**20  # over PROXY_RESEND_BODY_LIMIT's default
BIG_EVERY = 12  # of the first client's runs
ARTIFACT_EVERY = 3  # of everybody's runs
STEPS = 5
BATCH = 10
PACE = 0.05  # seconds between two calls: a training loop computes, too
AFTER_FAILURE = 1.0  # seconds before the next one: nobody calls on and on


class Ledger:
    """One client's: what it asked for and what it was told, written before the next call is made."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)

    def call(self, name: str, function: Callable[[], T], **what: Any) -> tuple[bool, T | None]:
        """Whether it succeeded, and what it gave."""
        began, clock = time.time(), time.monotonic()
        error = result = None
        try:
            result = function()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        line = {"call": name, **what, "began": began, "took": time.monotonic() - clock, "error": error}
        if name == "create_run" and result is not None:
            line["run"] = result.info.run_id  # type: ignore[attr-defined]
        self._file.write(json.dumps(line) + "\n")
        time.sleep(AFTER_FAILURE if error else PACE)
        return error is None, result

    def note(self, **what: Any) -> None:
        self._file.write(json.dumps(what) + "\n")


class Worker:
    """One of the clients."""

    def __init__(self, folder: Path, experiment: str, number: int, seed: int) -> None:
        self.folder = folder / f"client-{number}"
        self.folder.mkdir()
        self.ledger = Ledger(folder / f"client-{number}.jsonl")
        self.client = MlflowClient()
        self.experiment = experiment
        self.number = number
        self.random = random.Random(seed * 1000 + number)

    def run(self, stop: Path) -> None:
        count = self.random.randrange(ARTIFACT_EVERY)
        while not stop.exists():
            count += 1
            self.one_run(count)

    def one_run(self, count: int) -> None:
        mark = uuid.uuid4().hex
        client, call = self.client, self.ledger.call
        _, run = call(
            "create_run", lambda: client.create_run(self.experiment, tags={"chaos": mark}), mark=mark
        )
        if run is None:
            return
        run_id = run.info.run_id
        for step in range(STEPS):
            now, value = time.time_ns() // 10**6, self.random.random()
            first = step * BATCH
            batch = [Metric("batch", value + index, now, first + index) for index in range(BATCH)]
            told = [[metric.step, metric.timestamp, metric.value] for metric in batch]
            params = [Param(f"p{step}", str(value))]
            call(
                "log_batch",
                lambda: client.log_batch(run_id, batch, params),  # noqa: B023 - called at once
                mark=mark,
                metrics=told,
                param=[f"p{step}", str(value)],
            )
            call(
                "log_metric",
                lambda: client.log_metric(run_id, "single", value, now, step),  # noqa: B023
                mark=mark,
                metrics=[[step, now, value]],
            )
        call("set_tag", lambda: client.set_tag(run_id, "note", mark), mark=mark)
        if count % ARTIFACT_EVERY == 0:
            big = self.number == 0 and count % BIG_EVERY == 0
            self.artifact(run_id, mark, BIG_ARTIFACT if big else ARTIFACT)
        ok, found = call("search_runs", lambda: self.search(mark), mark=mark)
        if ok and found != [run_id]:
            self.ledger.note(wrong="search", mark=mark, found=found)
        call("set_terminated", lambda: client.set_terminated(run_id), mark=mark)

    def search(self, mark: str) -> list[str]:
        runs = self.client.search_runs([self.experiment], f"tags.chaos = '{mark}'")
        return [run.info.run_id for run in runs]

    def artifact(self, run_id: str, mark: str, size: int) -> None:
        """Up, and down again where that was told to have succeeded."""
        file = self.folder / "data.bin"
        block = self.random.randbytes(2**20)
        digest = hashlib.sha256()
        with file.open("wb") as out:
            for index in range(size // len(block)):
                part = index.to_bytes(8, "big") + block[8:]  # no two pieces are alike: a doubled one shows
                digest.update(part)
                out.write(part)
        sha = digest.hexdigest()
        call, client = self.ledger.call, self.client
        ok, _ = call(
            "upload", lambda: client.log_artifact(run_id, str(file)), mark=mark, bytes=size, sha256=sha
        )
        file.unlink()
        if not ok:
            return
        down = self.folder / "down"
        down.mkdir(exist_ok=True)
        ok, path = call(
            "download",
            lambda: client.download_artifacts(run_id, "data.bin", str(down)),
            mark=mark,
            bytes=size,
        )
        if ok and path is not None:
            with Path(path).open("rb") as got:
                if hashlib.file_digest(got, "sha256").hexdigest() != sha:
                    self.ledger.note(wrong="checksum", mark=mark)
            Path(path).unlink()


def main(folder: Path, experiment: str, count: int, seed: int) -> None:
    context = get_context("fork")  # importing MLflow costs seconds: once is enough
    workers = [
        context.Process(
            target=lambda number: Worker(folder, experiment, number, seed).run(folder / "stop"), args=(n,)
        )
        for n in range(count)
    ]
    for worker in workers:
        worker.start()
    (folder / "started").touch()
    for worker in workers:
        worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
