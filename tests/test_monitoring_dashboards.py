"""The dashboards: what Grafana takes, and a real Prometheus that has something to show in every panel."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fake_provider
import observers
import pytest
import requests
import yaml
from observers import MONITORING, Prometheus
from programs import needs
from pydantic import BaseModel, ConfigDict
from service import Service, free_port, running
from tap import web_server

from proxy.backup import state

GRAFANA = MONITORING / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


# ------------------------------------------------------------- what a file may say: Grafana's dashboard JSON


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Place(Strict):
    h: int
    w: int
    x: int
    y: int


class Target(Strict):
    refId: str  # noqa: N815 - Grafana's name, as those below
    datasource: Source
    expr: str
    legendFormat: str  # noqa: N815
    instant: bool
    range: bool
    format: Literal["table", "heatmap"] = "table"


class Panel(Strict):
    id: int
    type: Literal["timeseries", "stat", "bargauge", "heatmap", "table"]
    title: str
    description: str
    datasource: Source
    gridPos: Place  # noqa: N815
    targets: list[Target]
    fieldConfig: dict[Literal["defaults", "overrides"], Any]  # noqa: N815
    options: dict[str, Any]


class Variable(Strict):
    name: Literal["datasource", "job", "instance"]
    label: str
    type: Literal["datasource", "query"]
    query: str | dict[str, str]
    current: dict[str, Any]
    datasource: Source | None = None
    definition: str | None = None
    refresh: Literal[2] | None = None
    sort: int | None = None
    multi: bool | None = None
    includeAll: bool | None = None  # noqa: N815


class Dashboard(Strict):
    uid: str
    title: str
    description: str
    tags: list[str]
    schemaVersion: int  # noqa: N815
    version: int
    editable: bool
    graphTooltip: int  # noqa: N815
    refresh: str
    time: dict[Literal["from", "to"], str]
    timezone: str
    links: list[dict[str, Any]]
    annotations: dict[Literal["list"], list[dict[str, Any]]]
    templating: dict[Literal["list"], list[Variable]]
    panels: list[Panel]


def dashboards() -> list[Dashboard]:
    return [Dashboard.model_validate_json(path.read_text()) for path in FILES]


def test_the_dashboards_are_what_the_program_makes_of_its_panels(tmp_path: Path) -> None:
    for name in ("build.py", "panels.py"):
        shutil.copy(GRAFANA / name, tmp_path)
    subprocess.run([sys.executable, "build.py"], cwd=tmp_path, check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "dashboards").iterdir()}
    assert made == {path.name: path.read_text() for path in FILES}, "python monitoring/grafana/build.py"


def test_each_dashboard_is_one_that_grafana_reads() -> None:
    for dashboard in dashboards():
        variables = [variable.name for variable in dashboard.templating["list"]]
        assert variables == ["datasource", "job", "instance"]
        ids = [panel.id for panel in dashboard.panels]
        assert len(set(ids)) == len(ids)
        for panel in dashboard.panels:
            assert panel.targets, panel.title
            letters = [target.refId for target in panel.targets]
            assert len(set(letters)) == len(letters), panel.title
            assert panel.fieldConfig["defaults"]["unit"], panel.title
    assert len({dashboard.uid for dashboard in dashboards()}) == len(FILES) == 6


def test_no_panel_lies_over_another_or_beside_the_page() -> None:
    for dashboard in dashboards():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard.panels:
            place = panel.gridPos
            assert 0 <= place.x <= place.x + place.w <= 24, panel.title
            fields = {
                (x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)
            }
            assert not fields & taken, (dashboard.title, panel.title)
            taken |= fields


def test_every_query_is_of_the_services_that_were_chosen() -> None:
    for dashboard in dashboards():
        for panel in dashboard.panels:
            for target in panel.targets:
                assert target.expr.count('{job=~"$job"') == target.expr.count("{"), target.expr


def test_grafana_finds_the_dashboards_and_prometheus() -> None:
    folder = GRAFANA / "provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())
    assert source["apiVersion"] == 1
    assert [one["type"] for one in source["datasources"]] == ["prometheus"]
    provider = yaml.safe_load((folder / "dashboards/mlflow-proxy.yml").read_text())
    assert provider["apiVersion"] == 1
    (one,) = provider["providers"]
    assert one["type"] == "file"
    assert Path(one["options"]["path"]).is_absolute()
    interval = yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())["global"]
    assert source["datasources"][0]["jsonData"]["timeInterval"] == interval["scrape_interval"]


# ------------------------------------------------------------------------- a proxy that was used in all ways


@dataclass
class Used:
    service: Service
    prometheus: Prometheus
    token: str
    person: requests.Session

    def use(self) -> None:
        """A bit of everything that people and programs do, right and wrong."""
        service = self.service
        program = service.session()
        run = program.post(f"{service.url}{API}/runs/create", json={"experiment_id": "0"}, timeout=60).json()
        run_id = run["run"]["info"]["run_id"]
        key = f"0/{run_id}/artifacts/model.bin"
        calls: list[tuple[str, str, Any]] = [
            ("POST", f"{API}/runs/log-batch", {"run_id": run_id, "metrics": [metric(1.0)]}),
            ("POST", f"{API}/runs/update", {"run_id": run_id, "status": "FINISHED"}),
            ("POST", f"{API}/runs/search", {"experiment_ids": ["0"]}),
            ("GET", f"{API}/runs/get?run_id={run_id}", None),
            ("PUT", f"{ARTIFACTS}/{key}", b"x" * 100_000),
            ("GET", f"{ARTIFACTS}/{key}", None),
            ("GET", f"/get-artifact?run_id={run_id}&path=model.bin", None),
            ("POST", "/gateway/mlflow/v1/chat/completions", {"model": "none", "messages": []}),
            ("GET", "/no/such/route", None),
        ]
        for method, path, body in calls:
            given = {"data": body} if isinstance(body, bytes) else {"json": body}
            program.request(method, service.url + path, timeout=60, **given)
        bearer = {"Authorization": f"Bearer {self.token}"}
        service.anonymous().post(
            f"{service.url}{API}/experiments/search", json={}, headers=bearer, timeout=60
        )
        service.anonymous().get(f"{service.url}{API}/runs/get", timeout=60)
        service.session(password="wrong").get(f"{service.url}{API}/runs/get", timeout=60)
        self.person.get(
            f"{service.url}/oauth2/callback", params={"code": "none", "state": "none"}, timeout=60
        )
        self.person.get(f"{service.url}/ajax-api/2.0/mlflow/users/current", timeout=60)
        self.person.post(
            f"{service.url}{API}/runs/create",
            json={"experiment_id": "0"},
            headers={"Origin": service.url},
            timeout=60,
        )

    def lose_mlflow(self) -> None:
        """It is killed while a call has reached it, which is then sent to the next one."""
        pid = web_server(self.service)
        os.kill(pid, signal.SIGSTOP)
        url = f"{self.service.url}{API}/experiments/get?experiment_id=0"
        statuses: list[int] = []
        call = threading.Thread(
            target=lambda: statuses.append(self.service.session().get(url, timeout=170).status_code)
        )
        call.start()
        try:
            deadline = time.monotonic() + 60
            while not self.service.metric("mlflow_proxy_slots_in_use", kind="flask"):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            # From its place to MLflow's socket is a step or two of the loop; another scrape comes later.
            self.service.metric("mlflow_proxy_slots_in_use")
        finally:
            os.kill(pid, signal.SIGKILL)
        call.join()
        assert statuses == [200]
        self.service.wait_ready()


def metric(value: float) -> dict[str, Any]:
    return {"key": "loss", "value": value, "timestamp": int(time.time() * 1000), "step": 0}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    folder = tmp_path_factory.mktemp("used")
    port = free_port()
    with fake_provider.running() as provider:
        settings = {
            "MLFLOW_PORT": str(port),
            "PROXY_PUBLIC_URL": f"https://127.0.0.1:{port}",
            "PROXY_METRICS_TOKEN": observers.SCRAPE_TOKEN,
            "MLFLOW_UI_OAUTH_ISSUER_URL": provider.issuer,
            "MLFLOW_UI_OAUTH_CLIENT_ID": fake_provider.CLIENT_ID,
            "MLFLOW_UI_OAUTH_CLIENT_SECRET": fake_provider.CLIENT_SECRET,
            "PROXY_ALLOWED_EMAIL_DOMAINS": "example.com",
            "PROXY_DEFAULT_ROLE": "viewer",
            "PROXY_READY_INTERVAL": "1",
            "PROXY_PROBE_INTERVAL": "1",
            "PROXY_PROBE_STORAGE_INTERVAL": "2",
        }
        with (
            running(folder / "service", **settings) as service,
            observers.prometheus(folder, service) as prometheus,
        ):
            state.note(service.data, "backup", {"last_success": time.time()})  # as one leaves it
            made = service.session().post(f"{service.url}/-/api/tokens", json={"name": "nightly"}, timeout=60)
            assert made.status_code == 201, made.text
            person = service.anonymous()
            there = person.get(f"{service.url}/oauth2/start", params={"rd": "/version"}, timeout=60)
            assert there.url == f"{service.url}/version", there.text
            everything = Used(service, prometheus, made.json()["token"], person)
            everything.use()
            while not service.metric("mlflow_proxy_resent_requests_total"):
                everything.lose_mlflow()
            yield everything


def as_grafana_asks(expr: str) -> str:
    """The query with everything chosen, for graphs of 15 minutes."""
    chosen = {"$job": "mlflow-proxy", "$instance": ".+", "$__rate_interval": "1m", "$__range": "15m"}
    for name, value in chosen.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    # What is there in any case says nothing.
    return expr.removesuffix(" or on () vector(0)")


@pytest.mark.slow
@needs("prometheus")
@pytest.mark.timeout(900)
def test_every_panel_shows_something_of_a_proxy_that_was_used(used: Used) -> None:
    queries = {
        (dashboard.title, panel.title, target.refId): as_grafana_asks(target.expr)
        for dashboard in dashboards()
        for panel in dashboard.panels
        for target in panel.targets
    }
    assert len(queries) > 60
    empty = dict(queries)
    deadline = time.monotonic() + 300
    while empty:
        assert time.monotonic() < deadline, json.dumps({" / ".join(k): v for k, v in empty.items()}, indent=1)
        # Again and again, because a rate is the difference of two scrapes.
        used.use()
        for key, expr in list(empty.items()):
            if any(not math.isnan(float(one["value"][1])) for one in used.prometheus.query(expr)):
                del empty[key]


@pytest.mark.slow
@needs("prometheus")
@pytest.mark.timeout(900)
def test_the_choices_at_the_top_offer_the_service(used: Used) -> None:
    used.prometheus.until("mlflow_proxy_build_info")
    found = used.prometheus.ask("series", **{"match[]": "mlflow_proxy_build_info"})
    assert {(one["job"], one["instance"]) for one in found} == {
        ("mlflow-proxy", f"127.0.0.1:{used.service.port}")
    }


@pytest.mark.slow
@needs("prometheus")
@pytest.mark.timeout(900)
def test_prometheus_loads_every_rule_and_none_of_them_fails(used: Used) -> None:
    deadline = time.monotonic() + observers.PATIENCE
    while True:
        groups = used.prometheus.ask("rules")["groups"]
        states = {
            rule["name"]: (rule["health"], rule.get("lastError")) for g in groups for rule in g["rules"]
        }
        if all(health != "unknown" for health, _ in states.values()):
            break
        assert time.monotonic() < deadline, states
        time.sleep(0.5)
    assert len(states) > 50
    assert {name: state for name, state in states.items() if state[0] != "ok"} == {}
