"""PostgreSQL and MariaDB as a person writes them: they work, keep their password, and are missed in time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databases import PASSWORD, Database, MariaDB, PostgreSQL, database
from programs import needs
from service import Service, running

pytestmark = pytest.mark.slow

QUICKSTART = Path(__file__).with_name("quickstart.py")
SEARCH = "/api/2.0/mlflow/experiments/search"
SOON = {"PROXY_READY_INTERVAL": "1", "PROXY_READY_TIMEOUT": "3"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(PostgreSQL, marks=needs(*PostgreSQL.programs)),
        pytest.param(MariaDB, marks=needs(*MariaDB.programs)),
    ],
)
def server(request: pytest.FixtureRequest) -> Iterator[Database]:
    with database(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def service(server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with running(folder, MLFLOW_BACKEND_STORE_URI=server.uri(), **SOON) as service:
        yield service


def test_the_quickstart_works_and_the_password_is_shown_nowhere(
    server: Database, service: Service, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(QUICKSTART), str(result), "1000"],
        env=service.client_environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made: dict[str, Any] = json.loads(result.read_text())
    assert made["metrics"] == [100, 900]
    assert made["params"] == {"learning_rate": "0.01", "epochs": "500"}
    assert made["artifacts"][0]["sent"] == made["artifacts"][0]["got"]
    assert made["model_version"] == "READY"
    assert made["traces"] == [["greet"]]
    assert not (service.data / "mlflow.db").exists()
    for text in (service.log(), (service.folder / "access.log").read_text(), *command_lines()):
        assert not shows_password(server, text)


def test_a_stopped_database_is_missed_within_seconds_and_found_again(
    server: Database, service: Service
) -> None:
    generation = service.metric("mlflow_proxy_mlflow_generation")
    server.stop()
    try:
        ready = probe(service, 503)
        assert "database" in ready.text
        assert "OperationalError" not in ready.text
        wait_for_driver(service)
        answer = service.session().post(service.url + SEARCH, json={"max_results": 1}, timeout=100)
        assert answer.status_code == 503
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert service.anonymous().get(service.url + "/livez", timeout=20).status_code == 200
    finally:
        server.start()
    probe(service, 200)
    found = service.session().post(service.url + SEARCH, json={"max_results": 1}, timeout=30)
    assert found.status_code == 200
    assert service.metric("mlflow_proxy_mlflow_generation") == generation
    for text in (ready.text, answer.text, service.log()):
        assert not shows_password(server, text)


@pytest.mark.parametrize("where", ["log", "readyz"])
def test_a_wrong_password_is_said_while_it_starts(server: Database, tmp_path: Path, where: str) -> None:
    uri = server.uri("wr@ng:p/ss%")
    with running(tmp_path, ready=False, MLFLOW_BACKEND_STORE_URI=uri, **SOON) as service:
        deadline = time.monotonic() + 60
        while True:
            text = service.log() if where == "log" else probe(service, 503).text
            shown = (text, *command_lines())
            assert not [line for line in shown if "wr@ng:p/ss%" in line or uri.split("@")[0] in line]
            if re.search("password authentication failed|Access denied|refuses", text):
                break
            assert time.monotonic() < deadline, text
            time.sleep(0.5)


def wait_for_driver(service: Service) -> None:
    """Until the log has the driver's own words, of a connection that ended or of one that was not taken."""
    words = "refused|Can't connect|terminating|closed the connection|Lost connection|gone away"
    deadline = time.monotonic() + 30
    while not re.search(f"can't be reached: .*OperationalError.*({words})", service.log()):
        assert time.monotonic() < deadline, service.log()
        time.sleep(0.2)


def probe(service: Service, status: int, patience: float = 60) -> requests.Response:
    """The answer of /readyz once it has that status."""
    deadline = time.monotonic() + patience
    while True:
        answer = service.anonymous().get(service.local + "/readyz", timeout=20)
        if answer.status_code == status:
            return answer
        assert time.monotonic() < deadline, (answer.text, service.log())
        time.sleep(0.1)


def shows_password(server: Database, text: str) -> bool:
    return PASSWORD in text or server.uri().split(":")[2].split("@")[0] in text


def command_lines() -> list[str]:
    """Of every process of this machine."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return lines
