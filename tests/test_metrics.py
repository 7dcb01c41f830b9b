"""What Prometheus is told: numbers that add up, labels that nobody outside can make."""

from __future__ import annotations

import random
import re
import string
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from proxy import auth, hold, metrics
from proxy.auth import oidc
from proxy.backup import figures, state
from proxy.exchange import ERRORS, REFUSALS, RESENDS, Exchange
from proxy.identity import Identity, Role
from proxy.metrics import BOUNDS, Gauge, Metrics
from proxy.mlflow_server import REASONS, probing
from proxy.operations import OPERATIONS, UNKNOWN, UNPARSED, operation_of
from proxy.probes.assembled import GAUGES

PROJECT = Path(__file__).parent.parent
# What backups and drills leave for the metrics.
NOTED = {
    "backup": {"last_success": 1.0, "last_attempt": 1.0, "seconds": 1.0, "bytes": 1},
    "drill": {"last_success": 1.0, "last_attempt": 1.0, "restore_seconds": 1.0, "data_age_seconds": 1.0},
}


@dataclass
class RunningMlflow:
    """What a supervised MLflow shows of itself."""

    ready: bool = True
    generation: int = 3
    started_at: float | None = 1_700_000_000.0
    restarts: Counter[str] = field(default_factory=lambda: Counter({"killed": 2}))
    rolls: Counter[str] = field(default_factory=lambda: Counter({"done": 2}))
    problems: Counter[str] = field(default_factory=lambda: Counter({"frozen": 1}))
    problem: str | None = "frozen"
    probe_seconds: float | None = 0.25


@pytest.fixture
def counted() -> Metrics:
    """Metrics with every source set, so that every family shows."""
    made = Metrics(version="1.2.3", mlflow_version="3.17.2")
    made.child = RunningMlflow()
    made.held_requests = lambda: {"mlflow": 4}
    made.waits = lambda: {"user": 9}
    made.users_held_up = lambda: 3
    made.slots = lambda: {"flask": 5, "whole": 1}
    made.certificate_expiry = lambda: 1_800_000_000.0
    made.log_lines_dropped = lambda: 6
    made.audit_lines_lost = lambda: 2
    made.database_queries = lambda: 40
    return made


def samples(source: Metrics) -> Iterator[Sample]:
    for family in parse(source.render()[1].decode()):
        yield from family.samples


def value(source: Metrics, name: str, **labels: str) -> float | None:
    found = [s.value for s in samples(source) if s.name == f"mlflow_proxy_{name}" and s.labels == labels]
    return found[0] if found else None


def finished(method: str = "GET", path: str = "/", status: int = 200, seconds: float = 0.02) -> Exchange:
    exchange = Exchange(method, path, 100.0, time.time())
    exchange.operation = operation_of(method, path)
    exchange.status = status
    exchange.first_byte = 100.0 + seconds / 2
    exchange.ended = 100.0 + seconds
    exchange.bytes_in = 10
    exchange.bytes_out = 1000
    return exchange


def test_a_request_is_counted_under_its_operation_method_and_status(counted: Metrics) -> None:
    exchange = finished("POST", "/api/2.0/mlflow/runs/log-batch")
    counted.observe(exchange)
    counted.observe(exchange)
    name = operation_of("POST", "/api/2.0/mlflow/runs/log-batch").name
    assert value(counted, "requests_total", operation=name, method="POST", status="200") == 2
    assert value(counted, "request_bytes_total", operation=name) == 20
    assert value(counted, "response_bytes_total", operation=name) == 2000
    assert value(counted, "request_duration_seconds_count", operation=name) == 2
    assert value(counted, "request_duration_seconds_sum", operation=name) == pytest.approx(0.04)
    assert value(counted, "request_duration_seconds_bucket", operation=name, le="0.01") == 0
    assert value(counted, "request_duration_seconds_bucket", operation=name, le="0.025") == 2
    assert value(counted, "time_to_first_byte_seconds_sum", operation=name) == pytest.approx(0.02)


def test_a_duration_at_a_bound_falls_in_its_bucket_and_a_longer_one_does_not(counted: Metrics) -> None:
    for seconds in (300.0, 300.5):
        exchange = finished(seconds=seconds)
        exchange.started = 0.0
        exchange.ended = seconds
        counted.observe(exchange)
    name = operation_of("GET", "/").name
    assert value(counted, "request_duration_seconds_bucket", operation=name, le="300.0") == 1
    assert value(counted, "request_duration_seconds_bucket", operation=name, le="+Inf") == 2


def test_a_request_that_was_never_parsed_is_counted_so(counted: Metrics) -> None:
    exchange = finished("", "", 400)
    exchange.operation = None
    exchange.refusal = "unparsed"
    exchange.first_byte = None
    counted.observe(exchange)
    assert value(counted, "requests_total", operation="unparsed", method="other", status="400") == 1
    assert value(counted, "refusals_total", reason="unparsed") == 1
    assert value(counted, "time_to_first_byte_seconds_count", operation="unparsed") is None


def test_failures_refusals_and_the_abandoned_are_counted_by_reason(counted: Metrics) -> None:
    for reason in sorted(ERRORS):
        assert value(counted, "errors_total", reason=reason) == 0
        exchange = finished()
        exchange.error = reason
        exchange.abandoned = reason == "client_gone"
        counted.observe(exchange)
        assert value(counted, "errors_total", reason=reason) == 1
    for reason in sorted(REFUSALS):
        assert value(counted, "refusals_total", reason=reason) == 0
        exchange = finished()
        exchange.refusal = reason
        counted.observe(exchange)
        assert value(counted, "refusals_total", reason=reason) == 1
    assert value(counted, "abandoned_requests_total") == 1


def test_no_series_is_made_for_an_operation_that_was_never_asked_for(counted: Metrics) -> None:
    counted.observe(finished())
    operations = {s.labels["operation"] for s in samples(counted) if "operation" in s.labels}
    assert operations == {operation_of("GET", "/").name}


def test_a_storm_of_strange_requests_makes_no_labels(counted: Metrics) -> None:
    chance = random.Random(7)
    letters = string.printable + "äß€\u2028\udc80\0"
    methods = ["GET", "POST", "get", "BREW", "PROPFIND", 'X"} 1\n', ""]
    known = ["/api/2.0/mlflow/runs/create", "/ajax-api/3.0/mlflow/traces/search", "/version", "/"]
    for _ in range(20_000):
        method = chance.choice([*methods, "".join(chance.choices(letters, k=4))])
        path = chance.choice([*known, "/" + "".join(chance.choices(letters, k=chance.randrange(40)))])
        exchange = finished(
            method, path, chance.choice([200, 404, 0, 99, 600, 999, -1, chance.randrange(10**9)])
        )
        exchange.user_agent = path
        exchange.refusal = chance.choice([None, "forbidden", path])
        exchange.error = chance.choice([None, "reset", path])
        counted.observe(exchange)
        counted.authentication(method, path)
    assert isinstance(counted.child, RunningMlflow)
    counted.child.restarts["made up\n"] += 1

    allowed = {
        "operation": {op.name for op in (*OPERATIONS, UNKNOWN, UNPARSED)},
        "method": metrics.METHODS | metrics.AUTH_METHODS | {"other"},
        "status": {str(number) for number in range(100, 600)} | {"other"},
        "reason": ERRORS | REFUSALS | metrics.RESTART_REASONS | metrics.WAITS | {"other"},
        "result": metrics.AUTH_RESULTS | metrics.ROLLS | {"other"},
        "kind": metrics.SLOT_KINDS | metrics.PROBLEMS,
        "within": set(metrics.WITHIN),
        "le": {*map(str, BOUNDS), "+Inf"},
    }
    seen = [s for s in samples(counted) if s.name.startswith("mlflow_proxy_") and "build_info" not in s.name]
    for sample in seen:
        for name, label in sample.labels.items():
            assert label in allowed[name], sample
    operations = {operation_of(m, p).name for m in methods for p in known} | {UNKNOWN.name}
    kinds = len(operations) * (8 * 3 + 2 * (len(BOUNDS) + 3) + 2)
    assert len(seen) < kinds + 80
    assert sum(s.value for s in seen if s.name == "mlflow_proxy_requests_total") == 20_000


def test_a_status_outside_http_is_one_label_however_many_there_are(counted: Metrics) -> None:
    for status in (0, 99, 600, 999, 123_456):
        counted.observe(finished(status=status))
    statuses = {s.labels["status"] for s in samples(counted) if "status" in s.labels}
    assert statuses == {"other"}
    assert len(counted._requests) == 1


def test_in_flight_rises_and_falls(counted: Metrics) -> None:
    counted.begin()
    counted.begin()
    counted.end()
    assert value(counted, "requests_in_flight") == 1


def test_mlflow_the_certificate_and_the_waiting_are_read_at_the_scrape(counted: Metrics) -> None:
    assert value(counted, "mlflow_up") == 1
    assert value(counted, "mlflow_generation") == 3
    assert value(counted, "mlflow_start_time_seconds") == 1_700_000_000
    assert value(counted, "mlflow_restarts_total", reason="killed") == 2
    assert value(counted, "mlflow_restarts_total", reason="exited") == 0
    assert value(counted, "mlflow_rolls_total", result="done") == 2
    assert value(counted, "mlflow_rolls_total", result="failed") == 0
    assert value(counted, "certificate_expiry_timestamp_seconds") == 1_800_000_000
    assert value(counted, "held_requests", reason="mlflow") == 4
    assert value(counted, "held_requests", reason="user") == 0
    assert value(counted, "waits_total", reason="user") == 9
    assert value(counted, "users_held_up") == 3
    assert value(counted, "mlflow_problems_total", kind="frozen") == 1
    assert value(counted, "mlflow_probe_seconds") == 0.25
    assert value(counted, "mlflow_problem", kind="frozen") == 1
    assert value(counted, "mlflow_problem", kind="away") == 0
    assert value(counted, "slots_in_use", kind="flask") == 5
    assert value(counted, "log_lines_dropped_total") == 6
    assert value(counted, "audit_lines_lost_total") == 2
    assert value(counted, "database_queries_total") == 40
    assert isinstance(counted.child, RunningMlflow)
    counted.child.ready = False
    counted.child.started_at = None
    counted.certificate_expiry = lambda: None
    assert value(counted, "mlflow_up") == 0
    assert value(counted, "mlflow_start_time_seconds") is None
    assert value(counted, "certificate_expiry_timestamp_seconds") is None


def test_the_process_its_collector_and_its_versions_are_there(counted: Metrics) -> None:
    names = {s.name for s in samples(counted)}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= names
    assert "python_gc_collections_total" in names
    (build,) = [s for s in samples(counted) if s.name == "mlflow_proxy_build_info"]
    assert build.labels["version"] == "1.2.3"
    assert build.labels["mlflow_version"] == "3.17.2"
    assert build.labels["python"].startswith("3.")


def test_openmetrics_is_spoken_where_it_is_asked_for_and_nothing_of_the_question_comes_back(
    counted: Metrics,
) -> None:
    counted.observe(finished())
    counted.authentication("basic", "success")
    prometheus = (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
        "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    )
    for accept in (prometheus, "application/openmetrics-text; version=99.0.0evil"):
        content_type, text = counted.render(accept)
        assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert text.endswith(b"# EOF\n")
        assert "mlflow_proxy_requests" in {family.name for family in parse_openmetrics(text.decode())}
    for accept in ("", "*/*", "text/plain;version=1.0.0;evil=\x7f", "text/html"):
        content_type, text = counted.render(accept)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert not text.endswith(b"# EOF\n")


def test_a_scrape_in_the_middle_of_requests_shows_histograms_that_agree_with_themselves(
    counted: Metrics,
) -> None:
    over = threading.Event()
    problems = []

    def scrape() -> None:
        while not over.is_set():
            buckets: dict[tuple[str, str], list[float]] = {}
            counts: dict[tuple[str, str], float] = {}
            for sample in samples(counted):
                if sample.name.endswith("_bucket"):
                    buckets.setdefault((sample.name[:-7], sample.labels["operation"]), []).append(
                        sample.value
                    )
                elif sample.name.endswith("_seconds_count"):
                    counts[sample.name[:-6], sample.labels["operation"]] = sample.value
            for key, row in buckets.items():
                if sorted(row) != row or row[-1] != counts[key]:
                    problems.append((key, row, counts[key]))

    thread = threading.Thread(target=scrape)
    thread.start()
    chance = random.Random(3)
    exchanges = []
    for operation in OPERATIONS[:40]:
        exchange = finished(seconds=chance.choice([0.001, 0.02, 0.7, 400]))
        exchange.operation = operation
        exchanges.append(exchange)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        for exchange in exchanges:
            exchange.status = chance.randrange(200, 210)
            counted.observe(exchange)
    over.set()
    thread.join()
    assert not problems


def test_what_was_sent_again_is_counted_by_reason(counted: Metrics) -> None:
    again = finished()
    again.resent = ["reset", "reset", "a new one"]
    counted.observe(again)
    name = "resent_requests_total"
    assert again.operation is not None
    assert value(counted, name, operation=again.operation.name, reason="reset") == 2
    assert value(counted, name, operation=again.operation.name, reason="other") == 1


def test_callers_count_as_active_by_how_they_were_known_for_as_long_as_they_were_heard_of_lately(
    counted: Metrics,
) -> None:
    def called(user: str, method: str, ago: float) -> None:
        exchange = finished()
        exchange.identity = Identity(user, Role.EDITOR, method)
        exchange.received = time.time() - ago
        counted.observe(exchange)

    for user, method, ago in (
        ("ada", "session", 5),
        ("ada", "session", 1),
        ("ada", "token", 1),
        ("grace", "token", 2),
        ("linus", "token", 3_600),
        ("alan", "basic", 100_000),
        ("prometheus", "metrics", 1),
    ):
        called(user, method, ago)

    def active(within: str) -> dict[str, float]:
        found = [s for s in samples(counted) if s.name == "mlflow_proxy_active_users"]
        return {s.labels["method"]: s.value for s in found if s.labels["within"] == within}

    assert active("15m") == {"basic": 0, "jwt": 0, "session": 1, "token": 2}
    assert active("1d") == {"basic": 0, "jwt": 0, "session": 1, "token": 3}
    assert ("basic", "alan") not in counted._callers


def test_no_number_of_callers_fills_the_memory(counted: Metrics) -> None:
    exchange = finished()
    for number in range(metrics.MOST_CALLERS + 10):
        exchange.identity = Identity(f"job-{number}", Role.EDITOR, "jwt")
        counted.observe(exchange)
    assert 0 < len(counted._callers) <= 10


def test_the_sets_that_other_rooms_own_are_the_same_there() -> None:
    assert auth.METHODS | {"oidc"} == metrics.AUTH_METHODS
    assert metrics.AUTH_RESULTS == auth.RESULTS | oidc.RESULTS
    assert metrics.RESTART_REASONS == REASONS
    assert metrics.WAITS == hold.REASONS
    assert metrics.PROBLEMS == probing.PROBLEMS


def test_the_documentation_lists_every_metric_with_its_type_and_labels(
    counted: Metrics, tmp_path: Path
) -> None:
    again = finished()
    again.resent = ["reset"]
    counted.observe(again)
    counted.authentication("basic", "success")
    for section, noted in NOTED.items():
        state.note(tmp_path, section, noted)
    counted.gauges = lambda: [
        *(Gauge(name, *of, {of[1]: 1.0}) for name, of in GAUGES.items()),
        *figures.gauges(tmp_path),
    ]
    made = set()
    for family in counted.collect():
        name = family.name + "_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        made.add((name, family.type, ", ".join(sorted(labels))))
    rows = re.findall(
        r"^\| `(mlflow_proxy_\w+)` \| (\w+) \| (.*?) \|", (PROJECT / "docs/metrics.md").read_text(), re.M
    )
    documented = {
        (name, kind, ", ".join(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows
    }
    assert documented == made


def test_the_documentation_lists_every_label_value() -> None:
    text = (PROJECT / "docs/metrics.md").read_text().partition("## Labels")[2]
    bullets = [set(re.findall(r"`(\w+)`", bullet)) for bullet in text.split("\n- ")[1:]]
    documented = [
        bullets[1] - {"method"},
        bullets[3] - {"reason"},
        bullets[4] - {"reason"},
        bullets[5] - {"reason"},
        bullets[6] - {"reason"},
        bullets[7] - {"reason"},
        bullets[8] - {"kind"},
        bullets[9] - {"method", "result"},
    ]
    assert documented == [
        metrics.METHODS | {"other"},
        ERRORS,
        REFUSALS,
        RESENDS,
        metrics.RESTART_REASONS,
        metrics.WAITS,
        metrics.PROBLEMS,
        metrics.AUTH_METHODS | metrics.AUTH_RESULTS,
    ]
