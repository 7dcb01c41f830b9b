"""docker/docker-compose.mlflow.yaml as the tests read it, and some of its parts as processes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
FILE = DOCKER / "docker-compose.mlflow.yaml"
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::?-([^}]*))?\}")
EXAMPLES = (
    "mlflow.env.example",
    "mlflow-postgres.env.example",
    "mlflow-minio.env.example",
    "mlflow-oidc.env.example",
    "docker/compose.env.example",
)


def filled_in(value: Any) -> Any:
    """With the defaults of the variables that Compose fills in."""
    if isinstance(value, str):
        return VARIABLE.sub(lambda found: found[2] or "", value).replace("$$", "$")
    if isinstance(value, dict):
        return {key: filled_in(one) for key, one in value.items()}
    if isinstance(value, list):
        return [filled_in(one) for one in value]
    return value


def as_written() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


def stack() -> dict[str, Any]:
    """The file, where nothing is set in docker/.env."""
    document: dict[str, Any] = filled_in(as_written())
    return document


def env_file(path: Path) -> dict[str, str]:
    """NAME=value lines; those that are commented out are not in it."""
    found = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and re.fullmatch("[A-Z_][A-Z0-9_]*", name):
            found[name] = value
    return found


def make_env(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """docker/make-env in a copy of what it works with; what it writes is below `folder`."""
    (folder / "docker").mkdir(parents=True, exist_ok=True)
    for name in (*EXAMPLES, "docker/make-env"):
        shutil.copyfile(ROOT / name, folder / name)
        (folder / name).chmod(0o644)
    (folder / "docker" / "make-env").chmod(0o755)
    return subprocess.run(
        [folder / "docker" / "make-env", *options], capture_output=True, text=True, cwd=folder, timeout=60
    )


def options_of(service: str) -> list[str]:
    """The words after the program's name in a service's command."""
    command = stack()["services"][service]["command"]
    return [word for word in command if word != service]


def environment_of(service: str) -> dict[str, str]:
    """What the stack itself sets."""
    return {name: str(value) for name, value in stack()["services"][service].get("environment", {}).items()}
