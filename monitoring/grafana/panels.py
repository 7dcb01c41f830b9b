"""What the dashboards show: every panel with its queries; build.py makes Grafana's JSON of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# What stands in braces after our own series, and after recorded ones, which know services and no replicas.
ONE = 'job=~"$job",instance=~"$instance"'
ALL = 'job=~"$job"'
# Not of people's doing, or not ours to be quick at; as in mlflow-proxy.rules.yml.
PEOPLE = 'operation!~"livez|readyz|metrics|health|version|unparsed"'
ARTIFACTS = 'operation=~"artifact-.*|get-artifact|get-model-version-artifact|upload-run-artifact"'
STREAMS = 'operation=~"gateway-inference|assistant-stream|assistant"'
BROKEN = 'reason=~"client_gone|client_stalled|stalled|cut_short|reset|revoked"'
WHO = 'reason=~"unauthenticated|locked_out|sign_in_failed|provider_failed|not_admitted|no_database"'


@dataclass(frozen=True)
class Query:
    """One expression of a panel; `{}` in it stands for the labels chosen at the top."""

    expr: str
    legend: str = ""
    recorded: bool = False

    @property
    def text(self) -> str:
        return self.expr.replace("{", "{" + (ALL if self.recorded else ONE) + ",").replace(",}", "}")


@dataclass(frozen=True)
class Panel:
    """One rectangle. `kind` is Grafana's type; `width` of 24."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    description: str = ""
    stacked: bool = False
    thresholds: tuple[tuple[float | None, str], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]


def q(expr: str, legend: str = "", *, recorded: bool = False) -> Query:
    return Query(expr, legend, recorded)


def graph(title: str, *queries: Query, unit: str = "short", **more: Any) -> Panel:
    return Panel(title, queries, unit, **more)


def stat(title: str, *queries: Query, unit: str = "short", **more: Any) -> Panel:
    given: dict[str, Any] = {"kind": "stat", "width": 6} | more
    return Panel(title, queries, unit, **given)


def bars(title: str, *queries: Query, unit: str = "short", **more: Any) -> Panel:
    given: dict[str, Any] = {"kind": "bargauge"} | more
    return Panel(title, queries, unit, **given)


def rate(name: str, by: str, labels: str = "") -> str:
    """Of a counter of ours, a second."""
    return f"sum by ({by}) (rate(mlflow_proxy_{name}{{{labels}}}[$__rate_interval]))"


def increase(name: str, by: str, labels: str = "") -> str:
    """Of a counter of ours, from one point of the graph to the next."""
    return f"sum by ({by}) (increase(mlflow_proxy_{name}{{{labels}}}[$__rate_interval]))"


def quantile(of: float, name: str, labels: str = "", by: str = "") -> str:
    buckets = f"sum by ({by}le) (rate(mlflow_proxy_{name}_bucket{{{labels}}}[$__rate_interval]))"
    return f"histogram_quantile({of}, {buckets})"


GREEN_IS_ONE = ((None, "red"), (1.0, "green"))
RED_FROM_ONE = ((None, "green"), (1.0, "red"))

TRAFFIC = Dashboard(
    "mlflow-proxy-traffic",
    "mlflow-proxy: traffic, latency and errors",
    "Is it up, is it slow, and at what? By operation of MLflow.",
    (
        stat(
            "Requests that did not fail, last hour",
            q("1 - mlflow_proxy:failures:ratio_rate1h{}", recorded=True),
            unit="percentunit",
            description="Of people and programs; the objective is beside it.",
        ),
        stat(
            "Pace at which the error budget is spent",
            q(
                "mlflow_proxy:failures:ratio_rate1h{} / "
                "(1 - scalar(mlflow_proxy:availability_objective:ratio))",
                recorded=True,
            ),
            description="1 spends exactly all of it within the objective's 30 days; the alert wakes at 14.4.",
            thresholds=((None, "green"), (1.0, "orange"), (14.4, "red")),
        ),
        stat(
            "Half of the answers begin within",
            q("mlflow_proxy:time_to_first_byte_seconds:p50_rate5m{}", recorded=True),
            unit="s",
        ),
        stat("Requests being worked on", q("sum(mlflow_proxy_requests_in_flight{})")),
        graph(
            "Requests by operation",
            q(
                f"topk(12, {rate('requests_total', 'operation', PEOPLE)})",
                "{{operation}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Requests by status",
            q(rate("requests_total", "status"), "{{status}}"),
            unit="reqps",
            stacked=True,
            description="499 is a client that left before its answer began.",
        ),
        graph(
            "Start of the answer",
            q("mlflow_proxy:time_to_first_byte_seconds:p50_rate5m{}", "50 % within", recorded=True),
            q("mlflow_proxy:time_to_first_byte_seconds:p95_rate5m{}", "95 % within", recorded=True),
            q("mlflow_proxy:time_to_first_byte_seconds:p99_rate5m{}", "99 % within", recorded=True),
            unit="s",
            description="Without uploads, and without what waits for a model's provider.",
        ),
        graph(
            "Start of the answer by operation, 95 % within",
            q(
                "topk(12, mlflow_proxy_operation:time_to_first_byte_seconds:p95_rate15m{})",
                "{{operation}}",
                recorded=True,
            ),
            unit="s",
        ),
        Panel(
            "How long requests take",
            (
                q(
                    increase("request_duration_seconds_bucket", "le"),
                    "{{le}}",
                ),
            ),
            "s",
            "heatmap",
        ),
        graph(
            "Whole duration by operation, 95 % within",
            q(
                f"topk(12, {quantile(0.95, 'request_duration_seconds', PEOPLE, 'operation, ')})",
                "{{operation}}",
            ),
            unit="s",
        ),
        graph(
            "Failed requests (5xx) by operation",
            q(rate("requests_total", "operation", 'status=~"5.."'), "{{operation}}"),
            unit="reqps",
        ),
        graph(
            "Errors by reason",
            q(rate("errors_total", "reason"), "{{reason}}"),
            unit="reqps",
            description="Requests that failed after they were accepted (docs/metrics.md).",
        ),
        graph(
            "Refusals by reason",
            q(rate("refusals_total", "reason"), "{{reason}}"),
            unit="reqps",
        ),
        graph(
            "Sent to MLflow again",
            q(rate("resent_requests_total", "reason"), "{{reason}}"),
            unit="reqps",
            description="Clients notice nothing of these but the wait.",
        ),
        graph(
            "Waiting now",
            q("sum by (reason) (mlflow_proxy_held_requests{})", "{{reason}}"),
            q("sum(mlflow_proxy_users_held_up{})", "users at their limit"),
        ),
        graph(
            "Places in MLflow",
            q("sum by (kind) (mlflow_proxy_slots_in_use{})", "{{kind}}"),
            description="flask: its threads; whole: downloads that it reads into memory; pages: static ones.",
        ),
    ),
)

USERS = Dashboard(
    "mlflow-proxy-users",
    "mlflow-proxy: who uses it",
    "How many people and programs, and for what. Who they are is in the access log, and in no metric.",
    (
        stat("Users, last 15 minutes", q('sum(mlflow_proxy_active_users{within="15m"})')),
        stat("Users, last day", q('sum(mlflow_proxy_active_users{within="1d"})')),
        stat(
            "Requests, in the time shown",
            q(f"sum(increase(mlflow_proxy_requests_total{{{PEOPLE}}}[$__range]))"),
        ),
        stat(
            "Sent and received, in the time shown",
            q("sum(increase(mlflow_proxy_request_bytes_total{}[$__range]))", "received"),
            q("sum(increase(mlflow_proxy_response_bytes_total{}[$__range]))", "sent"),
            unit="bytes",
        ),
        graph(
            "Active users by how they are known",
            q('sum by (method) (mlflow_proxy_active_users{within="15m"})', "{{method}}"),
            stacked=True,
            description="Within 15 minutes. basic: a password; session: a browser; token: one of ours; "
            "jwt: a provider's. Each replica counts its own.",
        ),
        graph(
            "Requests by how their sender is known",
            q(
                rate("authentications_total", "method", 'result=~"success|remembered",method!="metrics"'),
                "{{method}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        bars(
            "Most asked for, in the time shown",
            q(
                f"topk(20, sum by (operation) (increase(mlflow_proxy_requests_total{{{PEOPLE}}}[$__range])))",
                "{{operation}}",
            ),
        ),
        bars(
            "Most bytes, in the time shown",
            q(
                "topk(20, sum by (operation) (increase(mlflow_proxy_request_bytes_total{}[$__range]) "
                "+ increase(mlflow_proxy_response_bytes_total{}[$__range])))",
                "{{operation}}",
            ),
            unit="bytes",
        ),
        graph(
            "Logging and reading",
            q(
                rate("requests_total", "operation", 'operation=~"log-.*|create-run|update-run|set-tag"'),
                "{{operation}}",
            ),
            q(rate("requests_total", "operation", 'operation=~"search-.*|get-.*|graphql"'), "{{operation}}"),
            unit="reqps",
        ),
        graph(
            "Refused for their role",
            q(rate("refusals_total", "reason", 'reason=~"forbidden|not_served|not_admitted"'), "{{reason}}"),
            unit="reqps",
        ),
    ),
)

SIGN_INS = Dashboard(
    "mlflow-proxy-sign-ins",
    "mlflow-proxy: sign-ins",
    "Who gets in and who does not, and whether the identity provider answers.",
    (
        stat(
            "Wrong credentials, last hour",
            q('sum(increase(mlflow_proxy_authentications_total{result="wrong"}[1h])) or on () vector(0)'),
            thresholds=((None, "green"), (50.0, "orange")),
        ),
        stat(
            "Stopped by a lock-out, last hour",
            q('sum(increase(mlflow_proxy_refusals_total{reason="locked_out"}[1h]))'),
            thresholds=RED_FROM_ONE,
        ),
        stat(
            "Identity provider",
            q('min(mlflow_proxy_probe_success{probe="provider"})'),
            thresholds=GREEN_IS_ONE,
        ),
        stat(
            "Tokens that end within a week",
            q('max(mlflow_proxy_tokens_expiring{within="7d"})'),
            thresholds=((None, "green"), (1.0, "orange")),
        ),
        graph(
            "Let in, by method",
            q(rate("authentications_total", "method", 'result="success",method!="metrics"'), "{{method}}"),
            unit="reqps",
            description="Credentials that were verified; those remembered from a moment ago do not count.",
        ),
        graph(
            "Not let in, by method and result",
            q(
                rate(
                    "authentications_total",
                    "method, result",
                    'result!~"success|remembered|refreshed|logout"',
                ),
                "{{method}}: {{result}}",
            ),
            unit="reqps",
        ),
        graph(
            "At the identity provider, by result",
            q(
                increase("authentications_total", "result", 'method="oidc"'),
                "{{result}}",
            ),
            description="docs/sign-in.md says what to look at.",
        ),
        graph(
            "Refusals that have to do with who is asking",
            q(
                rate("refusals_total", "reason", WHO),
                "{{reason}}",
            ),
            unit="reqps",
        ),
        bars(
            "Age of secrets",
            q("max by (secret) (mlflow_proxy_secret_age_seconds{})", "{{secret}}"),
            unit="s",
        ),
        bars(
            "Certificates are good for",
            q("min by (target) (mlflow_proxy:certificate_left:seconds{})", "{{target}}"),
            unit="s",
            thresholds=((None, "red"), (3 * 86400.0, "orange"), (30 * 86400.0, "green")),
        ),
    ),
)

MLFLOW = Dashboard(
    "mlflow-proxy-mlflow",
    "mlflow-proxy: MLflow's process, and ours",
    "Whether MLflow runs, since when, why it ended, and what the proxy itself takes.",
    (
        stat("MLflow is ready", q("min(mlflow_proxy_mlflow_up{})"), thresholds=GREEN_IS_ONE),
        stat("MLflow runs for", q("time() - max(mlflow_proxy_mlflow_start_time_seconds{})"), unit="s"),
        stat("Starts of MLflow", q("max(mlflow_proxy_mlflow_generation{})")),
        stat("The proxy runs for", q("time() - max(process_start_time_seconds{})"), unit="s"),
        graph(
            "Ready",
            q("mlflow_proxy_mlflow_up{}", "{{instance}}"),
            description="A call that reaches the database answers within PROXY_READY_TIMEOUT.",
        ),
        graph(
            "What is wrong now",
            q("sum by (kind) (mlflow_proxy_mlflow_problem{})", "{{kind}}"),
        ),
        graph(
            "Restarts by reason",
            q(
                increase("mlflow_restarts_total", "reason"),
                "{{reason}}",
            ),
        ),
        graph(
            "Rolling restarts, and failures that began",
            q(
                increase("mlflow_rolls_total", "result"),
                "{{result}}",
            ),
            q(increase("mlflow_problems_total", "kind"), "{{kind}}"),
        ),
        graph(
            "A call that reaches the database takes", q("max(mlflow_proxy_mlflow_probe_seconds{})"), unit="s"
        ),
        graph(
            "Clients that left while MLflow works on",
            q("sum(rate(mlflow_proxy_abandoned_requests_total{}[$__rate_interval]))"),
            unit="reqps",
        ),
        graph(
            "The proxy's processor time",
            q("rate(process_cpu_seconds_total{}[$__rate_interval])", "{{instance}}"),
            unit="percentunit",
            description="1 is one whole processor. MLflow's own processes are not in it.",
        ),
        graph("The proxy's memory", q("process_resident_memory_bytes{}", "{{instance}}"), unit="bytes"),
        graph(
            "The proxy's open files",
            q("process_open_fds{}", "{{instance}}"),
            q("process_max_fds{}", "limit of {{instance}}"),
        ),
        graph(
            "Log lines lost",
            q(increase("log_lines_dropped_total", "instance"), "logs of {{instance}}"),
            q(
                increase("audit_lines_lost_total", "instance"),
                "audit log of {{instance}}",
            ),
        ),
        Panel(
            "Versions",
            (q("max by (instance, version, mlflow_version, python) (mlflow_proxy_build_info{})"),),
            kind="table",
            width=24,
        ),
    ),
)

STORAGE = Dashboard(
    "mlflow-proxy-storage",
    "mlflow-proxy: storage and database",
    "What the service stands on: its probes, the databases, the artifact storage, disk and backups.",
    (
        stat(
            "Probes",
            q("min by (probe) (mlflow_proxy_probe_success{})", "{{probe}}"),
            thresholds=GREEN_IS_ONE,
            width=12,
        ),
        stat("Disk free", q("min(mlflow_proxy:disk_free:ratio{})"), unit="percentunit"),
        stat(
            "Last good backup is this old",
            q("time() - min(mlflow_proxy_backup_last_success_timestamp_seconds{})"),
            unit="s",
            thresholds=((None, "green"), (26 * 3600.0, "orange"), (72 * 3600.0, "red")),
        ),
        graph(
            "How long the probes take",
            q("max by (probe) (mlflow_proxy_probe_duration_seconds{})", "{{probe}}"),
            unit="s",
        ),
        graph(
            "Since a probe last found all well",
            q(
                "time() - min by (probe) (mlflow_proxy_probe_last_success_timestamp_seconds{})",
                "{{probe}}",
            ),
            unit="s",
        ),
        graph(
            "MLflow's database: a call that reaches it",
            q("max(mlflow_proxy_mlflow_probe_seconds{})", "through MLflow"),
            q('max(mlflow_proxy_probe_duration_seconds{probe="database"})', "directly"),
            unit="s",
        ),
        graph(
            "Sessions and tokens: transactions, and requests refused for want of them",
            q("sum(rate(mlflow_proxy_database_queries_total{}[$__rate_interval]))", "transactions"),
            q(
                'sum(rate(mlflow_proxy_refusals_total{reason="no_database"}[$__rate_interval]))',
                "refused",
            ),
            unit="reqps",
        ),
        graph(
            "Artifacts: requests",
            q(
                rate("requests_total", "operation, status", ARTIFACTS),
                "{{operation}} {{status}}",
            ),
            unit="reqps",
        ),
        graph(
            "Artifacts: start of the answer, 95 % within",
            q(
                quantile(0.95, "time_to_first_byte_seconds", ARTIFACTS, "operation, "),
                "{{operation}}",
            ),
            unit="s",
        ),
        graph(
            "Disk of the data directory",
            q("mlflow_proxy_disk_free_bytes{}", "free at {{instance}}"),
            q("mlflow_proxy_disk_size_bytes{}", "size at {{instance}}"),
            unit="bytes",
        ),
        graph(
            "Bodies kept in files, to be sent again",
            q("sum(mlflow_proxy_resend_spool_bytes{})"),
            unit="bytes",
        ),
    ),
)

STREAMS_ = Dashboard(
    "mlflow-proxy-streams",
    "mlflow-proxy: streams",
    "Artifacts on their way up and down, and answers that come in events.",
    (
        graph(
            "Bytes up",
            q(rate("request_bytes_total", "operation", ARTIFACTS), "{{operation}}"),
            unit="Bps",
            description="Counted when a transfer is over, however long it took.",
        ),
        graph(
            "Bytes down",
            q(rate("response_bytes_total", "operation", ARTIFACTS), "{{operation}}"),
            unit="Bps",
            description="Counted when a transfer is over, however long it took.",
        ),
        graph(
            "Transfers that ended",
            q(rate("requests_total", "operation", ARTIFACTS), "{{operation}}"),
            unit="reqps",
        ),
        graph(
            "How long they take",
            q(
                quantile(0.5, "request_duration_seconds", ARTIFACTS, "operation, "),
                "{{operation}}: half within",
            ),
            q(
                quantile(0.95, "request_duration_seconds", ARTIFACTS, "operation, "),
                "{{operation}}: 95 % within",
            ),
            unit="s",
        ),
        graph(
            "Broken off, by reason",
            q(rate("errors_total", "reason", BROKEN), "{{reason}}"),
            unit="reqps",
        ),
        graph(
            "Downloads that MLflow reads into memory",
            q('sum(mlflow_proxy_slots_in_use{kind="whole"})', "now"),
            q(
                'sum(rate(mlflow_proxy_waits_total{reason="place"}[$__rate_interval]))',
                "waits for a place, a second",
            ),
        ),
        graph(
            "Models and assistants: requests",
            q(
                rate("requests_total", "operation, status", STREAMS),
                "{{operation}} {{status}}",
            ),
            unit="reqps",
        ),
        graph(
            "Models and assistants: whole answer, 95 % within",
            q(
                quantile(0.95, "request_duration_seconds", STREAMS, "operation, "),
                "{{operation}}",
            ),
            unit="s",
        ),
    ),
)

DASHBOARDS = (TRAFFIC, USERS, SIGN_INS, MLFLOW, STORAGE, STREAMS_)
