"""What tests share: one real service a module, and the programs that a person may lack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import service as services

SKIPPED_IN_CI: frozenset[str] = frozenset()
"""Tests (`file.py::test`) that may be skipped where CI=true; docs/testing.md names them with the reason."""


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
        report.longrepr = f"{why}: no test may be skipped where CI={os.environ['CI']} (tests/conftest.py)"
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


def program(name: str) -> str | None:
    """Where a program is, also where Debian puts it outside of an ordinary user's PATH."""
    places = ["/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of those programs is not installed, naming it; .ci/run installs them all."""
    missing = [name for name in programs if program(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
