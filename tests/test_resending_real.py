"""A real MLflow that is killed again and again under real clients, which repeat nothing by themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import service as services
from client_that_logs import PER_RUN
from service import Service

from proxy import guard

HERE = Path(__file__).parent
SECONDS = 30.0
RUNS = "/api/2.0/mlflow/runs"


def web_servers(service: Service) -> list[int]:
    """MLflow's web server processes below that service."""
    return [pid for pid in guard.descendants(service.process.pid) if b"uvicorn" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The service after the storm, and what its clients were told."""
    with services.running(tmp_path_factory.mktemp("killed"), PROXY_HOLD_SECONDS="120") as service:
        environment = service.client_environment() | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        clients = [
            subprocess.Popen(
                [sys.executable, str(HERE / "client_that_logs.py"), f"client{number}", str(SECONDS)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for number in range(4)
        ]
        kills = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            # Once requests flow again.
            before = len(service.access_log())
            while len(service.access_log()) < before + 40 and time.monotonic() < end:
                time.sleep(0.05)
            for pid in web_servers(service):
                os.kill(pid, signal.SIGKILL)
                kills += 1
            time.sleep(1)
        ledgers = []
        for client in clients:
            out, _ = client.communicate(timeout=240)
            ledgers.append(json.loads(out.splitlines()[-1]))
        service.wait_ready()
        yield service, ledgers, kills


def test_nothing_fails_but_what_must_not_be_done_twice_and_that_says_so(killed: Any) -> None:
    service, ledgers, kills = killed
    assert kills >= 2
    failed = [failure for ledger in ledgers for failure in ledger["failed"]]
    assert sum(len(ledger["runs"]) for ledger in ledgers) >= 4
    for what, code, message in failed:
        assert what == "create-run", failed
        assert code == "ABORTED"
        assert "may have acted" in message
    again = sum(
        service.metric("mlflow_proxy_resent_requests_total", reason=why) for why in ("unread", "reset")
    )
    assert again > 0


def test_no_run_is_made_twice_and_none_that_was_promised_is_missing(killed: Any) -> None:
    service, ledgers, _ = killed
    names = Counter(run["info"]["run_name"] for run in everything(service))
    for ledger in ledgers:
        for title in ledger["asked"]:
            assert names[title] == 1 if title in ledger["runs"] else names[title] <= 1


def test_no_metric_is_lost_or_doubled(killed: Any) -> None:
    service, ledgers, _ = killed
    session = service.session()
    for ledger in ledgers:
        for run_id, steps in ledger["metrics"].items():
            for key, expected in (("m", sorted(steps)), ("b", sorted(list(range(5)) * PER_RUN))):
                answer = session.get(
                    service.url + RUNS.replace("runs", "metrics/get-history"),
                    params={"run_id": run_id, "metric_key": key},
                    timeout=30,
                )
                values = sorted(int(metric["value"]) for metric in answer.json().get("metrics", []))
                assert values == expected, (run_id, key)


def everything(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        answer = service.session().post(
            f"{service.url}{RUNS}/search",
            json={"experiment_ids": ["0"], "max_results": 1000, "page_token": token},
            timeout=30,
        )
        found += answer.json().get("runs", [])
        token = answer.json().get("next_page_token", "")
        if not token:
            return found
