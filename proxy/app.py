"""The page: the whole chain of applications, outermost last, and what each is made of; no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.auth import Authenticator
from proxy.edge import Edge
from proxy.forward import Forwarder, Rules
from proxy.gate import Gate, Page, pages_alone
from proxy.hold import Hold, Slots
from proxy.hosts import LOOPBACK, Hosts
from proxy.http1 import Pool
from proxy.logs import AccessLog
from proxy.metrics import Metrics
from proxy.mlflow_server import MlflowServer
from proxy.operations import OWN
from proxy.pages.current_user import current_user
from proxy.pages.health import livez, readyz
from proxy.pages.metrics import metrics as metrics_page
from proxy.pages.waiting import unless_up
from proxy.settings import Settings
from proxy.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class Applications:
    """One application for each listener, and what they share that must be run or ended."""

    public: Edge
    """The service itself."""
    internal: Edge
    """The same for MLflow's own jobs alone, on a loopback port."""
    scraper: Edge
    """The metrics and the probes, without a credential (PROXY_METRICS_ADDRESS)."""
    pool: Pool
    watchdog: Watchdog


def applications(
    settings: Settings,
    mlflow: MlflowServer,
    authenticator: Authenticator,
    metrics: Metrics,
    access_log: AccessLog,
    *,
    jobs_port: int,
    certificate_names: tuple[str, ...],
) -> Applications:
    """Put the service together; nothing runs yet."""
    prefix = urlsplit(settings.public_url).path.rstrip("/") if settings.public_url else ""
    hold = Hold(
        mlflow,
        requests=settings.hold_requests,
        seconds=settings.hold_seconds,
        held_bytes=settings.buffer_bytes,
    )
    flask_slots = Slots(settings.mlflow_concurrency * settings.mlflow_workers)
    whole_slots = Slots(settings.whole_downloads)
    metrics.child = mlflow
    metrics.held_requests = lambda: hold.waiting
    metrics.slots = lambda: {"flask": flask_slots.used, "whole": whole_slots.used}
    pool = Pool(mlflow.socket)
    watchdog = Watchdog()

    forward = Forwarder(
        pool,
        hold,
        watchdog,
        Rules(
            authority=f"127.0.0.1:{jobs_port}".encode(),
            prefix=prefix.encode(),
            direct_artifacts=settings.direct_artifacts,
            body_limit=settings.body_limit,
            stall=settings.stall_timeout,
            answer=settings.answer_timeout,
            abandoned=settings.abandoned_timeout,
        ),
        flask_slots=flask_slots,
        whole_slots=whole_slots,
    )
    pages: Mapping[str, Page] = {
        "/livez": Page(OWN["livez"], livez),
        "/readyz": Page(OWN["readyz"], readyz(mlflow, users=lambda: authenticator.problem)),
        "/metrics": Page(OWN["metrics"], metrics_page(metrics)),
    }
    gate = Gate(
        pages,
        {"current-user": current_user},
        unless_up(mlflow, forward, prefix),
        authenticator,
        Hosts((*LOOPBACK, settings.host, *certificate_names, *settings.allowed_hosts), settings.public_url),
        prefix=prefix,
        delete_role=settings.delete_role,
        direct_artifacts=settings.direct_artifacts,
    )
    return Applications(
        public=Edge(gate, metrics, access_log, settings.trusted_proxies),
        internal=Edge(gate, metrics, access_log, (), internal=True),
        scraper=Edge(pages_alone(pages), metrics, access_log, ()),
        pool=pool,
        watchdog=watchdog,
    )
