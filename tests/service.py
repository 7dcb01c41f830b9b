"""A real `mlflow-proxy serve` in a process of its own, as the tests drive it: started, asked, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

COMMAND = (sys.executable, "-m", "proxy", "serve")
USER = "tester"
PASSWORD = "correct-horse-battery"
# MLflow's job runner and consumers cost 1.3 GB and 27 CPU seconds a start; tests of jobs switch it on.
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a person who has set nothing of ours or MLflow's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "_MLFLOW_", "PROXY_", "AWS_", "AZURE_", "GOOGLE_", "OTEL_"))
        and name != "REQUESTS_CA_BUNDLE"
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


@dataclass
class Service:
    """A running service. `url` has no slash at its end."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str
    user: str
    password: str
    environment: Mapping[str, str] = field(repr=False)

    @property
    def data(self) -> Path:
        return self.folder / "mlflow-data"

    @property
    def ca(self) -> Path | None:
        path = self.data / "tls" / "ca.pem"
        return path if path.exists() else None

    @property
    def port(self) -> int:
        return int(self.environment["MLFLOW_PORT"])

    @property
    def local(self) -> str:
        """Where it listens, whatever its public URL is."""
        scheme = "http" if self.environment.get("PROXY_TLS") == "off" else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    def session(self, user: str | None = None, password: str | None = None) -> requests.Session:
        """An HTTP client with a credential (the service's own unless given) and trust in its certificate."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca) if self.ca else True
        session.auth = (user or self.user, password or self.password)
        return session

    def anonymous(self) -> requests.Session:
        session = self.session()
        session.auth = None
        return session

    def tls(self) -> ssl.SSLContext | None:
        """For a raw socket; None where the service speaks plain HTTP."""
        if self.local.startswith("http:"):
            return None
        return ssl.create_default_context(cafile=self.ca)

    def client_environment(self, user: str | None = None, password: str | None = None) -> dict[str, str]:
        """The environment of an unmodified MLflow client in a process of its own, as the service prints."""
        more = {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": user or self.user,
            "MLFLOW_TRACKING_PASSWORD": password or self.password,
        }
        if self.ca:
            more["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(self.ca)
        return clean_environment(**more)

    def access_log(self) -> list[dict[str, Any]]:
        """Every line so far."""
        text = (self.folder / "access.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def logged(self, request_id: str, patience: float = 30) -> dict[str, Any]:
        """The line of one request (by X-Request-Id); waits for the writer."""
        for line in self._tries(patience):
            if line["request_id"] == request_id:
                return line
        raise AssertionError(f"no line for {request_id} in {self.folder / 'access.log'}")

    def _tries(self, patience: float) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            yield from reversed(self.access_log())
            time.sleep(0.05)

    def log(self) -> str:
        """The application log and what was printed for a person."""
        return (self.folder / "application.log").read_text()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name (with the prefix) whose labels include those given."""
        text = self.session().get(f"{self.url}/metrics", timeout=10).text
        total = 0.0
        for line in text.splitlines():
            if line.startswith(("#", " ")):
                continue
            series, _, value = line.rpartition(" ")
            found, _, rest = series.partition("{")
            if found == name and all(f'{key}="{text}"' in rest for key, text in labels.items()):
                total += float(value)
        return total

    def wait_alive(self, patience: float = 30) -> None:
        """Until /livez is 200."""
        self._wait("/livez", patience)

    def wait_ready(self, patience: float = 120) -> None:
        """Until /readyz is 200."""
        self._wait("/readyz", patience)

    def _wait(self, path: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        reason = "no answer"
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                answer = self.anonymous().get(self.local + path, timeout=5)
                if answer.status_code == 200:
                    return
                reason = answer.text
            time.sleep(0.1)
        raise AssertionError(f"{path} is not 200 ({reason}):\n{self.log()}")

    def end(self, patience: float = 60) -> int:
        """Ask it to end, as an operator would; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        return self.process.wait()


def start(
    folder: Path,
    *options: str,
    ready: bool = True,
    jobs: bool = False,
    own_password: bool = True,
    **environment: str,
) -> Service:
    """Start a service on a free port in `folder`, with a clean environment and those settings.

    `own_password`: USER and PASSWORD are set; else it makes its own, as for somebody who has set nothing.
    """
    more = {} if jobs else dict(NO_JOBS)
    if own_password:
        more |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    environment = clean_environment(**more, **environment)
    environment.setdefault("MLFLOW_PORT", str(free_port()))
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "mlflow-data"
    (data / "lock").unlink(missing_ok=True)
    with (folder / "access.log").open("ab") as access, (folder / "application.log").open("ab") as application:
        process = subprocess.Popen(
            [*COMMAND, *options], cwd=folder, env=environment, stdout=access, stderr=application
        )
    service = Service(process, folder, "", USER, PASSWORD, environment)
    try:
        service.url = address_of(data / "lock", process)
        service.wait_alive()
        if not own_password:
            service.user, service.password = "admin", (data / "password").read_text().strip()
        if ready:
            service.wait_ready()
    except BaseException:
        log = service.log()
        process.kill()
        process.wait()
        print(log, file=sys.stderr)
        raise
    return service


@contextlib.contextmanager
def running(folder: Path, *options: str, **more: Any) -> Iterator[Service]:
    """`start`, and its end however the test went."""
    service = start(folder, *options, **more)
    try:
        yield service
    finally:
        service.end()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def address_of(lock: Path, process: subprocess.Popen[bytes]) -> str:
    """Where it serves; it says so in the data directory's lock, which it writes before anything slow."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads(lock.read_text())["address"])
        time.sleep(0.05)
    raise AssertionError(f"the service did not start (exit code {process.poll()})")
