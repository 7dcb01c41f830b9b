"""The probes of a real service, over a real database and storage that go away and come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from service import Service, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    pace = {"PROXY_PROBE_INTERVAL": "1", "PROXY_PROBE_STORAGE_INTERVAL": "1"}
    with running(tmp_path_factory.mktemp("probes"), **pace) as made:
        yield made


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def success(service: Service, probe: str) -> float:
    return service.metric("mlflow_proxy_probe_success", probe=probe)


def verbose(service: Service) -> str:
    return service.anonymous().get(f"{service.url}/readyz?verbose", timeout=10).text


def test_all_is_well_and_said_so(service: Service) -> None:
    for probe in ("database", "storage", "certificate", "disk", "tokens"):
        until(lambda probe=probe: success(service, probe) == 1)  # type: ignore[misc]
        assert f"[+]probe-{probe} ok" in verbose(service)
        assert service.metric("mlflow_proxy_probe_last_success_timestamp_seconds", probe=probe) > 0
    assert "probe-provider" not in verbose(service)  # there is none
    assert service.metric("mlflow_proxy_disk_free_bytes") > 0
    assert 0 <= service.metric("mlflow_proxy_secret_age_seconds", secret="PROXY_AUDIT_KEY") < 3600
    artifacts = service.data / "artifacts" / ".mlflow-proxy-probe"
    until(lambda: list(artifacts.iterdir()) == [])


def test_a_storage_that_can_not_be_written_is_noticed_and_found_again(service: Service) -> None:
    until(lambda: success(service, "storage") == 1)
    artifacts = service.data / "artifacts"
    moved = artifacts.rename(service.data / "moved")
    artifacts.write_text("a file where the folder was")
    try:
        until(lambda: success(service, "storage") == 0)
        assert "[-]probe-storage failed: a small file can't be written" in verbose(service)
        assert "readyz check passed" in verbose(service)
    finally:
        artifacts.unlink()
        moved.rename(artifacts)
    until(lambda: success(service, "storage") == 1)


def test_a_database_that_is_damaged_is_noticed_and_found_again(service: Service) -> None:
    until(lambda: success(service, "database") == 1)
    database: Path = service.data / "mlflow.db"
    moved = database.rename(service.data / "moved.db")
    database.write_text("no SQLite database")
    try:
        until(lambda: success(service, "database") == 0)
    finally:
        moved.rename(database)
    until(lambda: success(service, "database") == 1)
