"""What Prometheus reads: every collector of ours, and the text of /metrics."""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from proxy.exchange import ERRORS, REFUSALS, RESENDS, Exchange

PREFIX = "mlflow_proxy_"
OTHER = "other"
"""The label value that stands for everything outside a closed set."""

# Some of these sets belong to rooms that this one may not import; a test compares them.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
AUTH_METHODS = frozenset({"basic", "bearer", "job", "jwt", "metrics", "none", "oidc", "session", "token"})
AUTH_RESULTS = frozenset(
    {"success", "remembered", "wrong", "missing", "malformed", "locked_out", "ended", "unavailable"}
    | {"expired", "revoked"}
    # Of signing in with the identity provider (auth/oidc/failures.py).
    | {"refreshed", "logout", "bad_answer", "misconfigured", "bad_state", "bad_token", "denied"}
    | {"not_admitted", "no_role", "loop"}
)
RESTART_REASONS = frozenset({"exited", "killed", "start_timeout", "guard_lost", "jobs_lost"})
SLOT_KINDS = frozenset({"flask", "pages", "whole"})
ROLLS = frozenset({"done", "failed"})
WAITS = frozenset({"again", "jobs", "mlflow", "place", "user"})
PROBLEMS = frozenset({"away", "failed", "frozen", "refused", "silent", "worker"})
CALLERS = frozenset({"basic", "jwt", "session", "token"})
WITHIN = {"15m": 900.0, "1d": 86_400.0}
"""How long ago somebody may have called last to be active, in seconds, by the label's value."""
MOST_CALLERS = 20_000
"""Callers remembered at once; where there are more, it begins again."""

# MLflow's own answers take 5 to 25 ms; gigabytes up or down, minutes. Each bound is two series an operation.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
"""Upper bounds of the histograms' buckets, in seconds, +Inf left out."""
_LE = (*(str(bound) for bound in BOUNDS), "+Inf")


class Gauge(NamedTuple):
    """A family of gauges that another room has; its name has no prefix."""

    name: str
    documentation: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]


class Tally(NamedTuple):
    """What was counted since the start, at one moment."""

    at: float
    """Unix time."""
    statuses: Mapping[str, int]
    """Requests by the first digit of their status."""
    errors: Mapping[str, int]
    refusals: Mapping[str, int]
    operations: Mapping[str, tuple[int, ...]]
    """Observations of the duration by operation, one number for each bucket (BOUNDS and above)."""
    failed: Mapping[str, int]
    """Requests answered with 5xx, by operation."""
    bytes_in: int
    bytes_out: int


class Child(Protocol):
    """What is read of the supervised MLflow at each scrape; `proxy.mlflow_server.MlflowServer` has it."""

    @property
    def ready(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    @property
    def started_at(self) -> float | None: ...
    @property
    def restarts(self) -> Mapping[str, int]: ...
    @property
    def rolls(self) -> Mapping[str, int]: ...
    @property
    def problems(self) -> Mapping[str, int]: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def probe_seconds(self) -> float | None: ...


class _Histogram:
    """Observations by bucket, not cumulated: the count is their sum, so that the two can't disagree."""

    __slots__ = ("buckets", "examples", "total")

    def __init__(self) -> None:
        self.examples: dict[int, Exemplar] = {}
        """Of each bucket the last one of which there is a trace."""
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0


class _PerOperation:
    __slots__ = ("bytes_in", "bytes_out", "duration", "first_byte")

    def __init__(self) -> None:
        self.duration = _Histogram()
        self.first_byte = _Histogram()
        self.bytes_in = 0
        self.bytes_out = 0


class _Requests:
    """The requests of one operation, method and status."""

    __slots__ = ("count", "operation")

    def __init__(self, operation: _PerOperation) -> None:
        self.count = 0
        self.operation = operation


class Metrics(Collector):
    """Counts on the event loop, in plain integers; builds Prometheus' families only when scraped.

    A request costs one dictionary hit and a few additions here, where the same through
    prometheus_client's own Counter and Histogram (a lock and a value object each) costs five times that.
    Everything but `render` belongs to the event loop's thread. `render` runs in another and takes no
    lock: each list and dictionary is copied in one step of the interpreter, and what must agree (a
    histogram's count and its buckets) is derived from one such copy.

    The sources below are read at each scrape, so that nothing is kept twice; they may be set once, later
    than the first request.
    """

    def __init__(self, *, version: str, mlflow_version: str) -> None:
        self.child: Child | None = None
        self.held_requests: Callable[[], Mapping[str, int]] = _nothing
        """Requests that wait now, by what they wait for (WAITS)."""
        self.waits: Callable[[], Mapping[str, int]] = _nothing
        """Requests that had to wait so far, in the same way."""
        self.users_held_up: Callable[[], int] = _zero
        """Users who have as many requests in MLflow as one may, and more that wait."""
        self.spool_bytes: Callable[[], int] = _zero
        """Bytes of bodies in files, kept for sending again."""
        self.slots: Callable[[], Mapping[str, int]] = _nothing
        """Slots of MLflow in use, by kind (SLOT_KINDS)."""
        self.certificate_expiry: Callable[[], float | None] = _none
        """Unix time at which the certificate ends; None without TLS."""
        self.log_lines_dropped: Callable[[], int] = _zero
        """Lines of both logs that could not be written."""
        self.audit_lines_lost: Callable[[], int] = _zero
        """Lines of the audit log that could not be written."""
        self.database_queries: Callable[[], int] = _zero
        """Transactions of the database of our own."""
        self.spans_lost: Callable[[], int] = _zero
        """Spans of traces that could not be sent."""
        self.gauges: Callable[[], Iterable[Gauge]] = tuple
        """What the probes found."""
        self._requests: dict[tuple[str, str, int], _Requests] = {}
        self._operations: dict[str, _PerOperation] = {}
        self._errors = dict.fromkeys(sorted(ERRORS), 0)
        self._refusals = dict.fromkeys(sorted(REFUSALS), 0)
        self._authentications: dict[tuple[str, str], int] = {}
        self._abandoned = 0
        self._resent: dict[tuple[str, str], int] = {}
        self._in_flight = 0
        self._callers: dict[tuple[str, str], float] = {}
        self._build = {
            "version": version,
            "mlflow_version": mlflow_version,
            "python": platform.python_version(),
        }
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    # ----------------------------------------------------------------- on the event loop

    def begin(self) -> None:
        """A request has arrived; every `begin` has its `end`."""
        self._in_flight += 1

    def end(self) -> None:
        """A request is over, however it ended."""
        self._in_flight -= 1

    def observe(self, exchange: Exchange) -> None:
        """Count one request that is over. Times are taken from the exchange; without an end, now is it."""
        operation = exchange.operation
        method = exchange.method
        key = (
            "unparsed" if operation is None else operation.name,
            method if method in METHODS else OTHER,
            exchange.status,
        )
        requests = self._requests.get(key)
        if requests is None:
            requests = self._new_series(key)
        requests.count += 1
        per_operation = requests.operation
        started = exchange.started
        ended = exchange.ended
        seconds = (time.perf_counter() if ended is None else ended) - started
        histogram = per_operation.duration
        bucket = bisect_left(BOUNDS, seconds)
        histogram.buckets[bucket] += 1
        histogram.total += seconds
        if exchange.trace is not None and exchange.trace.sampled:
            example = Exemplar({"trace_id": exchange.trace.id}, seconds, exchange.received)
            histogram.examples[bucket] = example
        first_byte = exchange.first_byte
        if first_byte is not None:
            seconds = first_byte - started
            histogram = per_operation.first_byte
            histogram.buckets[bisect_left(BOUNDS, seconds)] += 1
            histogram.total += seconds
        per_operation.bytes_in += exchange.bytes_in
        per_operation.bytes_out += exchange.bytes_out
        identity = exchange.identity
        if identity is not None:
            callers = self._callers
            callers[identity.method, identity.user] = exchange.received
            if len(callers) > MOST_CALLERS:
                callers.clear()
        if exchange.refusal is not None:
            _count(self._refusals, exchange.refusal)
        if exchange.error is not None:
            _count(self._errors, exchange.error)
        if exchange.abandoned:
            self._abandoned += 1
        if exchange.resent is not None:
            self._count_resent(key[0], exchange.resent)

    def _count_resent(self, operation: str, reasons: list[str]) -> None:
        for reason in reasons:
            key = (operation, reason if reason in RESENDS else OTHER)
            self._resent[key] = self._resent.get(key, 0) + 1

    def tally(self) -> Tally:
        """What was counted so far; any thread may ask."""
        statuses: dict[str, int] = {}
        failed: dict[str, int] = {}
        for (name, _, status), series in self._requests.copy().items():
            first = str(status)[0]
            statuses[first] = statuses.get(first, 0) + series.count
            if first == "5":
                failed[name] = failed.get(name, 0) + series.count
        operations = self._operations.copy()
        return Tally(
            time.time(),
            statuses,
            self._errors.copy(),
            self._refusals.copy(),
            {name: tuple(operation.duration.buckets) for name, operation in operations.items()},
            failed,
            sum(operation.bytes_in for operation in operations.values()),
            sum(operation.bytes_out for operation in operations.values()),
        )

    @property
    def in_flight(self) -> int:
        """Requests being worked on now."""
        return self._in_flight

    def authentication(self, method: str, result: str) -> None:
        """Count one credential looked at, by AUTH_METHODS and AUTH_RESULTS."""
        key = (
            method if method in AUTH_METHODS else OTHER,
            result if result in AUTH_RESULTS else OTHER,
        )
        self._authentications[key] = self._authentications.get(key, 0) + 1

    def _new_series(self, key: tuple[str, str, int]) -> _Requests:
        name, method, status = key
        if not 100 <= status <= 599:
            # Held under its own number all the same, it would be a label that a gateway's provider chooses.
            key = (name, method, 0)
            known = self._requests.get(key)
            if known is not None:
                return known
        operation = self._operations.get(name)
        if operation is None:
            operation = self._operations[name] = _PerOperation()
        requests = self._requests[key] = _Requests(operation)
        return requests

    # ----------------------------------------------------------------- in a thread of its own

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content-Type and text of /metrics: OpenMetrics 1.0 where `accept` names it, else Prometheus' own.

        Takes milliseconds, tens with hundreds of operations seen: call it in a thread.
        """
        # Not the caller's header itself: prometheus_client answers with the version it finds in there.
        wanted = "application/openmetrics-text" if "application/openmetrics-text" in accept else ""
        encode, content_type = choose_encoder(wanted)
        return content_type, encode(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are ours alone, and registering must not read the sources."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family of ours, as prometheus_client wants them."""
        yield from self._of_requests()
        yield from self._of_mlflow()
        held = GaugeMetricFamily(
            PREFIX + "held_requests", "Requests that wait now, by what they wait for.", labels=("reason",)
        )
        for reason, number in _closed(WAITS, self.held_requests()).items():
            held.add_metric((reason,), number)
        yield held
        waits = _closed(WAITS, self.waits())
        yield _by("waits", "Times a request had to wait, by what it waited for.", "reason", waits)
        yield _gauge(
            "users_held_up",
            "Users who have as many requests in MLflow as one may, and more that wait.",
            self.users_held_up(),
        )
        yield _gauge(
            "resend_spool_bytes",
            "Bytes of request bodies in files, kept until MLflow has answered.",
            self.spool_bytes(),
        )
        slots = GaugeMetricFamily(
            PREFIX + "slots_in_use",
            "MLflow's slots taken now: flask (its worker threads), whole (of these, downloads it reads into "
            "memory), pages (its static ones).",
            labels=("kind",),
        )
        in_use = self.slots()
        for kind in sorted(SLOT_KINDS):
            slots.add_metric((kind,), in_use.get(kind, 0))
        yield slots
        expiry = self.certificate_expiry()
        if expiry is not None:
            yield _gauge(
                "certificate_expiry_timestamp_seconds", "Unix time at which the TLS certificate ends.", expiry
            )
        yield _counter(
            "log_lines_dropped",
            "Log lines lost because standard output or standard error took none.",
            self.log_lines_dropped(),
        )
        yield _counter(
            "audit_lines_lost",
            "Lines of the audit log that could not be written.",
            self.audit_lines_lost(),
        )
        yield _counter(
            "database_queries",
            "Transactions in the database of sessions and tokens.",
            self.database_queries(),
        )
        yield _counter("spans_lost", "Spans of traces that could not be sent.", self.spans_lost())
        for gauge in self.gauges():
            family = GaugeMetricFamily(PREFIX + gauge.name, gauge.documentation, labels=gauge.labels)
            for labels, value in gauge.samples.items():
                family.add_metric(labels, value)
            if gauge.samples:
                yield family
        build = GaugeMetricFamily(
            PREFIX + "build_info", "Versions, in labels; always 1.", labels=list(self._build)
        )
        build.add_metric(list(self._build.values()), 1)
        yield build

    def _of_requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            PREFIX + "requests",
            "Requests answered, refused or broken off.",
            labels=("operation", "method", "status"),
        )
        for (name, method, status), series in sorted(self._requests.copy().items()):
            requests.add_metric((name, method, str(status) if status else OTHER), series.count)
        yield requests

        duration = HistogramMetricFamily(
            PREFIX + "request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            labels=("operation",),
        )
        first_byte = HistogramMetricFamily(
            PREFIX + "time_to_first_byte_seconds",
            "Time from a request's arrival to the start of its answer.",
            labels=("operation",),
        )
        bytes_in = CounterMetricFamily(
            PREFIX + "request_bytes", "Bytes of request bodies read from clients.", labels=("operation",)
        )
        bytes_out = CounterMetricFamily(
            PREFIX + "response_bytes", "Bytes of answers' bodies sent to clients.", labels=("operation",)
        )
        for name, operation in sorted(self._operations.copy().items()):
            _add(duration, name, operation.duration)
            _add(first_byte, name, operation.first_byte)
            bytes_in.add_metric((name,), operation.bytes_in)
            bytes_out.add_metric((name,), operation.bytes_out)
        yield from (duration, first_byte, bytes_in, bytes_out)

        yield _gauge("requests_in_flight", "Requests being worked on now.", self._in_flight)
        yield _by(
            "errors", "Requests that failed after they were accepted, by reason.", "reason", self._errors
        )
        yield _by("refusals", "Requests refused by the proxy, by reason.", "reason", self._refusals)
        yield _counter(
            "abandoned_requests",
            "Requests whose client left while MLflow was still at work for them.",
            self._abandoned,
        )
        resent = CounterMetricFamily(
            PREFIX + "resent_requests",
            "Times a request was sent to MLflow again.",
            labels=("operation", "reason"),
        )
        for pair, number in sorted(self._resent.copy().items()):
            resent.add_metric(pair, number)
        yield resent
        authentications = CounterMetricFamily(
            PREFIX + "authentications", "Credentials looked at.", labels=("method", "result")
        )
        for pair, number in sorted(self._authentications.copy().items()):
            authentications.add_metric(pair, number)
        yield authentications
        yield self._active()

    def _active(self) -> Metric:
        active = GaugeMetricFamily(
            PREFIX + "active_users",
            "Users who called within that time, by how they were known.",
            labels=("method", "within"),
        )
        for labels, number in self.active().items():
            active.add_metric(labels, number)
        return active

    def active(self) -> dict[tuple[str, str], int]:
        """Who called lately, by how they were known (CALLERS) and within which time (WITHIN); who did so
        longest ago is forgotten here."""
        now = time.time()
        numbers = {(method, within): 0 for method in sorted(CALLERS) for within in WITHIN}
        for caller, last in self._callers.copy().items():
            ago = now - last
            if ago > max(WITHIN.values()):
                self._callers.pop(caller, None)
            for within, longest in WITHIN.items():
                if ago <= longest and caller[0] in CALLERS:
                    numbers[caller[0], within] += 1
        return numbers

    def _of_mlflow(self) -> Iterator[Metric]:
        child = self.child
        if child is None:
            return
        yield _gauge(
            "mlflow_up", "1 while MLflow is ready: a call that reaches its database answers.", child.ready
        )
        yield _gauge(
            "mlflow_generation", "How many times MLflow was started by this process.", child.generation
        )
        started_at = child.started_at
        if started_at is not None:
            yield _gauge("mlflow_start_time_seconds", "Unix time at which MLflow was started.", started_at)
        restarts = _closed(RESTART_REASONS, child.restarts)
        yield _by("mlflow_restarts", "Times MLflow was started again, by reason.", "reason", restarts)
        rolls = _closed(ROLLS, child.rolls)
        yield _by("mlflow_rolls", "Times another MLflow was put beside the running one.", "result", rolls)
        now = GaugeMetricFamily(
            PREFIX + "mlflow_problem",
            "1 for what is wrong with MLflow now, 0 for the rest.",
            labels=("kind",),
        )
        problem = child.problem
        for kind in sorted(PROBLEMS):
            now.add_metric((kind,), kind == problem)
        yield now
        problems = _closed(PROBLEMS, child.problems)
        yield _by("mlflow_problems", "Times MLflow was seen to fail, by what was seen.", "kind", problems)
        if child.probe_seconds is not None:
            yield _gauge(
                "mlflow_probe_seconds",
                "Seconds of MLflow's latest answer to a call that reaches its database.",
                child.probe_seconds,
            )


def _zero() -> int:
    return 0


def _none() -> None:
    return None


def _nothing() -> Mapping[str, int]:
    return {}


def _count(counts: dict[str, int], reason: str, number: int = 1) -> None:
    """Count under `reason` if the set has it, else under OTHER, so that no label is ever made up."""
    if reason not in counts:
        reason = OTHER
    counts[reason] = counts.get(reason, 0) + number


def _closed(names: frozenset[str], counts: Mapping[str, int]) -> dict[str, int]:
    """The counts with every name there is, at 0 where nothing was counted."""
    found = dict.fromkeys(sorted(names), 0)
    for name, number in dict(counts).items():
        _count(found, name, number)
    return found


def _add(family: HistogramMetricFamily, name: str, histogram: _Histogram) -> None:
    buckets = histogram.buckets.copy()
    if any(buckets):
        examples = histogram.examples.copy()
        values: list[tuple[str, float] | tuple[str, float, Exemplar]] = [
            (bound, count, examples[at]) if at in examples else (bound, count)
            for at, (bound, count) in enumerate(zip(_LE, accumulate(buckets), strict=True))
        ]
        family.add_metric((name,), values, sum_value=histogram.total)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, documentation, value=value)


def _by(name: str, documentation: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, documentation, labels=(label,))
    for value, number in counts.copy().items():
        family.add_metric((value,), number)
    return family
