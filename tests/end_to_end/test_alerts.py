"""MLflow stands still, then its database is gone: the shipped rules tell a webhook, and tell of the end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import observers
import pytest
from databases import Database, PostgreSQL, database
from observers import MONITORING, Prometheus, Webhook
from programs import needs
from service import Service, running
from tap import web_server

pytestmark = [
    pytest.mark.slow,
    needs("prometheus", "prometheus-alertmanager"),
    needs(*PostgreSQL.programs),
    pytest.mark.timeout(900),
]
# What MLflow and the probes are asked, once a second. The rest is as it is shipped.
SOON = {
    "PROXY_READY_INTERVAL": "1",
    "PROXY_READY_TIMEOUT": "3",
    "PROXY_PROBE_INTERVAL": "1",
    "PROXY_METRICS_TOKEN": observers.SCRAPE_TOKEN,
    "PROXY_GRACE_SECONDS": "5",
}


@dataclass
class Watched:
    service: Service
    database: Database
    prometheus: Prometheus
    webhook: Webhook


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with contextlib.ExitStack() as stack:
        postgresql = stack.enter_context(database(PostgreSQL))
        service = stack.enter_context(
            running(folder / "service", MLFLOW_BACKEND_STORE_URI=postgresql.uri(), **SOON)
        )
        webhook = stack.enter_context(Webhook())
        alerts = stack.enter_context(observers.alertmanager(folder, webhook.url))
        prometheus = stack.enter_context(observers.prometheus(folder, service, alerts))
        prometheus.until("mlflow_proxy_mlflow_up == 1")
        yield Watched(service, postgresql, prometheus, webhook)


def test_mlflow_stands_still_and_somebody_is_told_until_it_goes_on(watched: Watched) -> None:
    pid = web_server(watched.service)
    os.kill(pid, signal.SIGSTOP)
    try:
        alert = watched.webhook.wait_for("MlflowProxyMlflowNotReady")
        assert alert["labels"] == {
            "alertname": "MlflowProxyMlflowNotReady",
            "job": "mlflow-proxy",
            "severity": "critical",
        }
        summary = alert["annotations"]["summary"]
        assert "No MLflow behind mlflow-proxy is ready: calls wait" in summary
        assert (MONITORING.parent / alert["annotations"]["runbook_url"]).is_file()
    finally:
        os.kill(pid, signal.SIGCONT)
    watched.webhook.wait_for("MlflowProxyMlflowNotReady", "resolved")
    assert watched.prometheus.query("sum(mlflow_proxy_mlflow_problem)")[0]["value"][1] == "0"
    told = {alert["labels"]["alertname"] for alert in watched.webhook.seen}
    # It is told what it is: not the database, and nothing that follows from it.
    assert "MlflowProxyDatabaseUnavailable" not in told
    assert "MlflowProxyMlflowStuck" not in told


def test_the_database_is_stopped_and_somebody_is_told_until_it_is_back(watched: Watched) -> None:
    watched.database.stop()
    try:
        alert = watched.webhook.wait_for("MlflowProxyDatabaseUnavailable")
        assert alert["labels"]["severity"] == "critical"
        assert "MLflow's database behind mlflow-proxy can't be reached" in alert["annotations"]["summary"]
        kinds = watched.prometheus.query("mlflow_proxy_mlflow_problem == 1")
        assert {one["metric"]["kind"] for one in kinds} <= {"away", "frozen"}
    finally:
        watched.database.start()
    watched.webhook.wait_for("MlflowProxyDatabaseUnavailable", "resolved")


def test_the_service_ends_and_somebody_is_told(watched: Watched) -> None:
    watched.service.end()
    alert = watched.webhook.wait_for("MlflowProxyScrapeFailing", patience=400)
    assert alert["labels"]["instance"] == f"127.0.0.1:{watched.service.port}"
