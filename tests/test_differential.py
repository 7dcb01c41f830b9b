"""The same requests sent to MLflow directly and through the proxy get the same answers.

The direct one is a `mlflow server` as anybody starts it, beside the service's own on the same database and
the same artifacts, so that what is read is the same to the byte. What a request makes has ids and times of
its own: those are taken out before the comparison, and each side gets names of its own, of the same length.
What differs on purpose is in differential_cases.py, with the reason, and nothing else may.

Answers that MLflow does not give, but HTTP allows: test_differential_answers.py.
"""

from __future__ import annotations

import base64
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import service as services
from differential_cases import API, CASES, OWN_HEADERS, Case
from forwarding import Answer, Client, until
from service import NO_JOBS, PASSWORD, USER, Service, clean_environment

pytestmark = pytest.mark.slow

BASIC = "Authorization: Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
DIRECT, PROXIED = SIDES = ("direct", "proxied")


@dataclass
class Both:
    """The two servers over one database, and what stands for the names in a case on each side."""

    service: Service
    ports: dict[str, int]
    names: dict[str, dict[str, str]]

    def filled(self, text: str, side: str) -> str:
        return re.sub(r"<([a-z ]+)>", lambda found: self.names[side][found[1]], text)

    def ask(self, case: Case, side: str) -> tuple[list[int], Answer]:
        """The interim answers' statuses and the answer."""
        headers = [f"Host: 127.0.0.1:{self.ports[side]}", *case.headers]
        if side == PROXIED:
            headers.append(BASIC)
        body = self.filled((case.body or b"").decode("latin-1"), side).encode("latin-1")
        if case.body is not None:
            headers.append(f"Content-Length: {len(body)}")
        lines = [f"{case.method} {self.filled(case.target, side)} HTTP/1.1", *headers, "", ""]
        with Client(self.ports[side], timeout=120) as client:
            client.send("\r\n".join(lines).encode("latin-1"))
            interim: list[int] = []
            if case.expect:
                interim.append(client.head().status)
            client.send(body)
            if case.chunks is not None:
                for chunk in case.chunks:
                    client.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                client.send(b"0\r\n\r\n")
            while (answer := client.answer(case.method)).status < 200:
                interim.append(answer.status)
            return interim, answer


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    with services.running(folder, PROXY_TLS="off", PYTHONHASHSEED="0") as service, beside(service) as port:
        names = {side: world(service, port, side) for side in SIDES}
        for name in ("experiment", "run", "model", "place", "word"):
            names[PROXIED][name] = names[DIRECT][name]
        yield Both(service, {DIRECT: port, PROXIED: service.port}, names)


@contextlib.contextmanager
def beside(service: Service) -> Iterator[int]:
    """`mlflow server` with its defaults on the service's database and artifacts; its port."""
    port = services.free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{service.data}/mlflow.db"),
        *("--serve-artifacts", "--artifacts-destination", str(service.data / "artifacts")),
    ]
    environment = clean_environment(**NO_JOBS, MLFLOW_DISABLE_TELEMETRY="true", PYTHONHASHSEED="0")
    with (service.folder / "direct.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=service.folder, env=environment, stdout=log, stderr=log)

    def up() -> bool:
        assert process.poll() is None, (service.folder / "direct.log").read_text()
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=30).ok
        return False

    try:
        until(up, 180)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def world(service: Service, port: int, side: str) -> dict[str, str]:
    """An experiment, runs, a model and files, for one side alone or for both."""
    with requests.Session() as session:

        def make(path: str, **what: Any) -> Any:
            answer = session.post(f"http://127.0.0.1:{port}{API}/{path}", json=what, timeout=120)
            assert answer.ok, answer.text
            return answer.json()

        word = f"of-{side}"
        experiment = make("experiments/create", name=f"differential {word}")["experiment_id"]
        own = make("experiments/create", name=f"own {side}")["experiment_id"]
        runs = []
        for name in ("first", "own"):
            run = make("runs/create", experiment_id=experiment, run_name=name, start_time=1)["run"]["info"]
            runs.append(run)
            for step in range(5):
                make(
                    "runs/log-metric",
                    run_id=run["run_id"],
                    key="loss",
                    value=1 / (step + 1),
                    timestamp=step,
                    step=step,
                )
            make("runs/log-parameter", run_id=run["run_id"], key="p", value="1")
            make("runs/set-tag", run_id=run["run_id"], key="gone", value="soon")
        name = f"model {word}"
        place = f"{experiment}/{runs[0]['run_id']}/artifacts"
        make("registered-models/create", name=name)
        make(
            "model-versions/create", name=name, source=f"mlflow-artifacts:/{place}", run_id=runs[0]["run_id"]
        )
        make("registered-models/alias", name=name, alias="best", version="1")
        model = make(
            "logged-models", experiment_id=experiment, name="logged", source_run_id=runs[0]["run_id"]
        )
    put(service.data / "artifacts" / place)
    static = Path(mlflow.__file__).parent / "server" / "js" / "build"
    return {
        "side": side[:6],
        "word": word,
        "experiment": experiment,
        "own experiment": own,
        "run": runs[0]["run_id"],
        "own run": runs[1]["run_id"],
        "place": place,
        "model": model["model"]["info"]["model_id"],
        "script": str(next((static / "static" / "js").glob("main.*.js")).relative_to(static)),
        "sheet": str(next((static / "static" / "css").glob("main.*.css")).relative_to(static)),
    }


def put(folder: Path) -> None:
    (folder / "folder").mkdir(parents=True, exist_ok=True)
    files = {
        "text.txt": "grüße\n".encode(),
        "page.html": b"<!doctype html><title>a page</title><script>alert(1)</script>",
        "data.bin": bytes(range(256)) * 800,
        "data.json": b'{"a": 1}',
        "empty": b"",
        "folder/deep.txt": b"deep",
        "with space.txt": b"space",
        "a+b&c.txt": b"signs",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def scrubbed(body: bytes) -> bytes:
    """Without what differs from one to the next that is made."""
    for pattern, word in (
        (rb"\b[0-9a-f]{32}\b", b"ID"),
        (rb"\b\d{13}\b", b"TIME"),
        (rb"\b\d{17,19}\b", b"ID"),
        (rb'(?<="experiment_id": )"\d+"|(?<=mlflow-artifacts:/)\d+', b"ID"),
        (rb"(direct|proxie)\b", b"SIDE"),
    ):
        body = re.sub(pattern, word, body)
    return body


def compared(headers: list[tuple[str, str]], but: Mapping[str, str]) -> list[tuple[str, bytes]]:
    return sorted(
        (name, scrubbed(value.encode("latin-1")))
        for name, value in headers
        if name not in OWN_HEADERS and name not in but
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_request_gets_the_same_answer(both: Both, case: Case) -> None:
    direct_interim, direct = both.ask(case, DIRECT)
    interim, proxied = both.ask(case, PROXIED)
    assert direct.status == case.status, direct.body[:2000]
    if case.why:
        assert proxied.status == case.proxied, proxied.body[:2000]
        return
    assert proxied.status == direct.status, proxied.body[:2000]
    assert interim == direct_interim
    but = dict(case.but)
    if case.made:
        assert scrubbed(proxied.body) == scrubbed(direct.body)
        but["content-length"] = "an id may have more digits than another"
    elif case.body_differs:
        but["content-length"] = case.body_differs
    else:
        assert proxied.body == direct.body
    assert compared(proxied.headers, but) == compared(direct.headers, but)
