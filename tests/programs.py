"""The programs that a person may lack, and what may be skipped for want of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SKIPPED_IN_CI: frozenset[str] = frozenset(
    {
        "test_k8s.py::*",
        "test_render.py::*",
        "test_k8s_ci.py::test_a_deployment_is_a_commit_to_the_repository_of_manifests",
    }
)
"""Tests (`file.py::test`, or all of a file: `file.py::*`) that may be skipped where CI=true; docs/testing.md
names them with the reason."""


def program(name: str) -> str | None:
    """Where a program is, also where Debian puts it outside of an ordinary user's PATH."""
    places = ["/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of those programs is not installed, naming it; .ci/run installs them all."""
    missing = [name for name in programs if program(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
