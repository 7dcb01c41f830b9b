"""Artifacts in S3 and Azure Blob: the client on another machine has no key and no way to the storage."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elsewhere import Elsewhere, elsewhere
from object_stores import AZURITE, S3, Azure, ObjectStore, object_store
from programs import needs
from service import Service, free_port, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs("ip"),
]

QUICKSTART = Path(__file__).with_name("quickstart.py")
# Above 500 MiB MLflow's client would upload in parts, straight to the storage.
SIZES = [1_000, 600_000_000]


@pytest.fixture(
    params=[
        pytest.param(S3, id="S3"),
        pytest.param(
            Azure,
            id="Azure",
            marks=pytest.mark.skipif(
                not AZURITE.exists() or shutil.which("node") is None, reason="not installed: azurite (npm ci)"
            ),
        ),
    ],
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    with object_store(request.param, tmp_path / "store") as store:
        yield store
    shutil.rmtree(tmp_path / "store", ignore_errors=True)  # what it held is large


@pytest.fixture
def host() -> Iterator[Elsewhere]:
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(elsewhere())
        except PermissionError as error:
            pytest.skip(f"a network namespace can't be made: {error}")
        yield host


@pytest.fixture
def service(store: ObjectStore, host: Elsewhere, tmp_path: Path) -> Iterator[Service]:
    """Reached at the cable's end as well as on loopback."""
    port = str(free_port())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (
        tempfile.TemporaryDirectory(prefix="mp-") as sockets,
        running(
            tmp_path / "service",
            MLFLOW_HOST="0.0.0.0",
            MLFLOW_PORT=port,
            PROXY_PUBLIC_URL=f"https://{host.ours}:{port}",
            MLFLOW_DEFAULT_ARTIFACT_ROOT=store.root,
            TMPDIR=str(scratch),
            PROXY_RUNTIME_DIR=sockets,  # pytest's own paths are longer than a socket's may be
            **store.settings(),
        ) as service,
    ):
        yield service


def test_artifacts_go_up_and_down_without_a_key_or_a_way_to_the_storage(
    store: ObjectStore, host: Elsewhere, service: Service, tmp_path: Path
) -> None:
    for address in ("127.0.0.1", host.ours):
        assert not host.reaches(sys.executable, address, store.port)
    assert host.reaches(sys.executable, host.ours, service.port)

    environment = {**service.client_environment(), "TMPDIR": str(tmp_path)}
    assert store.key not in str(environment)
    result = tmp_path / "result.json"
    arguments = (sys.executable, str(QUICKSTART), str(result), *map(str, SIZES))
    done = host.run(*arguments, env=environment, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr + service.log()
    made: dict[str, Any] = json.loads(result.read_text())
    print(json.dumps(made["artifacts"], indent=1))
    assert [artifact["size"] for artifact in made["artifacts"]] == SIZES
    assert all(artifact["sent"] == artifact["got"] for artifact in made["artifacts"])
    assert set(SIZES) <= set(store.sizes())
    assert not (service.data / "artifacts").exists()

    lines = service.access_log()
    for size in SIZES:
        assert [line["operation"] for line in lines if line["bytes_in"] == size] == ["artifact-upload"]
        assert [line["operation"] for line in lines if line["bytes_out"] == size] == ["artifact-download"]
    assert not [line for line in lines if line["error"] or line["refusal"]]
    assert store.key not in service.log() + (service.folder / "access.log").read_text()
