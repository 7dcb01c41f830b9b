"""One real service under attack, with a user of each role, shared by every theme."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import service as services
import wire
from attacked import METRICS_TOKEN, PASSWORDS, ROLES, Target
from tap import tapped

from proxy.auth.passwords import hash_password


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("attacked")
    users = folder / "users"
    users.write_text(
        "".join(f"{name}:{hash_password(PASSWORDS[name])}:{role}\n" for name, role in ROLES.items())
    )
    users.chmod(0o600)
    with (
        services.running(
            folder,
            PROXY_USERS_FILE=str(users),
            PROXY_TRUSTED_PROXIES=wire.TRUSTED,
            PROXY_ALLOWED_HOSTS="mlflow.example.com",
            PROXY_METRICS_TOKEN=METRICS_TOKEN,
            PROXY_BODY_LIMIT="1MiB",
            PROXY_LOGIN_FAILURES="6",
            PROXY_LOGIN_WINDOW="60",
            # The model provider of these tests listens on loopback, which MLflow otherwise calls for nobody.
            MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS="true",
            MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES="http",
        ) as running,
        tapped(running) as tap,
    ):
        attacked = Target(running, tap, "")
        made = attacked.post("edda", "/api/2.0/mlflow/experiments/create", {"name": "attacked"})
        attacked.experiment = made.json()["experiment_id"]
        yield attacked
