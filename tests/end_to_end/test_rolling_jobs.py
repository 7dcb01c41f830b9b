"""Real MLflow jobs while MLflow is rolled: one that is cut off is run again once, all others run once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from service import Service, clean_environment, running

TRACE = """
import sys
import mlflow

@mlflow.trace
def answer(question):
    return "an answer"

experiment = mlflow.set_experiment("jobs").experiment_id
answer("?")
mlflow.flush_trace_async_logging()
print(experiment, mlflow.get_last_active_trace_id())
"""
# What a job does: it leaves a line in a file when it begins and when it ends.
EFFECT = """
import os, time
with open({path!r}, "a") as file:
    print("begin", {name!r}, time.time(), os.getpid(), file=file)
time.sleep({seconds})
with open({path!r}, "a") as file:
    print("end", {name!r}, time.time(), os.getpid(), file=file)
return True
"""


class Jobs:
    """Submits jobs to a service, and knows what they have done."""

    def __init__(self, service: Service, folder: Path, experiment: str, trace: str) -> None:
        self.service = service
        self.path = folder / "effects"
        self.experiment, self.trace = experiment, trace
        self.ids: dict[str, str] = {}

    def submit(self, name: str, seconds: float) -> None:
        import mlflow

        scorer = {
            "name": name,
            "aggregations": None,
            "mlflow_version": mlflow.__version__,
            "serialization_version": 1,
            "call_source": EFFECT.format(path=str(self.path), name=name, seconds=seconds),
            "call_signature": "(outputs)",
            "original_func_name": name,
        }
        answer = self.service.session().post(
            f"{self.service.url}/ajax-api/3.0/jobs/",
            json={
                "job_name": "invoke_scorer",
                "params": {
                    "experiment_id": self.experiment,
                    "serialized_scorer": json.dumps(scorer),
                    "trace_ids": [self.trace],
                },
            },
            timeout=120,
        )
        assert answer.ok, answer.text
        self.ids[name] = answer.json()["job_id"]

    def status(self, name: str) -> str:
        answer = self.service.session().get(
            f"{self.service.url}/ajax-api/3.0/jobs/{self.ids[name]}", timeout=60
        )
        return str(answer.json()["status"])

    def done(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def until(self, true: Any, patience: float = 150) -> None:
        deadline = time.monotonic() + patience
        while not true():
            assert time.monotonic() < deadline, (self.done(), self.service.log()[-5000:])
            time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_a_roll_cuts_off_is_run_again_once_and_no_other_twice(tmp_path: Path) -> None:
    with running(
        tmp_path, jobs=True, MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS="true", PROXY_GRACE_SECONDS="5"
    ) as service:
        made = subprocess.run(
            [sys.executable, "-c", TRACE],
            env=service.client_environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stderr
        experiment, trace = made.stdout.split()[-2:]
        jobs = Jobs(service, tmp_path, experiment, trace)
        jobs.submit("long", 120)
        jobs.until(lambda: [line for line in jobs.done() if line[:2] == ["begin", "long"]])

        over = threading.Event()

        def submit_others() -> None:
            while not over.is_set():
                jobs.submit(f"short{len(jobs.ids)}", 0)
                over.wait(15)

        others = threading.Thread(target=submit_others)
        others.start()
        try:
            rolled = subprocess.run(
                [sys.executable, "-m", "proxy", "reload", "--roll", "--data-dir", str(service.data)],
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=280,
            )
        finally:
            over.set()
            others.join()
        assert rolled.returncode == 0, rolled.stdout + service.log()
        assert f"invoke_scorer {jobs.ids['long']}" in rolled.stdout
        assert f"the job invoke_scorer {jobs.ids['long']} was cut off" in service.log()
        jobs.until(lambda: all(jobs.status(name) == "SUCCEEDED" for name in jobs.ids), 240)
        time.sleep(15)  # were anything in a queue twice, it would begin by now
        begun = Counter(line[1] for line in jobs.done() if line[0] == "begin")
        cut = {name for name in jobs.ids if f"invoke_scorer {jobs.ids[name]}" in rolled.stdout}
        assert begun["long"] == 2, "cut off, and once again"
        assert sum(line[:2] == ["end", "long"] for line in jobs.done()) == 1
        assert set(begun) == set(jobs.ids)
        for name in set(jobs.ids) - cut:
            assert begun[name] == 1, (name, jobs.done())
        for name in cut:  # which may have been cut off before it had begun, or after it was done
            assert begun[name] in (1, 2), (name, jobs.done())
