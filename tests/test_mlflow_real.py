"""The real MLflow, its processes killed in turn: nothing is left, or it is supervised again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_helpers import HERE, marked, readlink

from proxy import guard


class Real:
    """The real MLflow under a driver, which can be killed like the proxy that it stands for."""

    def __init__(self, place: Path, *given: str) -> None:
        (place / "data").mkdir()
        (place / "run").mkdir(mode=0o700)
        self.place = place
        self.output = place / "output"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        with self.output.open("wb") as file:
            arguments = [
                str(place / "data"),
                str(place / "run"),
                str(self.port),
                f"REAL_PLACE={place}",
                *given,
            ]
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "mlflow_driver.py"), *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            )

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def wait_for(self, event: str, count: int, seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while len(found := self.events(event)) < count:
            assert time.monotonic() < deadline, self.output.read_text()
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)
        return found[count - 1]

    def living(self) -> dict[int, str]:
        """The command lines of MLflow's processes by pid, the driver's not among them."""
        return {
            pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            for pid in marked(str(self.place))
            if pid != self.process.pid
        }

    def one(self, part: str, parent: str = "") -> int:
        """The first process with that in its command line, and that in its parent's."""
        living = self.living()
        for pid, line in living.items():
            known = guard.stat(pid)
            if part in line and "guard.py" not in line and known and parent in living.get(known[1], ""):
                return pid
        raise AssertionError(f"no {part} in {living}")

    def guard(self) -> int:
        return next(pid for pid, line in self.living().items() if "guard.py" in line)

    def kill_and_see_it_back(self, pid: int) -> str:
        """Kill a process; the reason for which MLflow was started again, once it is ready again."""
        restarts, readies = len(self.events("restart")), len(self.events("ready"))
        before = set(self.living())
        os.kill(pid, signal.SIGKILL)
        reason = str(self.wait_for("restart", restarts + 1, 60)["reason"])
        assert not before & set(self.living())
        self.wait_for("ready", readies + 1)
        return reason

    def python(self, code: str, *arguments: str) -> Any:
        """Run this with a client of MLflow; the JSON that it prints last."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}",
                "GIT_PYTHON_REFRESH": "quiet",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    with tempfile.TemporaryDirectory(prefix="mp-") as path:
        one = Real(
            Path(path),
            "PROXY_MLFLOW_WORKERS=2",
            "PROXY_GRACE_SECONDS=5",
            "MLFLOW_TRACKING_PASSWORD=a password for a test 1",
            "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS=true",
        )
        try:
            one.wait_for("ready", 1)
            yield one
        finally:
            one.process.send_signal(signal.SIGTERM)
            try:
                one.process.wait(30)
            finally:
                one.process.kill()
                one.process.wait()
                for pid in one.living():
                    os.kill(pid, signal.SIGKILL)


JOB = """
import json, os, sys, time, mlflow, requests
experiment = mlflow.set_experiment("jobs").experiment_id
@mlflow.trace
def answer(question): return "an answer"
answer("?")
mlflow.flush_trace_async_logging()
trace = mlflow.get_last_active_trace_id()
scorer = {
    "name": "sleeper", "aggregations": None, "mlflow_version": mlflow.__version__, "serialization_version": 1,
    "call_source": "import time\\ntime.sleep(600)\\nreturn True", "call_signature": "(outputs)",
    "original_func_name": "sleeper",
}
jobs = os.environ["MLFLOW_TRACKING_URI"] + "/ajax-api/3.0/jobs/"
params = {"experiment_id": experiment, "serialized_scorer": json.dumps(scorer), "trace_ids": [trace]}
job = requests.post(jobs, json={"job_name": "invoke_scorer", "params": params}).json()
while job["status"] == "PENDING":
    time.sleep(0.2)
    job = requests.get(jobs + job["job_id"]).json()
print(json.dumps(job))
"""


def test_the_real_mlflow_opens_no_port_and_shows_no_database(real: Real) -> None:
    listening = {
        line.split()[9]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    living = real.living()
    assert len(living) > 8
    for pid, line in living.items():
        assert "sqlite:" not in line
        descriptors = [readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()]
        assert not {f"socket:[{inode}]" for inode in listening} & set(descriptors), line


def test_a_migration_of_the_real_mlflow_is_heard(real: Real) -> None:
    assert [line for line in real.events("line") if "Running upgrade" in line["text"]]


def test_a_real_worker_and_a_consumer_and_a_job_come_back_or_go_and_nothing_else_does(real: Real) -> None:
    job = real.python(JOB)
    assert job["status"] == "RUNNING", job
    deadline = time.monotonic() + 30
    while not any("_job_subproc_entry" in line for line in real.living().values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running = real.one("_job_subproc_entry")

    def workers() -> set[int]:
        return {pid for pid, line in real.living().items() if "spawn_main" in line}

    def idle_consumers() -> set[int]:
        consumers = {pid for pid, line in real.living().items() if "_huey_consumer.huey_instance" in line}
        return consumers - {(guard.stat(running) or ("", 0))[1]}

    before = workers(), idle_consumers()
    killed = {running, min(before[0]), min(before[1])}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while killed & set(real.living()) or len(workers()) < 2 or len(idle_consumers()) < len(before[1]):
        assert time.monotonic() < deadline, real.living()
        time.sleep(0.1)
    assert not real.events("restart")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("job runner", "jobs_lost"),
        ("guard", "guard_lost"),
        ("mlflow server", "killed"),
        ("uvicorn", "exited"),
    ],
)
def test_the_real_mlflow_is_supervised_again_when_one_is_killed(real: Real, victim: str, reason: str) -> None:
    if victim == "guard":
        assert real.python(JOB)["status"] == "RUNNING"
    pid = {
        "job runner": lambda: real.one("_job_runner"),
        "guard": real.guard,
        "mlflow server": lambda: real.one("launch.py"),
        "uvicorn": lambda: real.one("-m uvicorn"),
    }[victim]()
    assert real.kill_and_see_it_back(pid) == reason


def test_nothing_of_the_real_mlflow_outlives_the_proxy(real: Real) -> None:
    assert real.python(JOB)["status"] == "RUNNING"
    storage = {value for pid in real.living() if (value := guard.environment_of(pid).get(guard.JOB_STORAGE))}
    assert len(storage) == 1
    real.process.kill()
    real.process.wait()
    deadline = time.monotonic() + 60
    while living := real.living():
        assert time.monotonic() < deadline, living
        time.sleep(0.05)
    assert not Path(storage.pop()).exists()
