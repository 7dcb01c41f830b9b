"""The tests' own rules: what is skipped on a person's machine for want of a program fails in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import SKIPPED_IN_CI

HERE = Path(__file__).parent
TESTS = """
import pytest
from programs import needs

@needs("a-program-that-nobody-has")
def test_that_is_marked(): pass

def test_that_finds_out():
    pytest.skip("no network namespaces here")

@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail(): assert False

def test_that_runs(): pass
"""


@pytest.mark.parametrize(
    ("ci", "said"),
    [("", "1 passed, 2 skipped, 1 xfailed"), ("true", "1 passed, 1 xfailed, 1 error"), ("1", "1 failed")],
)
def test_a_skipped_test_fails_in_ci_alone(tmp_path: Path, ci: str, said: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE), "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said in done.stdout
    assert done.returncode == (1 if ci else 0)
    if ci:
        assert "not installed: a-program-that-nobody-has" in done.stdout


def test_what_may_be_skipped_in_ci_is_documented() -> None:
    documented = (HERE.parent / "docs" / "testing.md").read_text()
    assert all(f"`{name}`" in documented for name in SKIPPED_IN_CI)
