"""The programs that a person may lack, and what may be skipped for want of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SKIPPED_IN_CI: frozenset[str] = frozenset(
    {
        "test_k8s.py::test_checkov_finds_nothing_that_is_not_explained_in_place",
        "test_k8s.py::test_kustomize_itself_refuses_several_replicas_without_a_databases_server",
        "test_k8s.py::test_kustomize_makes_of_an_overlay_what_is_kept",
        "test_render.py::test_a_store_that_stands_in_the_overlay_is_added_by_kustomize",
        "test_render.py::test_with_kustomize_itself_it_is_the_same",
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
