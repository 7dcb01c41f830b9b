"""What one generation of MLflow is started with, and whether two such are the same; pure but for one key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.mlflow_server.command import command, environment
from proxy.mlflow_server.keys import gateway_passphrase
from proxy.mlflow_server.output import place_of
from proxy.settings.database import database_uri
from proxy.settings.fields import Settings

FRAME_OPTIONS = "SAMEORIGIN"
"""What MLflow says where it is told nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a start of MLflow takes from the settings."""

    settings: Settings
    passthrough: Mapping[str, str]
    environment: dict[str, str]
    uri: str
    jobs_port: int

    @property
    def database(self) -> str:
        """The database as a person knows it."""
        return place_of(self.uri)

    @property
    def frame_options(self) -> str:
        """What MLflow is told to say of frames (mlflow/environment_variables.py); its option wins."""
        said = self.environment.get("MLFLOW_SERVER_X_FRAME_OPTIONS", FRAME_OPTIONS)
        arguments = self.settings.mlflow_args
        for n, argument in enumerate(arguments):
            name, equals, value = argument.partition("=")
            if name == "--x-frame-options":
                said = value if equals else "".join(arguments[n + 1 : n + 2])
        return said

    def command(self, socket: Path) -> list[str]:
        return command(self.settings, socket, self.jobs_port)

    def starts_the_same(self, other: Plan) -> bool:
        """Whether MLflow would be started in the same way."""
        path = Path("socket")
        return self.environment == other.environment and self.command(path) == other.command(path)


def plan_of(settings: Settings, passthrough: Mapping[str, str], jobs_port: int, jobs_token: str) -> Plan:
    """Raises UserError where the settings can't be carried out at all."""
    values = environment(settings, passthrough, os.environ, jobs_token)
    values.update(gateway_passphrase(settings, values))
    command(settings, Path("socket"), jobs_port)
    return Plan(settings, dict(passthrough), values, database_uri(settings), jobs_port)
