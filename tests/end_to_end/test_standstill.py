"""The real MLflow and a real PostgreSQL stand still (SIGSTOP): noticed, outlived, replaced if that helps."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import requests
from databases import PostgreSQL, database
from programs import needs
from service import Service, running

from proxy import guard

pytestmark = pytest.mark.slow

SEARCH = "/api/2.0/mlflow/experiments/search"
# A call is held while another MLflow starts, which takes its time on a busy machine.
SOON = {
    "PROXY_READY_INTERVAL": "1",
    "PROXY_READY_TIMEOUT": "3",
    "PROXY_GRACE_SECONDS": "5",
    "PROXY_HOLD_SECONDS": "150",
}
PATIENCE = 120.0


def until(true: Callable[[], object], service: Service, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, service.log()[-5000:]
        time.sleep(0.1)


def web_servers(service: Service) -> list[int]:
    """The processes of uvicorn's that answer requests: its workers, or itself where there is but one."""
    below = guard.descendants(service.process.pid)
    lines = {}
    for pid in below:
        with contextlib.suppress(OSError):
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    workers = [pid for pid, line in lines.items() if b"spawn_main" in line]
    return workers or [pid for pid, line in lines.items() if b"uvicorn\0" in line and b"fastapi_app" in line]


@contextlib.contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """They stand still; in the end those that are left go on."""
    chosen = list(pids)
    assert chosen
    guard.send(chosen, signal.SIGSTOP)
    try:
        yield
    finally:
        guard.send(chosen, signal.SIGCONT)


class Watching:
    """Asks /livez all the while."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self.seen: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        session = self._service.anonymous()
        while not self._over.wait(0.2):
            try:
                self.seen.append(session.get(self._service.local + "/livez", timeout=20).status_code)
            except requests.RequestException as error:
                self.seen.append(error)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert set(self.seen) == {200}


class Call(threading.Thread):
    """A search by a client that waits for its answer."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = search(self._service).status_code
        except requests.RequestException as error:
            self.outcome = error


def search(service: Service) -> requests.Response:
    return service.session().post(service.url + SEARCH, json={"max_results": 1}, timeout=170)


def ready(service: Service) -> requests.Response:
    return service.anonymous().get(service.local + "/readyz?verbose", timeout=20)


def problems(service: Service, kind: str) -> float:
    return service.metric("mlflow_proxy_mlflow_problems_total", kind=kind)


def replace_from_now_on(service: Service) -> None:
    (service.folder / "mlflow.env").write_text("PROXY_STUCK_RESTART=3\n")
    service.process.send_signal(signal.SIGHUP)
    until(lambda: "reload: done: 1 settings taken up" in service.log(), service)


def test_a_web_server_that_stands_still_is_said_and_goes_on_or_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, PROXY_MLFLOW_WORKERS="1", **SOON) as service, Watching(service):
        (uvicorn,) = web_servers(service)
        with stopped([uvicorn]):
            text = "MLflow takes connections and has answered nothing within 3 s"
            until(lambda: f"[-]database failed: {text}" in ready(service).text, service)
            assert ready(service).status_code == 503
            assert f"MLflow is not ready: {text}" in service.log()
            assert problems(service, "silent") >= 1  # more where the machine itself stood still before
            call = Call(service)
        call.join()
        assert call.outcome == 200
        until(lambda: ready(service).status_code == 200, service)
        assert web_servers(service) == [uvicorn]
        assert "is replaced" not in service.log()

        replace_from_now_on(service)
        with stopped([uvicorn]):
            call = Call(service)
            until(lambda: "(PROXY_STUCK_RESTART): MLflow takes connections" in service.log(), service)
            until(lambda: ready(service).status_code == 200, service)
            assert search(service).status_code == 200
            call.join()
            assert call.outcome == 200, "it was sent again"
            until(lambda: service.metric("mlflow_proxy_mlflow_rolls_total", result="done") == 1, service)
            assert not Path(f"/proc/{uvicorn}").exists()
        assert uvicorn not in web_servers(service)
        assert service.metric("mlflow_proxy_mlflow_restarts_total") == 0


def test_one_worker_of_two_that_stands_still_is_named_and_goes_on_or_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, PROXY_MLFLOW_WORKERS="2", **SOON) as service, Watching(service):
        one, other = web_servers(service)

        def said() -> bool:
            return f"workers (process {one}) has answered nothing within 3 s" in ready(service).text

        # Each is to have answered the probe on a connection of its own before.
        time.sleep(3)
        with stopped([one]):
            until(said, service)
            assert ready(service).status_code == 200, "the other one serves"
            assert problems(service, "worker") >= 1
            calls = [Call(service) for _ in range(8)]
        for call in calls:
            call.join()
        assert [call.outcome for call in calls] == [200] * 8
        until(lambda: "failed" not in ready(service).text, service)
        assert set(web_servers(service)) == {one, other}

        replace_from_now_on(service)
        with stopped([one]):
            calls = [Call(service) for _ in range(8)]
            until(lambda: service.metric("mlflow_proxy_mlflow_rolls_total", result="done") == 1, service, 150)
            for call in calls:
                call.join()
            assert [call.outcome for call in calls] == [200] * 8
            assert not {one, other} & set(web_servers(service))
        until(lambda: "failed" not in ready(service).text, service)


@needs(*PostgreSQL.programs)
def test_the_service_ends_though_its_database_stands_still(tmp_path: Path) -> None:
    with database(PostgreSQL) as server:
        settings = {"MLFLOW_BACKEND_STORE_URI": server.uri(), "PROXY_DATABASE_URL": server.uri()}
        with running(tmp_path, **settings, **SOON) as service:
            assert server.process is not None
            with stopped([server.process.pid, *guard.descendants(server.process.pid)]):
                calls = [Call(service) for _ in range(4)]
                until(lambda: ready(service).status_code == 503, service)
                until(lambda: "database of sessions and tokens does not answer" in service.log(), service)
                assert service.end(100) == 0
                for call in calls:
                    call.join()
            assert "ended" in service.log()


@needs(*PostgreSQL.programs)
def test_a_database_that_stands_still_is_said_and_all_goes_on_when_it_does(tmp_path: Path) -> None:
    with database(PostgreSQL) as server:
        settings = {"MLFLOW_BACKEND_STORE_URI": server.uri(), "PROXY_DATABASE_URL": server.uri()}
        with running(tmp_path, PROXY_STUCK_RESTART="2", **settings, **SOON) as service, Watching(service):
            assert server.process is not None
            before = web_servers(service)
            inside = service.session().get(service.url + "/", timeout=20)
            postgres = [server.process.pid, *guard.descendants(server.process.pid)]
            with stopped(postgres):
                calls = [Call(service) for _ in range(8)]
                place = f"the database at 127.0.0.1:{server.port}"
                text = f"a call that reaches {place} was not answered within 3 s"
                until(lambda: f"[-]database failed: {text}" in ready(service).text, service)
                assert ready(service).status_code == 503
                assert "[+]mlflow ok" in ready(service).text
                assert f"MLflow is not ready: {text}" in service.log()
                assert problems(service, "frozen") >= 1
                assert service.session().get(service.url + "/", timeout=20).content == inside.content
                # A second MLflow would stand still before the same database: it is not even started.
                until(lambda: "the old one stays" in service.log(), service)
                assert service.metric("mlflow_proxy_mlflow_rolls_total", result="failed") == 1
                calls.append(Call(service))
            for call in calls:
                call.join()
            assert [call.outcome for call in calls] == [200] * 9
            until(lambda: ready(service).status_code == 200, service)
            assert "[+]database ok" in ready(service).text  # the probe of it, beside, is older
            assert web_servers(service) == before
            name = {"name": "made after it"}
            made = service.session().post(
                service.url + "/api/2.0/mlflow/experiments/create", json=name, timeout=60
            )
            assert made.status_code == 200
            assert service.metric("mlflow_proxy_mlflow_restarts_total") == 0
            assert "p@ss" not in service.log()
