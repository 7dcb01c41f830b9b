"""What tests share: one real service a module, a place for what is kept, and no silent skip in CI."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import service as services
from programs import SKIPPED_IN_CI

# Left out of the quick set as wholes, because their waits and processes add up to most of the time: what one
# changes there is run by its file's name. Everything of tests/attacks/ is among them.
SLOW_MODULES = frozenset(
    {
        "test_account_pages.py",
        "test_audit.py",
        "test_backup.py",
        "test_backup_retention.py",
        "test_client.py",
        "test_forward.py",
        "test_hold.py",
        "test_jwt.py",
        "test_jwt_remembered.py",
        "test_login_limits.py",
        "test_mlflow_real.py",
        "test_mlflow_server.py",
        "test_oidc.py",
        "test_resending.py",
        "test_resending_real.py",
        "test_sessions.py",
        "test_tokens.py",
        "test_traps.py",
        "test_ui_real.py",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW_MODULES or "attacks" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything is installed, so a test that is skipped there for a missing program has failed."""
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and os.environ.get("CI") in ("true", "1")
        and f"{item.path.name}::{getattr(item, 'originalname', item.name)}" not in SKIPPED_IN_CI
        and f"{item.path.name}::*" not in SKIPPED_IN_CI
    ):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{why}: no test may be skipped where CI={os.environ['CI']} (tests/programs.py)"
    return report


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Service]:
    """A real service with a real MLflow behind it (SQLite, jobs off), shared by a module's tests."""
    with services.running(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def kept() -> Path:
    """Where a test leaves what a person may want to look at: screenshots, logs."""
    path = Path(__file__).parent.parent / "test-results"
    path.mkdir(exist_ok=True)
    return path
