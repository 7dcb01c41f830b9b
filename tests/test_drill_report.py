"""What a drill says of itself: for a person, for a program, and for the metrics."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from proxy.backup.drill.report import Compared, Report, span

MOMENT = 1_780_000_000.0
REPORT = Report(
    set="20260528T202640Z-3f9a1c",
    began=MOMENT + 3600,
    data_age_seconds=3600.0,
    restore_seconds=312.4,
    mlflow_start_seconds=9.5,
    seconds=330.0,
    databases=(
        Compared("tracking", "postgresql", "PostgreSQL 15.18", "PostgreSQL 17.6", 65, 1_200_000, 290.0),
    ),
    artifacts=2000,
    artifacts_restored=2000,
    artifacts_read=20,
)


def test_a_person_reads_how_long_a_restore_takes_and_how_old_the_data_is() -> None:
    assert REPORT.text().splitlines() == [
        "Backup 20260528T202640Z-3f9a1c of 2026-05-28 20:26:40 UTC was restored and is good.",
        "  tracking: 65 tables, 1200000 rows, each as in the manifest "
        "(PostgreSQL 15.18 -> PostgreSQL 17.6, 290.0 s)",
        "  artifacts: 2000 listed, 2000 restored, 20 read through MLflow's client",
        "Time to restore (RTO): 5 min 12 s, of which MLflow's start 9.5 s",
        "Age of the data (RPO): 1 h 0 min",
    ]
    assert "  artifacts: none in the backup" in replace(REPORT, artifacts=0).text().splitlines()


def test_a_program_reads_the_same() -> None:
    told = json.loads(json.dumps(REPORT.json()))
    assert told["result"] == "good"
    assert (told["restore_seconds"], told["data_age_seconds"]) == (312.4, 3600.0)
    assert told["databases"][0]["rows"] == 1_200_000


def test_the_metrics_get_the_moment_of_its_end() -> None:
    noted = REPORT.noted()
    assert noted["last_success"] == MOMENT + 3600 + 330
    assert (noted["restore_seconds"], noted["data_age_seconds"], noted["error"]) == (312.4, 3600.0, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (86400 + 7200, "1 d 2 h"),
    ],
)
def test_times_are_said_for_a_person(seconds: float, words: str) -> None:
    assert span(seconds) == words
