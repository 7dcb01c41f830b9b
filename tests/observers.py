"""Prometheus, Alertmanager and a webhook, as the tests drive them: Debian's programs, on loopback."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
import yaml
from programs import program
from service import Service, free_port

MONITORING = Path(__file__).parent.parent / "monitoring"
RULES = MONITORING / "prometheus" / "mlflow-proxy.rules.yml"
SCRAPE_TOKEN = "of-the-scraper-and-nobody-else"
PATIENCE = 120.0


def of_the_documentation() -> set[str]:
    """The names of the series in docs/metrics.md, histograms' parts among them."""
    rows = re.findall(
        r"^\| (`mlflow_proxy_.*?) \| (\w+) \|", (MONITORING.parent / "docs" / "metrics.md").read_text(), re.M
    )
    found = set()
    for names, kind in rows:
        for name in re.findall(r"`(\w+)`", names):
            parts = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
            found |= {name + part for part in parts}
    return found


class Prometheus:
    """A running one. `query` is its API's."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    def ask(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now, each with `metric` and `value`."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def until(self, expression: str, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """What an expression gives as soon as it gives anything."""
        deadline = time.monotonic() + patience
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression}: nothing\n{self._log.read_text()[-3000:]}"
            time.sleep(0.5)
        return found


class Webhook:
    """Receives what Alertmanager sends. Alerts are as in its JSON."""

    def __init__(self) -> None:
        arrived = self._arrived = queue.SimpleQueue[dict[str, Any]]()
        self.seen: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in body["alerts"]:
                    arrived.put(alert)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def wait_for(self, name: str, status: str = "firing", patience: float = 2 * PATIENCE) -> dict[str, Any]:
        """The next alert of that name in that state; others that arrive meanwhile are kept in `seen`."""
        deadline = time.monotonic() + patience
        while True:
            left = deadline - time.monotonic()
            try:
                alert = self._arrived.get(timeout=max(left, 0.01))
            except queue.Empty:
                told = [(one["labels"]["alertname"], one["status"]) for one in self.seen]
                raise AssertionError(f"{name} ({status}) has not arrived, but {told}") from None
            self.seen.append(alert)
            if alert["labels"]["alertname"] == name and alert["status"] == status:
                return alert

    def __enter__(self) -> Webhook:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def _running(name: str, url: str, folder: Path, *options: str) -> Iterator[Path]:
    """The program until the end; its log."""
    path = program(name)
    assert path is not None, f"{name} is not installed"
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen([path, *options], cwd=folder, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _is_ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield log
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{url}/-/ready", timeout=5).status_code == 200
    return False


@contextlib.contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    """The shipped configuration with another webhook, and without its waits; its URL."""
    config = yaml.safe_load((MONITORING / "alertmanager" / "alertmanager.yml").read_text())
    (receiver,) = config["receivers"]
    receiver["webhook_configs"][0]["url"] = webhook
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "1s", "group_interval": "1s"}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    options = (
        "--config.file=alertmanager.yml",
        "--storage.path=alertmanager-data",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    )
    with _running("prometheus-alertmanager", url, folder, *options):
        yield url


@contextlib.contextmanager
def prometheus(folder: Path, service: Service, alerts: str | None = None) -> Iterator[Prometheus]:
    """The shipped configuration and rules, once a second; `service` is scraped, as the documentation says,
    with SCRAPE_TOKEN over HTTPS. `alerts` is where an Alertmanager is."""
    config = yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
    targets = [] if alerts is None else [alerts.removeprefix("http://")]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": targets}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / scrape["authorization"]["credentials_file"]).write_text(SCRAPE_TOKEN)
    assert service.ca is not None
    shutil.copy(service.ca, folder / scrape["tls_config"]["ca_file"])
    shutil.copy(RULES, folder)
    url = f"http://127.0.0.1:{free_port()}"
    options = (
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=prometheus-data",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--log.level=warn",
    )
    with _running("prometheus", url, folder, *options) as log:
        yield Prometheus(url, log)
