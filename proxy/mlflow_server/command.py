"""What ``mlflow server`` is started with: its arguments and its environment; pure."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from proxy.settings.database import artifact_destination, database_uri
from proxy.settings.fields import Settings
from proxy.settings.names import may_reach_mlflow, service_links

KEEP_ALIVE = 75
"""Seconds that MLflow keeps an idle connection: well over what our pool does, so that it never closes one
first."""

JOBS_USER = "mlflow-jobs"
"""The name that MLflow's jobs give with their credential."""

MARKER = "PROXY_GENERATION"
"""Names one start of MLflow in the environment of all its processes, so that they are known whatever becomes
of us."""

# An empty value of these means unset, as in our own settings; boto3 for one takes an empty key for a key.
_EMPTY_IS_UNSET = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_")

# A service manager talks to us and not to our children.
_SERVICE_MANAGER = frozenset(
    {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"}
)

_LOOPBACK = ("127.0.0.1", "localhost")


def command(settings: Settings, socket: Path, jobs_port: int) -> list[str]:
    """The arguments. MLflow listens on `socket` alone; `jobs_port` is our loopback listener, to which its
    jobs call.

    ``--host`` and ``--port`` open nothing, because uvicorn takes ``--uds`` first; they are what MLflow builds
    the jobs' tracking URI from (mlflow/server/__init__.py, _run_server). Raises UserError as
    proxy.settings.database.artifact_destination does.
    """
    uvicorn = [
        "--uds",
        str(socket),
        "--http",
        "httptools",
        "--loop",
        "uvloop",
        # An in-flight request may end within the grace; what has not by then is cut off before the guard
        # kills.
        "--timeout-graceful-shutdown",
        str(graceful_shutdown(settings.grace_seconds)),
        "--timeout-keep-alive",
        str(KEEP_ALIVE),
        # A worker that imports MLflow on a busy machine answers nothing for longer than the 5 s it would be
        # given.
        "--timeout-worker-healthcheck",
        "30",
        # Behind us nobody's X-Forwarded-For is believed, ours included: MLflow's assistant, which runs
        # programs for "localhost", stays closed to all (mlflow/server/assistant/api.py).
        "--no-proxy-headers",
        "--no-server-header",
        # Flask's file answers have a Date of their own, and two of them is not HTTP.
        "--no-date-header",
        "--no-access-log",
    ]
    return [
        sys.executable,
        str(Path(__file__).with_name("launch.py")),
        "server",
        *settings.mlflow_args,
        # After what a person gave: the last of an option wins.
        "--host",
        "127.0.0.1",
        "--port",
        str(jobs_port),
        "--workers",
        str(settings.mlflow_workers),
        "--serve-artifacts",
        "--artifacts-destination",
        artifact_destination(settings),
        "--uvicorn-opts",
        shlex.join(uvicorn),
    ]


def graceful_shutdown(grace: float) -> int:
    """Whole seconds that uvicorn gives to what is in flight, out of the guard's grace; at least 1."""
    return max(1, int(grace * 0.8))


def environment(
    settings: Settings, passthrough: Mapping[str, str], environ: Mapping[str, str], jobs_token: str
) -> dict[str, str]:
    """The environment of ``mlflow server`` and of every process that it starts.

    `environ` is ours and stronger than `passthrough`, which comes from files. Nothing of the proxy's own is
    in it but the jobs' credential. Raises UserError as proxy.settings.database.database_uri does.
    """
    links = service_links(environ)
    # The settings have weighed the environment already, and named the driver in a registry's URI.
    given = {**environ, **passthrough}
    result = {
        name: value
        for name, value in given.items()
        if may_reach_mlflow(name)
        and name not in links
        and name not in _SERVICE_MANAGER
        and (value or not name.startswith(_EMPTY_IS_UNSET))
    }
    # Where these say, MLflow's processes send what they trace, prompts and answers, instead of keeping it
    # (mlflow/tracing/provider.py). They are meant for us, unless somebody says so in MLflow's own words.
    if result.get("MLFLOW_ENABLE_OTLP_EXPORTER", "").strip().lower() not in ("true", "1"):
        result = {name: value for name, value in result.items() if not name.startswith("OTEL_")}
    # Nothing leaves the machine that nobody asked for.
    result.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    result.setdefault("MLFLOW_MODEL_CATALOG_URI", "")
    # `python -m` puts the working directory first on the path: a `types/` or `logging.py` there would be
    # imported.
    result["PYTHONSAFEPATH"] = "1"
    result["PYTHONUNBUFFERED"] = "1"
    result["MLFLOW_BACKEND_STORE_URI"] = database_uri(settings)
    # As a password too, and not as a token alone: a job's calls to MLflow's gateway send nothing but a user
    # name and a password (mlflow/genai/utils/gateway_utils.py), which also win over a ~/.mlflow/credentials
    # of this user's.
    result["MLFLOW_TRACKING_USERNAME"] = JOBS_USER
    result["MLFLOW_TRACKING_PASSWORD"] = jobs_token
    result["MLFLOW_TRACKING_TOKEN"] = jobs_token
    _go_direct(result)
    return result


def _go_direct(environment: dict[str, str]) -> None:
    """Keep the jobs' calls to our loopback listener away from an outgoing HTTP proxy."""
    if not any(environment.get(name) for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")):
        return
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name for name in known.split(",") if name]
    names += [name for name in _LOOPBACK if name not in names]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(names)
