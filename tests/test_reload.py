"""`mlflow-proxy reload` and SIGHUP on a running service, over a stand-in for MLflow."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import secrets
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_provider
import pytest
import requests
from fake_provider import CLIENT_ID, CLIENT_SECRET
from service import COMMAND, NO_JOBS, Service, address_of, clean_environment, free_port
from sign_in_service import Browser

from proxy.settings import load
from proxy.settings.compare import compare

HERE = Path(__file__).parent
USER, PASSWORD, OTHER = "tester", "correct-horse-battery", "another-horse-battery"
ASK = "/api/2.0/mlflow/experiments/get?experiment_id=0"
FIRST = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}


class Place:
    """A folder with the service's files, and the service that runs in it."""

    service: Service

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan()
        self.settings = dict(FIRST)

    def plan(self, **plan: Any) -> None:
        """What the next MLflow does; see fake_mlflow."""
        (self.folder / "plan.new").write_text(json.dumps(plan))
        (self.folder / "plan.new").rename(self.folder / "plan")

    def write(self, **settings: str) -> None:
        self.settings |= settings
        text = "".join(f"{name}={value}\n" for name, value in self.settings.items() if value)
        (self.folder / "mlflow.env").write_text(text)

    def reload(self, *options: str) -> subprocess.CompletedProcess[str]:
        data = str(self.folder / "mlflow-data")
        return subprocess.run(
            [sys.executable, "-m", "proxy", "reload", "--data-dir", data, *options],
            capture_output=True,
            text=True,
            timeout=150,
            cwd=self.folder,
            env=clean_environment(),
        )

    def ask(self, user: str = USER, password: str = PASSWORD) -> requests.Response:
        return self.service.session(user, password).get(self.service.url + ASK, timeout=30)

    def mlflow(self) -> dict[str, Any]:
        """What MLflow says of itself: its pid, its environment."""
        return self.ask().json()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def busy(self) -> Iterator[list[object]]:
        """Clients that ask all the while; what was not answered with 200 is in the list."""
        failed: list[object] = []
        over = threading.Event()

        def client() -> None:
            with self.service.session(USER, PASSWORD) as session:
                while not over.is_set():
                    try:
                        answer = session.get(self.service.url + ASK, timeout=30)
                    except requests.RequestException as error:
                        failed.append(error)
                    else:
                        if answer.status_code != 200:
                            failed.append((answer.status_code, answer.text))

        clients = [threading.Thread(target=client) for _ in range(4)]
        for one in clients:
            one.start()
        try:
            yield failed
            time.sleep(0.3)
        finally:
            over.set()
            for one in clients:
                one.join()


@contextlib.contextmanager
def living(folder: Path, **settings: str) -> Iterator[Place]:
    place = Place(folder)
    place.write(PROXY_GRACE_SECONDS="3", **settings)
    given = {"PYTHONPATH": str(HERE / "fake_mlflow"), "FAKE_PLAN": str(folder / "plan"), "PROXY_TLS": "off"}
    place.service = _start(folder, given)
    try:
        yield place
    finally:
        assert place.service.end() == 0


def _start(folder: Path, given: dict[str, str]) -> Service:
    # What a test changes is in mlflow.env, as the environment of a process never changes.
    environment = clean_environment(**NO_JOBS, **given, MLFLOW_PORT=str(free_port()))
    with (folder / "access.log").open("ab") as access, (folder / "application.log").open("ab") as log:
        process = subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=access, stderr=log)
    service = Service(process, folder, "", USER, PASSWORD, environment)
    service.url = address_of(folder / "mlflow-data" / "lock", process)
    service.wait_ready()
    return service


def until(true: Callable[[], bool], place: Place) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, place.service.log()
        time.sleep(0.05)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with living(tmp_path) as place:
        yield place


def test_a_setting_of_ours_is_taken_up_and_mlflow_runs_on(place: Place) -> None:
    pid = place.mlflow()["pid"]
    scrape = {"Authorization": "Bearer a-token-for-the-scraper"}
    metrics = place.service.url + "/metrics"
    assert place.service.anonymous().get(metrics, headers=scrape, timeout=20).status_code == 401
    place.write(PROXY_METRICS_TOKEN="a-token-for-the-scraper", PROXY_HOLD_SECONDS="7")
    with place.busy() as failed:
        done = place.reload()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROXY_METRICS_TOKEN: changed" in done.stdout
    assert "PROXY_HOLD_SECONDS: 60 -> 7" in done.stdout
    assert "2 settings taken up" in done.stdout
    assert "a-token-for-the-scraper" not in done.stdout + place.service.log()
    assert failed == []
    assert place.service.anonymous().get(metrics, headers=scrape, timeout=20).status_code == 200
    assert place.mlflow()["pid"] == pid


def test_storage_credentials_are_exchanged_and_no_request_fails(place: Place) -> None:
    place.plan(graceful=True, slow=0.05)
    before = place.mlflow()
    place.write(AWS_ACCESS_KEY_ID="new-id", AWS_SECRET_ACCESS_KEY="new-secret")
    with place.busy() as failed:
        done = place.reload()
    assert done.returncode == 0, done.stdout + done.stderr
    assert failed == []
    after = place.mlflow()
    assert after["pid"] != before["pid"]
    assert after["environ"]["AWS_SECRET_ACCESS_KEY"] == "new-secret"
    assert not Path(f"/proc/{before['pid']}").exists(), "who had the old ones is gone"
    assert "new-secret" not in done.stdout + place.service.log()


def test_a_mistake_changes_nothing_and_is_said_as_at_start(place: Place) -> None:
    pid = place.mlflow()["pid"]
    place.write(PROXY_HOLD_SECOND="7", AWS_ACCESS_KEY_ID="new-id", MLFLOW_TRACKING_PASSWORD=OTHER)
    done = place.reload()
    assert done.returncode == 1
    checked = subprocess.run(
        [sys.executable, "-m", "proxy", "check"],
        capture_output=True,
        text=True,
        cwd=place.folder,
        env=clean_environment(),
    )
    assert checked.returncode == 1
    assert checked.stderr.strip() in done.stdout
    assert "nothing was changed" in done.stdout
    assert place.ask().status_code == 200
    assert place.mlflow()["pid"] == pid
    place.write(PROXY_HOLD_SECOND="")
    assert place.reload().returncode == 0
    assert place.ask().status_code == 401


def test_an_mlflow_that_does_not_become_ready_is_given_up_and_nothing_else_is_taken_up(place: Place) -> None:
    pid = place.mlflow()["pid"]
    place.plan(exit=4, print=["this is why"])
    place.write(AWS_ACCESS_KEY_ID="new-id", MLFLOW_TRACKING_PASSWORD=OTHER)
    with place.busy() as failed:
        done = place.reload()
    assert done.returncode == 1
    assert "exit code 4" in done.stdout
    assert "this is why" in done.stdout
    assert "nothing was changed" in done.stdout
    assert failed == []
    place.plan()
    assert place.mlflow()["pid"] == pid
    assert place.reload().returncode == 0
    assert place.ask(password=OTHER).json()["environ"]["AWS_ACCESS_KEY_ID"] == "new-id"


def test_what_needs_a_full_restart_is_said_and_left(place: Place) -> None:
    place.write(PROXY_DATA_DIR="elsewhere", PROXY_LOG_FORMAT="combined", PROXY_NAME="Ours")
    done = place.reload()
    assert done.returncode == 0
    assert "PROXY_DATA_DIR: left as it is, it needs a restart of the service" in done.stdout
    assert "PROXY_LOG_FORMAT: left as it is" in done.stdout
    assert "1 settings taken up, 2 left for a restart of the service" in done.stdout
    assert not (place.folder / "elsewhere").exists()
    assert "2 left" in place.reload().stdout, "and it is said again"


def test_sighup_does_the_same_with_its_result_in_the_log(place: Place) -> None:
    place.write(MLFLOW_TRACKING_PASSWORD=OTHER)
    place.service.process.send_signal(signal.SIGHUP)
    until(lambda: "reload: done" in place.service.log(), place)
    assert place.ask().status_code == 401
    assert place.ask(password=OTHER).status_code == 200


def test_the_audit_log_says_who_had_what_read_again_and_no_value(place: Place) -> None:
    place.write(
        PROXY_METRICS_TOKEN="a-token-for-the-scraper", PROXY_HOLD_SECONDS="7", PROXY_LOG_FORMAT="combined"
    )
    assert place.reload().returncode == 0
    place.write(PROXY_HOLD_SECONDS="never")
    assert place.reload().returncode == 1
    place.plan(exit=4)
    place.write(PROXY_HOLD_SECONDS="8", AWS_SECRET_ACCESS_KEY="new-secret")
    assert place.reload().returncode == 1
    place.plan()
    place.service.process.send_signal(signal.SIGHUP)
    file = place.folder / "mlflow-data" / "audit" / "audit.jsonl"

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in file.read_text().splitlines()]
        return [line for line in found if line["event"] == "settings_reloaded"]

    until(lambda: len(lines()) == 4, place)
    command, mistake, unready, signalled = lines()
    me = pwd.getpwuid(os.getuid()).pw_name
    assert (command["user"], command["auth"], command["outcome"]) == (me, "command", "success")
    assert command["details"] == {
        "way": "command",
        "changed": "PROXY_METRICS_TOKEN, PROXY_HOLD_SECONDS",
        "left": "PROXY_LOG_FORMAT",
        "restarted": False,
    }
    assert (mistake["user"], mistake["outcome"]) == (me, "failed")
    assert mistake["details"] == {"way": "command", "reason": "mistake"}
    assert (unready["outcome"], unready["details"]["reason"]) == ("failed", "not_ready")
    assert (signalled["user"], signalled["auth"], signalled["outcome"]) == (None, None, "success")
    assert signalled["details"] == {
        "way": "signal",
        "changed": "PROXY_HOLD_SECONDS, AWS_SECRET_ACCESS_KEY",
        "left": "PROXY_LOG_FORMAT",
        "restarted": True,
    }
    assert "scraper" not in file.read_text()
    assert "new-secret" not in file.read_text()


def test_users_are_exchanged_and_a_request_under_way_is_finished(place: Place) -> None:
    place.plan(slow=6)
    answers: list[int] = []
    long = threading.Thread(target=lambda: answers.append(place.ask().status_code))
    long.start()
    until(lambda: place.service.metric("mlflow_proxy_requests_in_flight") >= 2, place)  # one asks for that
    place.write(MLFLOW_TRACKING_PASSWORD=OTHER)
    assert place.reload().returncode == 0
    long.join()
    assert answers == [200]
    place.plan()
    assert place.ask().status_code == 401
    assert place.ask(password=OTHER).status_code == 200


def test_who_is_locked_out_stays_so_unless_what_is_allowed_has_changed(place: Place) -> None:
    place.write(PROXY_LOGIN_FAILURES="3")
    assert place.reload().returncode == 0
    for number in range(3):
        assert place.ask(password=f"guess {number}").status_code == 401
    assert place.ask().status_code == 429
    place.write(PROXY_HOLD_SECONDS="7")
    assert place.reload().returncode == 0
    assert place.ask().status_code == 429
    place.write(PROXY_LOGIN_FAILURES="4")
    assert place.reload().returncode == 0
    assert place.ask().status_code == 200


def test_a_script_with_an_old_password_counts_once_over_a_reload_too(place: Place) -> None:
    place.write(PROXY_LOGIN_FAILURES="3")
    assert place.reload().returncode == 0
    for number in range(3):
        assert place.ask(password="the old one").status_code in (401, 429)
        place.write(PROXY_HOLD_SECONDS=str(10 + number))
        assert place.reload().returncode == 0
    assert place.ask(password="the old one").status_code == 429
    assert place.ask().status_code == 200


def test_mlflow_is_restarted_where_that_is_asked_for(place: Place) -> None:
    pid = place.mlflow()["pid"]
    assert place.reload("--roll").returncode == 0
    assert place.mlflow()["pid"] != pid


def test_without_a_service_a_reload_says_so(tmp_path: Path) -> None:
    done = Place(tmp_path).reload()
    assert done.returncode == 1
    assert "no mlflow-proxy runs on it" in done.stderr


def test_nobody_else_may_enter_the_control_socket(place: Place) -> None:
    held = json.loads((place.folder / "mlflow-data" / "lock").read_text())
    socket = Path(held["control"])
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


def test_reloads_leave_no_task_thread_or_descriptor_behind(place: Place) -> None:
    place.reload()
    assert place.ask().status_code == 200
    time.sleep(1)
    folder = Path(f"/proc/{place.service.process.pid}")

    def count(what: str) -> int:
        return len(list((folder / what).iterdir()))

    before = count("fd"), count("task")
    for number in range(8):
        place.write(PROXY_HOLD_SECONDS=str(10 + number))
        assert place.reload().returncode == 0
        assert place.ask().status_code == 200
    # Connections, of clients and to MLflow, come and go; what each reload left would be eight.
    until(lambda: count("fd") <= before[0] + 3 and count("task") <= before[1] + 1, place)


def test_secrets_are_exchanged_and_nobody_is_signed_out(tmp_path: Path) -> None:
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    with fake_provider.running() as provider:
        signing_in = {
            "MLFLOW_UI_OAUTH_ISSUER_URL": provider.issuer,
            "MLFLOW_UI_OAUTH_CLIENT_ID": CLIENT_ID,
            "MLFLOW_UI_OAUTH_CLIENT_SECRET": CLIENT_SECRET,
            "PROXY_DEFAULT_ROLE": "viewer",
            "PROXY_COOKIE_SECRET": old,
        }
        with living(tmp_path, **signing_in) as place:
            first, service = Browser(), place.service
            assert first.sign_in(service).status == 303  # type: ignore[arg-type]
            who = first.who(service)  # type: ignore[arg-type]
            assert who is not None
            midway = Browser()
            back = midway.at_provider(service)  # type: ignore[arg-type]
            place.write(PROXY_COOKIE_SECRET=f"{new},{old}")
            assert place.reload().returncode == 0
            assert first.who(service) == who, "the session goes on"  # type: ignore[arg-type]
            assert midway.get(back).status == 303, "and so does signing in, begun before"
            assert midway.who(service) is not None  # type: ignore[arg-type]

            place.write(MLFLOW_UI_OAUTH_CLIENT_SECRET="another-secret-of-the-client")
            assert place.reload().returncode == 0
            assert first.who(service) == who  # type: ignore[arg-type]
            Browser().sign_in(service)  # type: ignore[arg-type]
            sent = base64.b64encode(f"{CLIENT_ID}:another-secret-of-the-client".encode()).decode()
            assert provider.seen("token")[-1]["headers"]["Authorization"] == f"Basic {sent}"


def test_a_comparison_shows_no_secret_and_keeps_what_is_opened_once(tmp_path: Path) -> None:
    def read(**texts: str) -> Any:
        return load({"PROXY_DATA_DIR": str(tmp_path), **texts}, environ={}, directory=tmp_path)

    database = "postgresql://{}:secret-word@db.example.com/x"
    found = compare(
        read(PROXY_DATABASE_URL=database.format("one"), MLFLOW_PORT="1000"),
        read(PROXY_DATABASE_URL=database.format("two"), MLFLOW_PORT="2000", MLFLOW_X="1"),
    )
    assert [(change.variable, change.needs_start) for change in found.changes] == [
        ("MLFLOW_PORT", True),
        ("PROXY_DATABASE_URL", False),
        ("MLFLOW_X", False),
    ]
    assert found.moves_login
    assert "secret-word" not in str(found.changes)
    assert found.settings.port == 1000
    elsewhere = compare(
        read(PROXY_DATABASE_URL=database.format("one")),
        read(PROXY_DATABASE_URL=database.format("one").replace("db.", "other.")),
    )
    assert [change.needs_start for change in elsewhere.changes] == [True]
    kept = elsewhere.settings.database_url
    assert kept is not None
    assert "db.example.com" in kept.get_secret_value()
