"""What Prometheus is told of backups and drills: by the service, and through node exporter's text file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from proxy.backup import figures, state
from proxy.errors import UserError
from proxy.metrics import Metrics

GOOD = {"last_success": 1000.5, "last_attempt": 990.0, "error": None, "seconds": 10.0, "bytes": 7}


def told(data_dir: Path) -> dict[str, float]:
    return {
        sample.name: sample.value for family in parse(figures.text(data_dir)) for sample in family.samples
    }


def test_nothing_is_told_before_the_first_backup(tmp_path: Path) -> None:
    assert told(tmp_path) == {}


def test_a_backup_is_told(tmp_path: Path) -> None:
    state.note(tmp_path, "backup", GOOD)
    assert told(tmp_path) == {
        "mlflow_proxy_backup_last_success_timestamp_seconds": 1000.5,
        "mlflow_proxy_backup_last_attempt_timestamp_seconds": 990.0,
        "mlflow_proxy_backup_duration_seconds": 10.0,
        "mlflow_proxy_backup_size_bytes": 7,
        "mlflow_proxy_backup_success": 1,
    }


def test_one_that_failed_does_not_take_away_when_the_last_good_one_was(tmp_path: Path) -> None:
    state.note(tmp_path, "backup", GOOD)
    state.note(tmp_path, "backup", {"last_attempt": 2000.0, "error": "no space"})
    found = told(tmp_path)
    assert found["mlflow_proxy_backup_success"] == 0
    assert found["mlflow_proxy_backup_last_success_timestamp_seconds"] == 1000.5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"backup": 3}', '{"backup": {"last_success": "x"}}'])
def test_a_state_that_makes_no_sense_breaks_no_scrape(tmp_path: Path, text: str) -> None:
    state.file(tmp_path).parent.mkdir()
    state.file(tmp_path).write_text(text)
    assert told(tmp_path) == {}


def test_the_service_tells_the_same(tmp_path: Path) -> None:
    state.note(tmp_path, "backup", GOOD)
    state.note(tmp_path, "drill", {"last_attempt": 1.0, "error": "the table runs is missing"})
    metrics = Metrics(version="1", mlflow_version="3")
    metrics.gauges = lambda: figures.gauges(tmp_path)
    _, page = metrics.render()
    lines = page.decode().splitlines()
    for line in figures.text(tmp_path).splitlines():
        assert line in lines
    assert "mlflow_proxy_drill_success 0.0" in lines


def test_the_text_file_is_for_another_user_to_read_and_written_whole(tmp_path: Path) -> None:
    state.note(tmp_path, "backup", GOOD)
    file = tmp_path / "backup.prom"
    figures.write(file, tmp_path)
    assert file.read_text() == figures.text(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert not list(tmp_path.glob(".backup*"))
    with pytest.raises(UserError, match=r"PROXY_BACKUP_METRICS_FILE: .* can't be written"):
        figures.write(tmp_path / "none" / "backup.prom", tmp_path)
