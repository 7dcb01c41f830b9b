"""Tracing: a real receiver gets the spans of real requests; off, nothing is there and nothing is said."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from service import Service, free_port, running

from proxy.mlflow_server.command import environment as for_mlflow
from proxy.settings import load
from proxy.tracing.asked import endpoint
from proxy.tracing.context import parent_of

HERE = Path(__file__).parent
SEARCH = "/api/2.0/mlflow/experiments/search"
CREATE = "/api/2.0/mlflow/experiments/create"
GATEWAY = "/gateway/openai/v1/chat/completions"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

Span = dict[str, Any]


class Receiver:
    """A receiver of OTLP in a process of its own."""

    def __init__(self, folder: Path, *how: str) -> None:
        self.file = folder / "spans"
        command = [sys.executable, str(HERE / "otlp_receiver.py"), str(self.file), *how]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def spans(self) -> list[Span]:
        lines = self.file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def of(self, request_id: str) -> dict[str, Span]:
        """The spans of one request by their names, the request's own as ``request``; waits for them."""

        def look() -> dict[str, Span] | None:
            spans = self.spans()
            for span in spans:
                if span["attributes"].get("mlflow_proxy.request_id") == request_id:
                    children = [one for one in spans if one["parent"] == span["span"]]
                    return {"request": span, **{one["name"]: one for one in children}}
            return None

        found: dict[str, Span] = until(look)
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def receiving(folder: Path, *how: str) -> Iterator[Receiver]:
    receiver = Receiver(folder, *how)
    try:
        yield receiver
    finally:
        receiver.end()


@contextlib.contextmanager
def serving(folder: Path, slow: float = 0, /, **settings: str) -> Iterator[Service]:
    """A service with a fake MLflow, which takes `slow` seconds and tells back what headers it got."""
    (folder / "plan").write_text(json.dumps({"slow": slow}))
    given = {"PYTHONPATH": str(HERE / "fake_mlflow"), "FAKE_PLAN": str(folder / "plan"), "PROXY_TLS": "off"}
    together: dict[str, Any] = {**given, **settings}
    with running(folder / "service", **together) as service:
        yield service


def traced(receiver: Receiver, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100", **more}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("r")) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def service(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, 0.05, PROXY_MLFLOW_CONCURRENCY="1", **traced(receiver)) as service:
        yield service


@pytest.fixture(scope="module")
def untraced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("u")) as service:
        yield service


def told(service: Service, path: str = SEARCH, **headers: str) -> tuple[str, dict[str, str]]:
    """The id of a request, and the headers with which it came to MLflow."""
    answer = service.session().get(service.url + path, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.headers["X-Request-Id"], {name.lower(): value for name, value in answer.json()["headers"]}


# --------------------------------------------------------------------------- on


def test_a_request_is_a_span_below_the_clients_and_mlflow_is_told_of_ours(
    service: Service, receiver: Receiver
) -> None:
    for _ in range(3):  # by the ordinary way and past ASGI
        request_id, arrived = told(service, traceparent=PARENT, tracestate="a=1,b@c=2")
        spans = receiver.of(request_id)
        request, mlflow = spans["request"], spans["mlflow"]
        assert (request["trace"], request["parent"], request["state"]) == (TRACE, SPAN, "a=1,b@c=2")
        assert (request["kind"], request["name"]) == ("server", "GET search-experiments")
        assert request["attributes"] == {
            "http.request.method": "GET",
            "http.route": "search-experiments",
            "http.response.status_code": 200,
            "http.request.body.size": 0,
            "http.response.body.size": service.logged(request_id)["bytes_out"],
            "url.scheme": "http",
            "mlflow_proxy.request_id": request_id,
        }
        assert (mlflow["kind"], mlflow["trace"]) == ("client", TRACE)
        assert arrived["traceparent"] == f"00-{TRACE}-{mlflow['span']}-01"
        assert arrived["tracestate"] == "a=1,b@c=2"
        assert service.logged(request_id)["trace_id"] == TRACE
        assert spans["authentication"]["attributes"] == {"mlflow_proxy.auth": "basic"}
        assert not any(span["failed"] for span in spans.values())
        for child in spans.values():
            assert request["began"] <= child["began"] <= child["ended"] <= request["ended"] + 0.001
        assert mlflow["ended"] - mlflow["began"] >= 0.05
        assert request["resource"]["service.name"] == "mlflow-proxy"


def test_a_trace_is_begun_where_the_client_has_none(service: Service, receiver: Receiver) -> None:
    seen = set()
    for _ in range(3):
        request_id, arrived = told(service)
        spans = receiver.of(request_id)
        trace = spans["request"]["trace"]
        assert spans["request"]["parent"] == ""
        assert arrived["traceparent"] == f"00-{trace}-{spans['mlflow']['span']}-01"
        assert "tracestate" not in arrived
        assert service.logged(request_id)["trace_id"] == trace
        seen.add(trace)
    assert len(seen) == 3


HOSTILE = {
    "empty": "",
    "too long": PARENT + "-" + "a" * 20,
    "far too long": PARENT + "0" * 5000,
    "too short": PARENT[:-1],
    "uppercase": PARENT.upper(),
    "version ff": "ff" + PARENT[2:],
    "no version": PARENT[3:],
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "not hexadecimal": PARENT.replace("4bf9", "4bg9"),
    "flags": PARENT[:-2] + "0g",
    "two in one": f"{PARENT},{PARENT}",
    "later, and more without a dash": "01" + PARENT[2:] + "x",
}


def test_a_traceparent_that_is_not_valid_is_not_believed(service: Service) -> None:
    for why, value in HOSTILE.items():
        request_id, arrived = told(service, traceparent=value, tracestate="a=1")
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", arrived["traceparent"]), why
        trace = arrived["traceparent"].split("-")[1]
        assert trace not in (TRACE, "0" * 32), why
        assert "tracestate" not in arrived, why
        assert service.logged(request_id)["trace_id"] == trace, why


def said(*lines: tuple[str, str]) -> Any:
    return parent_of([(name.encode(), value.encode("latin-1")) for name, value in lines])


def test_what_a_client_says_of_its_trace_is_read_by_the_standard() -> None:
    for value in HOSTILE.values():
        assert said(("traceparent", value)) is None
    assert said(("traceparent", PARENT), ("traceparent", PARENT)) is None
    assert said(("tracestate", "a=1")) is None
    assert said(("traceparent", PARENT)) == (TRACE, SPAN, True, "")
    assert said(("traceparent", PARENT[:-1] + "2")) == (TRACE, SPAN, False, "")
    assert said(("traceparent", "cc" + PARENT[2:] + "-what-will-be")) == (TRACE, SPAN, True, "")
    both = said(("traceparent", PARENT), ("tracestate", "a=1 , b=2"), ("tracestate", "c/d@e=x y"))
    assert both.state == "a=1,b=2,c/d@e=x y"
    for state in (
        "a",
        "A=1",
        "a=1,a=2",
        "a=\x01",
        "a=é",
        "a=1=2",
        ",".join(f"k{n}=1" for n in range(33)),
        ",".join(f"{key}=" + "x" * 200 for key in "abc"),
    ):
        found = said(("traceparent", PARENT), ("tracestate", state))
        assert (found.trace_id, found.state) == (TRACE, ""), state


def test_a_gateways_request_keeps_what_its_client_said_of_its_trace(
    service: Service, receiver: Receiver
) -> None:
    session = service.session()
    for given in ({}, {"traceparent": PARENT, "tracestate": "a=1"}):
        answer = session.post(service.url + GATEWAY, json={}, headers=given, timeout=60)
        arrived = {name.lower(): value for name, value in answer.json()["headers"]}
        assert {name: value for name, value in arrived.items() if name.startswith("trace")} == given
        request = receiver.of(answer.headers["X-Request-Id"])["request"]
        assert request["parent"] == (SPAN if given else "")


def test_a_wait_and_a_slow_body_are_spans_of_their_own(service: Service, receiver: Receiver) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"name": '
        time.sleep(0.1)
        yield b'"a"}'

    answer = service.session().post(service.url + CREATE, data=pieces(), timeout=60)
    body = receiver.of(answer.headers["X-Request-Id"])["request body"]
    assert body["ended"] - body["began"] >= 0.09

    # There is one place in MLflow, and each has it for 50 ms.
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(told(service)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waits = [spans["waiting"] for spans in map(receiver.of, ids) if "waiting" in spans]
    assert any(wait["attributes"] == {"mlflow_proxy.waiting_for": "place"} for wait in waits)


def test_a_refusal_is_a_span_that_says_why_and_names_nobody(service: Service, receiver: Receiver) -> None:
    answer = service.session("somebody", "wrong").get(service.url + SEARCH, timeout=60)
    assert answer.status_code == 401
    spans = receiver.of(answer.headers["X-Request-Id"])
    assert "authentication" in spans
    assert "mlflow" not in spans
    assert spans["request"]["attributes"]["mlflow_proxy.refusal"] == "unauthenticated"
    assert spans["request"]["attributes"]["http.response.status_code"] == 401
    assert not spans["request"]["failed"]
    service.session().get(service.url + SEARCH + "?max_results=1&secret-word", timeout=60)
    text = json.dumps(receiver.spans())
    for private in ("somebody", "tester", "secret-word", "max_results", "127.0.0.1", "python-requests"):
        assert private not in text, private


def test_mlflows_failure_is_a_span_that_failed(service: Service, receiver: Receiver) -> None:
    plan = Path(service.environment["FAKE_PLAN"])
    before = plan.read_text()
    plan.write_text('{"status": 502}')
    try:
        answer = service.session().get(service.url + SEARCH, timeout=60)
        assert answer.status_code == 502
        spans = receiver.of(answer.headers["X-Request-Id"])
    finally:
        plan.write_text(before)
    assert spans["request"]["failed"]
    assert spans["mlflow"]["failed"]
    assert spans["mlflow"]["attributes"]["error.type"] == "502"


def test_the_latest_trace_of_a_bucket_is_an_exemplar_for_who_asks_in_openmetrics(
    service: Service,
) -> None:
    request_id, _ = told(service, traceparent=PARENT)
    service.logged(request_id)
    session = service.session()
    scraped = session.get(service.url + "/metrics", headers={"Accept": "application/openmetrics-text"})
    begin = "mlflow_proxy_request_duration_seconds_bucket{"
    examples = [line for line in scraped.text.splitlines() if " # {" in line]
    assert examples
    assert all(line.startswith(begin) for line in examples)
    ours = [line for line in examples if 'operation="search-experiments"' in line]
    assert any(f'# {{trace_id="{TRACE}"}} ' in line for line in ours)
    assert " # {" not in session.get(service.url + "/metrics").text


def test_probes_and_scrapes_are_not_traced(service: Service, receiver: Receiver) -> None:
    ids = [
        service.session().get(service.url + path, timeout=60).headers["X-Request-Id"]
        for path in ("/livez", "/readyz", "/metrics")
    ]
    assert [service.logged(one)["trace_id"] for one in ids] == [None] * 3
    receiver.of(told(service)[0])
    assert not {span["attributes"].get("mlflow_proxy.request_id") for span in receiver.spans()} & set(ids)


def test_openetelemetrys_own_variables_count(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        settings = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url + "/elsewhere",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=of-the-receiver",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_SERVICE_NAME": "models",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=here",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        (tmp_path / "service").mkdir()
        (tmp_path / "service" / "mlflow.env").write_text(
            "".join(f"{name}={value}\n" for name, value in settings.items())
        )
        with serving(tmp_path) as service:
            dropped, arrived = told(service)
            assert arrived["traceparent"].endswith("-00")
            assert service.logged(dropped)["trace_id"] == arrived["traceparent"].split("-")[1]
            kept, arrived = told(service, traceparent=PARENT)
            assert arrived["traceparent"].endswith("-01")
            request = receiver.of(kept)["request"]
            assert request["resource"]["service.name"] == "models"
            assert request["resource"]["deployment.environment.name"] == "here"
            assert (request["path"], request["key"]) == ("/elsewhere", "of-the-receiver")
            assert {span["trace"] for span in receiver.spans()} == {TRACE}
            # They are ours, and not MLflow's: it would send what it traces there.
            answer = service.session().get(service.url + SEARCH, timeout=60).json()
            assert not [name for name in answer["environ"] if name.startswith("OTEL_")]


def test_what_waits_at_the_services_end_is_still_sent(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        with serving(tmp_path, **traced(receiver, OTEL_BSP_SCHEDULE_DELAY="600000")) as service:
            request_id, _ = told(service)
            assert receiver.spans() == []
        assert {"request", "mlflow"} <= receiver.of(request_id).keys()


@pytest.mark.parametrize("how", ["away", "--refusing", "--silent"])
def test_a_receiver_that_does_not_take_spans_holds_nobody_up(tmp_path: Path, how: str) -> None:
    with contextlib.ExitStack() as stack:
        if how == "away":
            url = f"http://127.0.0.1:{free_port()}"
        else:
            url = stack.enter_context(receiving(tmp_path, how)).url
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            # It gives up well after the service has to have ended.
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600" if how == "--silent" else "1",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "20",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        }
        with serving(tmp_path, **settings) as service:
            session = service.session()
            for _ in range(30):
                assert session.get(service.url + SEARCH, timeout=60).status_code == 200
            until(lambda: service.metric("mlflow_proxy_spans_lost_total") > 0)
            if how != "--silent":
                until(lambda: "spans can't be sent" in service.log())
            assert service.end(patience=25) == 0  # OpenTelemetry alone would wait for 30 s
        assert service.log().count("spans can't be sent") == (how != "--silent")
        if how == "--silent":
            assert "were not sent" in service.log()
        assert "Traceback" not in service.log()


# What somebody's program does, with the client as it is.
PROGRAM = """
import mlflow, pathlib
mlflow.set_experiment("traced")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
    path = pathlib.Path("weights")
    path.write_bytes(bytes(30_000_000))
    mlflow.log_artifact(path)
mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="weights", dst_path="back")
"""


@pytest.mark.slow
def test_a_run_with_the_real_mlflow_is_traced_from_end_to_end(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        with running(tmp_path / "service", **dict[str, Any](traced(receiver))) as service:
            subprocess.run(
                [sys.executable, "-c", PROGRAM],
                env=service.client_environment(),
                cwd=tmp_path,
                check=True,
                timeout=200,
            )
        spans = receiver.spans()
        lines = [line for line in service.access_log() if line["trace_id"] is not None]
    requests = [span for span in spans if span["kind"] == "server"]
    assert {span["attributes"]["mlflow_proxy.request_id"]: span["trace"] for span in requests} == {
        line["request_id"]: line["trace_id"] for line in lines
    }
    names = {span["attributes"]["http.route"] for span in requests}
    assert {"create-experiment", "create-run", "log-metric", "update-run"} <= names
    ids = {span["span"] for span in requests}
    assert all(span["parent"] in ids for span in spans if span["kind"] != "server")
    large = [span for span in requests if span["attributes"]["http.request.body.size"] == 30_000_000]
    assert len(large) == 1
    parts = {span["name"] for span in spans if span["parent"] == large[0]["span"]}
    assert {"authentication", "mlflow", "request body"} <= parts
    back = [span for span in requests if span["attributes"]["http.response.body.size"] == 30_000_000]
    assert "response body" in {span["name"] for span in spans if span["parent"] == back[0]["span"]}


# --------------------------------------------------------------------------- off


def test_off_what_the_client_said_passes_unchanged_and_nothing_is_made(untraced: Service) -> None:
    for given in ({}, {"traceparent": PARENT, "tracestate": "a=1"}, {"traceparent": "nonsense"}):
        for _ in range(2):
            request_id, arrived = told(untraced, **given)
            assert {name: value for name, value in arrived.items() if name.startswith("trace")} == given
            assert untraced.logged(request_id)["trace_id"] is None
    text = untraced.session().get(
        untraced.url + "/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    assert " # {" not in text.text
    assert "traced" not in untraced.log()


# What the service's process imports, and whether tracing is on, as it is at the start of `serve`.
IMPORTS = """
import asyncio, sys
import proxy.serve
from proxy.tracing import tracing
async def main():
    async with tracing("1", {}) as found:
        print(found is not None, sorted(name for name in sys.modules if name.startswith("opentelemetry"))[:1])
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("environment", "there"),
    [
        ({}, "False []"),
        ({"OTEL_SERVICE_NAME": "a", "OTEL_TRACES_SAMPLER": "always_on"}, "False []"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, "False []"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_SDK_DISABLED": "true"}, "False []"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_TRACES_EXPORTER": "none"}, "False []"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}, "True ['opentelemetry']"),
    ],
)
def test_off_nothing_of_opentelemetry_is_imported(environment: dict[str, str], there: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env={"PYTHONPATH": str(HERE.parent), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert out.stdout.strip() == there, out.stderr


def test_where_opentelemetry_is_not_installed_one_line_says_so_and_it_serves_on(tmp_path: Path) -> None:
    (tmp_path / "absent").mkdir()
    # An environment without that distribution: Python asks this for every module before it looks elsewhere.
    (tmp_path / "absent" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'opentelemetry.exporter':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    with serving(
        tmp_path,
        PYTHONPATH=f"{tmp_path / 'absent'}:{HERE / 'fake_mlflow'}",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    ) as service:
        request_id, arrived = told(service)
        assert "traceparent" not in arrived
        assert service.logged(request_id)["trace_id"] is None
        lines = [line for line in service.log().splitlines() if "traced" in line]
    assert len(lines) == 1
    assert "opentelemetry.exporter is not installed" in lines[0]
    assert "mlflow-proxy[tracing]" in lines[0]
    assert '"warning"' in lines[0]


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "has to be a URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "is no URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:no"}, "is no URL"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "asks for 'grpc'",
        ),
    ],
)
def test_an_endpoint_that_can_not_be_reached_from_here_is_told_of(
    environment: dict[str, str], why: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        endpoint(environment)


def test_where_spans_go_is_told_without_what_may_be_a_key() -> None:
    secret = "https://name:word@collector.example:4318/path?key=word"
    assert endpoint({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": secret}) == "https://collector.example:4318"


def test_mlflow_gets_these_variables_only_where_it_is_told_to_send_what_it_traces(tmp_path: Path) -> None:
    loaded = load({}, {}, tmp_path, may_be_absent=())
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "key=word"}
    for switch, there in ((None, False), ("false", False), ("true", True)):
        given = environ if switch is None else {**environ, "MLFLOW_ENABLE_OTLP_EXPORTER": switch}
        got = for_mlflow(loaded.settings, {}, given, "token")
        assert (environ.items() <= got.items()) == there
        assert any(name.startswith("OTEL_") for name in got) == there
