"""What tests share: one real service a module, a place for what is kept, and no silent skip in CI."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import service as services
from programs import SKIPPED_IN_CI


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything is installed, so a test that is skipped there for a missing program has failed."""
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and os.environ.get("CI") in ("true", "1")
        and f"{item.path.name}::{getattr(item, 'originalname', item.name)}" not in SKIPPED_IN_CI
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
