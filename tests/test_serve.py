"""The service from outside: what it answers from the first second, to whom, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from service import PASSWORD, USER, Service, free_port, running, start

SEARCH = "/api/2.0/mlflow/experiments/search"


def test_it_asks_for_a_password(service: Service) -> None:
    answer = service.anonymous().get(service.url + "/", timeout=10)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert answer.json()["error_code"] == "UNAUTHENTICATED"


def test_a_right_password_shows_mlflow(service: Service) -> None:
    answer = service.session().get(service.url + "/", timeout=10)
    assert answer.status_code == 200
    assert "<title>MLflow</title>" in answer.text
    found = service.session().post(service.url + SEARCH, json={"max_results": 5}, timeout=10)
    assert [experiment["name"] for experiment in found.json()["experiments"]] == ["Default"]


def test_the_ui_is_told_who_is_signed_in(service: Service) -> None:
    answer = service.session().get(service.url + "/ajax-api/2.0/mlflow/users/current", timeout=10)
    assert answer.json()["user"]["username"] == USER
    assert answer.json()["user"]["is_admin"] is True


def test_metrics_need_a_credential(service: Service) -> None:
    assert service.anonymous().get(service.url + "/metrics", timeout=10).status_code == 401
    assert service.metric("mlflow_proxy_mlflow_up") == 1


def test_health_and_version_are_open_by_their_exact_path_alone(service: Service) -> None:
    anonymous = service.anonymous()
    assert anonymous.get(service.url + "/health", timeout=10).text == "OK"
    assert anonymous.get(service.url + "/version", timeout=10).text == "3.17.2"
    for path in ("/health/", "/healthz", "/version/x"):
        assert anonymous.get(service.url + path, timeout=10).status_code == 401


def test_it_answers_from_the_first_second_and_holds_calls_until_mlflow_is_ready(tmp_path: Path) -> None:
    service = start(tmp_path, ready=False)
    try:
        anonymous = service.anonymous()
        assert anonymous.get(service.url + "/livez", timeout=20).status_code == 200
        ready = anonymous.get(service.url + "/readyz", timeout=20)
        assert ready.status_code == 503
        assert "starting" in ready.text
        page = service.session().get(
            service.url + "/", headers={"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}, timeout=5
        )
        assert page.status_code == 503
        assert "/readyz" in page.text
        held = service.session().post(service.url + SEARCH, json={"max_results": 1}, timeout=60)
        assert held.status_code == 200
        assert service.logged(held.headers["x-request-id"])["duration_ms"] > 500
    finally:
        assert service.end() == 0
    assert not list((service.data).glob("*.sock"))


def test_a_call_is_held_for_so_long_and_no_longer(tmp_path: Path) -> None:
    with running(tmp_path, ready=False, PROXY_HOLD_SECONDS="1") as service:
        began = time.monotonic()
        answer = service.session().post(service.url + SEARCH, json={"max_results": 1}, timeout=30)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert time.monotonic() - began < 5


def test_starting_again_keeps_the_data_the_password_and_the_certificate(tmp_path: Path) -> None:
    with running(tmp_path, own_password=False) as first:
        password, authority = first.password, first.ca.read_bytes()  # type: ignore[union-attr]
        answer = first.session().post(
            first.url + "/api/2.0/mlflow/experiments/create", json={"name": "kept"}, timeout=10
        )
        experiment = answer.json()["experiment_id"]
        assert password in first.log()
    with running(tmp_path, own_password=False) as second:
        assert (second.password, second.ca.read_bytes()) == (password, authority)  # type: ignore[union-attr]
        got = second.session().get(
            second.url + "/api/2.0/mlflow/experiments/get", params={"experiment_id": experiment}, timeout=10
        )
        assert got.json()["experiment"]["name"] == "kept"


def test_a_password_that_a_person_set_is_printed_nowhere(service: Service) -> None:
    assert PASSWORD not in service.log()
    assert PASSWORD not in (service.folder / "access.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_finishes_what_is_under_way_and_exits_with_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    service = start(tmp_path, ready=False)
    service.process.send_signal(number)
    assert service.process.wait(30) == 0


def test_plain_http_behind_a_terminator(tmp_path: Path) -> None:
    with running(
        tmp_path,
        PROXY_TLS="off",
        PROXY_PUBLIC_URL="https://mlflow.example.com/tracking",
    ) as service:
        base = service.local
        session = requests.Session()
        session.trust_env = False
        session.auth = (USER, PASSWORD)
        session.headers["Host"] = "mlflow.example.com"
        moved = session.get(base + "/tracking", allow_redirects=False, timeout=10)
        assert (moved.status_code, moved.headers["location"]) == (308, "/tracking/")
        assert "<title>MLflow</title>" in session.get(base + "/tracking/", timeout=10).text
        answer = session.post(
            f"{base}/tracking{SEARCH}",
            json={"max_results": 1},
            headers={"Origin": "https://mlflow.example.com"},
            timeout=10,
        )
        assert answer.status_code == 200
        other = session.post(
            f"{base}/tracking{SEARCH}",
            json={"max_results": 1},
            headers={"Origin": "http://mlflow.example.com"},
            timeout=10,
        )
        assert other.status_code == 403
        assert session.get(base + SEARCH, timeout=10).status_code == 404
        assert session.get(base + "/livez", timeout=10).status_code == 200


def test_metrics_have_an_address_of_their_own_if_asked(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, ready=False, PROXY_METRICS_ADDRESS=f"127.0.0.1:{port}") as service:
        base = f"http://127.0.0.1:{port}"
        answer = requests.get(f"{base}/metrics", timeout=10)
        assert answer.status_code == 200
        assert "mlflow_proxy_build_info{" in answer.text
        for path in ("/", SEARCH, "/health"):
            assert requests.get(base + path, timeout=10).status_code == 404
        assert service.anonymous().get(service.url + "/metrics", timeout=10).status_code == 401


DOWNLOAD = """
import mlflow, pathlib, tempfile
with mlflow.start_run() as run:
    mlflow.log_text("told to go elsewhere", "note.txt")
fetched = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="note.txt")
print(pathlib.Path(fetched).read_text())
"""


def test_a_client_that_is_told_to_fetch_directly_falls_back_to_us(service: Service, tmp_path: Path) -> None:
    environment = service.client_environment() | {"MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true"}
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.rstrip().endswith("told to go elsewhere"), done.stderr
    assert any(line["refusal"] == "not_served" and line["status"] == 501 for line in service.access_log())
