"""Versions: what is installed, whether that is what runs, and known holes that newer versions have closed."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from importlib import resources
from typing import NamedTuple

from proxy import __version__
from proxy.doctor.case import Case
from proxy.doctor.result import Result, failure, ok, warning
from proxy.doctor.running import visit
from proxy.errors import UserError

SECONDS = 15.0
_VERSION = re.compile(r"\d+(?:\.\d+)*")


class Floor(NamedTuple):
    """A hole, and the first version without it. One row of floors.tsv."""

    package: str
    fixed: str
    """Several where older lines were mended too: 1.6.12, 1.7.1."""
    advisory: str
    about: str


def floors() -> tuple[Floor, ...]:
    lines = resources.files("proxy.doctor").joinpath("floors.tsv").read_text("utf-8").splitlines()
    return tuple(Floor(*line.split("\t")) for line in lines if line and not line.startswith("#"))


def versions(case: Case) -> Iterator[Result]:
    """Of the program, of MLflow, and of what both stand on."""
    mlflow = importlib.metadata.version("mlflow")
    python = ".".join(map(str, sys.version_info[:3]))
    yield ok("installed", f"mlflow-proxy {__version__}, MLflow {mlflow}, Python {python}")
    if case.service is not None:
        yield from _running(case, mlflow)
    open_ = [floor for floor in floors() if _is_older(floor)]
    for floor in open_:
        have = importlib.metadata.version(floor.package)
        yield failure(
            "holes",
            f"{floor.package} {have} has a known hole ({floor.advisory}: {floor.about})",
            f"install {floor.package} {floor.fixed} or newer: pip install --upgrade, or this release's "
            "lock file",
        )
    if not open_:
        yield ok(
            "holes", f"none of the {len(floors())} that this version knows of; pip-audit knows of the latest"
        )


def _running(case: Case, mlflow: str) -> Iterator[Result]:
    assert case.service is not None
    try:
        with visit(case.service, case.within(SECONDS)) as opened:
            told = opened.told
    except UserError:
        return  # told by the check of the service
    if (told["version"], told["mlflow"]) != (__version__, mlflow):
        yield warning(
            "running",
            f"mlflow-proxy {told['version']} with MLflow {told['mlflow']} runs, and others are installed",
            "restart the service",
        )
    else:
        yield ok("running", "what runs is what is installed")


def _is_older(floor: Floor) -> bool:
    try:
        have = parsed(importlib.metadata.version(floor.package))
    except importlib.metadata.PackageNotFoundError:
        return False
    return older(have, [parsed(one) for one in floor.fixed.split(",")])


def older(have: tuple[int, ...], fixed: list[tuple[int, ...]]) -> bool:
    """Whether a version lacks a mending: of its own line (the first two numbers), else of the newest."""
    for one in fixed[:-1]:
        if have[:2] == one[:2]:
            return have < one
    return have < fixed[-1]


def parsed(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with (PEP 440, without what comes after the release)."""
    match = _VERSION.match(text.strip())
    return tuple(int(part) for part in match[0].split(".")) if match else ()
