"""Where a secret could show: logs, metrics, command lines, errors, other processes' environments."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import service as services
import wire
from attacked import METRICS_TOKEN, PASSWORDS, Target
from service import PASSWORD
from tap import arguments, descendants, environment, web_server

DATABASE = "the-database-password"
STORAGE = "the-storage-secret-key"


def command_lines(service: services.Service) -> str:
    lines = []
    for pid in (service.process.pid, *descendants(service.process.pid)):
        with contextlib.suppress(OSError):
            lines.append(" ".join(arguments(pid)))
    return "\n".join(lines)


def secrets_of(target: Target) -> list[str]:
    basics = [wire.basic(user, password)[1].split()[1] for user, password in PASSWORDS.items()]
    jobs = environment(web_server(target.service))["MLFLOW_TRACKING_TOKEN"]
    hashes = [line.split(":")[1] for line in (target.service.folder / "users").read_text().splitlines()]
    return [PASSWORD, METRICS_TOKEN, jobs, *PASSWORDS.values(), *basics, *hashes]


def test_no_secret_stands_in_a_log_a_metric_a_command_line_or_an_error(target: Target) -> None:
    service = target.service
    for user, password in PASSWORDS.items():
        secret = f"?password={password}&token={METRICS_TOKEN}"
        for method, path in (
            ("GET", "/api/2.0/mlflow/experiments/get" + secret),
            ("GET", "/no/such/route" + secret),
            ("GET", "//refused" + secret),
            ("POST", "/graphql" + secret),
        ):
            answer = target.ask(user, method, path, ("Cookie", f"session={password}"), ("Referer", password))
            target.logged(answer)
            assert password not in answer.text
    shown = {
        "access log": (service.folder / "access.log").read_text(),
        "application log": service.log(),
        "metrics": target.ask("ada", "GET", "/metrics").text,
        "command lines": command_lines(service),
        "readyz": wire.ask(service, "GET", "/readyz?verbose").text,
    }
    for where, text in shown.items():
        assert text
        for secret in secrets_of(target):
            assert secret not in text, where


def test_mlflow_knows_none_of_our_secrets_but_the_jobs_own(target: Target) -> None:
    for pid in descendants(target.service.process.pid):
        deadline = time.monotonic() + 30
        # A process that has not begun its program yet has its parent's environment.
        while _ours(known := _environment(pid)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not _ours(known)
        for secret in (PASSWORD, METRICS_TOKEN, *PASSWORDS.values()):
            assert secret not in known.values()
        assert known.get("MLFLOW_TRACKING_USERNAME", "mlflow-jobs") == "mlflow-jobs"


def _environment(pid: int) -> dict[str, str]:
    with contextlib.suppress(OSError):  # it may be over
        return environment(pid)
    return {}


def _ours(known: dict[str, str]) -> list[str]:
    return [name for name in known if name.startswith("PROXY_") and name != "PROXY_GENERATION"]


def test_a_failure_of_ours_shows_nothing_of_the_inside(target: Target) -> None:
    for method, path in (
        ("GET", "/no/such"),
        ("POST", "/graphql"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/.."),
    ):
        text = target.ask("vera", method, path).text + target.ask(None, method, path).text
        assert "Traceback" not in text
        assert str(Path(__file__).parent.parent) not in text
        assert ".sock" not in text


def test_files_of_ours_are_nobody_else_s_to_read(target: Target) -> None:
    data = target.service.data
    for path in data.rglob("*"):
        private = "key" in path.name or path.name in ("password", "secrets.json") or path.suffix == ".key"
        if path.is_file() and private:
            assert path.stat().st_mode & 0o077 == 0, path
    command = arguments(web_server(target.service))
    socket = Path(command[command.index("--uds") + 1])
    assert socket.parent.stat().st_mode & 0o077 == 0


def test_the_database_s_password_and_the_storage_s_key_show_nowhere_while_it_fails(tmp_path: Path) -> None:
    """The database is not there: its address, which has the password, is what there is to be said of that."""
    with services.running(
        tmp_path,
        ready=False,
        MLFLOW_BACKEND_STORE_URI=f"postgresql://mlflow:{DATABASE}@127.0.0.1:{services.free_port()}/mlflow",
        MLFLOW_DEFAULT_ARTIFACT_ROOT="s3://bucket/path",
        AWS_ACCESS_KEY_ID="an-access-key",
        AWS_SECRET_ACCESS_KEY=STORAGE,
        PROXY_HOLD_SECONDS="1",
        PROXY_LOG_LEVEL="debug",
    ) as service:
        deadline = time.monotonic() + 40
        while "can't be reached" not in service.log() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "can't be reached" in service.log()
        session = service.session()
        shown = [
            service.log(),
            command_lines(service),
            session.get(f"{service.url}/readyz?verbose", timeout=10).text,
            session.get(f"{service.url}/api/2.0/mlflow/experiments/search", timeout=10).text,
            session.get(f"{service.url}/metrics", timeout=10).text,
            (service.folder / "access.log").read_text(),
        ]
        for text in shown:
            assert text
            assert DATABASE not in text
            assert STORAGE not in text


@pytest.mark.slow
def test_a_client_is_not_told_of_ways_to_the_storage_that_go_past_us(tmp_path: Path) -> None:
    with services.running(
        tmp_path,
        MLFLOW_DEFAULT_ARTIFACT_ROOT="s3://bucket/path",
        AWS_ACCESS_KEY_ID="an-access-key",
        AWS_SECRET_ACCESS_KEY=STORAGE,
    ) as service:
        told = service.session().get(f"{service.url}/api/3.0/mlflow/server-info", timeout=20).json()
        ways = {name: value for name, value in told.items() if name.startswith(("multipart_", "presigned_"))}
        assert ways
        assert not any(ways.values())
