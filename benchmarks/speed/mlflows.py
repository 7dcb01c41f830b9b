"""The real MLflow: bare, behind its own basic-auth application, and behind the proxy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import packs
from arrangements import BASIC, PASSWORD, PROXY, USER, Arrangement, hashed

MLFLOW = str(Path(sys.executable).with_name("mlflow"))
CHEAP = "/api/2.0/mlflow/experiments/get?experiment_id=0"
"""A call that reads one row of the database."""
# The job runner costs 1.3 GB and 27 CPU seconds a start; nothing here submits a job.
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Bare(Arrangement):
    """`mlflow server` with one worker, as the proxy runs it, and nothing in front."""

    name = "MLflow alone"
    ready_at = CHEAP
    authorization = None
    options: Sequence[str] = ("--workers", "1")

    def command(self) -> Sequence[str]:
        return [
            *(MLFLOW, "server", "--host", "127.0.0.1", "--port", str(self.port), *self.options),
            *("--artifacts-destination", str(self.folder / "artifacts")),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | ENVIRONMENT


class BasicAuth(Bare):
    """`mlflow server --app-name basic-auth` with its defaults: four workers, and nothing remembered."""

    name = "MLflow's basic-auth"
    authorization = BASIC
    options = ("--app-name", "basic-auth")

    @property
    def environment(self) -> dict[str, str]:
        # The user is the first one's of the configuration, which the application makes at its start.
        (self.folder / "basic_auth.ini").write_text(
            "[mlflow]\ndefault_permission = READ\n"
            f"database_uri = sqlite:///{self.folder}/basic_auth.db\nadmin_username = {USER}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        return super().environment | {
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key for one benchmark",
        }


class Proxied(Arrangement):
    """mlflow-proxy with its defaults, TLS off, and one user in a users file."""

    name = "mlflow-proxy"
    ready_at = CHEAP

    def command(self) -> Sequence[str]:
        (self.folder / "users").write_text(f"{USER}:{hashed()}:editor\n")
        packs.put_into(self.folder / "data")
        return [PROXY, "serve"]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {
            "MLFLOW_PORT": str(self.port),
            "PROXY_TLS": "off",
            "PROXY_DATA_DIR": str(self.folder / "data"),
            "PROXY_USERS_FILE": str(self.folder / "users"),
            **ENVIRONMENT,
        }

    def pids(self) -> list[int]:
        """Without MLflow, which is below it."""
        return [self.process.pid]
