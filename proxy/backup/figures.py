"""What is measured of backups and drills: for /metrics of the service, and for node exporter's text file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from proxy import private_file
from proxy.backup import state
from proxy.errors import UserError
from proxy.metrics import PREFIX, Gauge

_FIGURES = {
    "backup": {
        "last_success": (
            "last_success_timestamp_seconds",
            "Unix time of the data in the last good backup.",
        ),
        "last_attempt": ("last_attempt_timestamp_seconds", "Unix time at which the latest backup began."),
        "seconds": ("duration_seconds", "How long the last good backup took."),
        "bytes": ("size_bytes", "Bytes that the last good backup has added to its destination."),
    },
    "drill": {
        "last_success": (
            "last_success_timestamp_seconds",
            "Unix time at which a backup was last restored and found right.",
        ),
        "last_attempt": ("last_attempt_timestamp_seconds", "Unix time at which the latest drill began."),
        "restore_seconds": (
            "restore_seconds",
            "How long the last good drill took until MLflow answered (RTO).",
        ),
        "data_age_seconds": (
            "data_age_seconds",
            "How old the newest backup's data was at the last good drill (RPO).",
        ),
    },
}


def gauges(data_dir: Path) -> Iterator[Gauge]:
    """Those of which anything is known; read anew each time."""
    noted = state.read(data_dir)
    for section, figures in _FIGURES.items():
        known = noted.get(section, {})
        for key, (name, documentation) in figures.items():
            if isinstance(value := known.get(key), int | float):
                yield Gauge(f"{section}_{name}", documentation, (), {(): float(value)})
        if "last_attempt" in known:
            good = float(known.get("error") is None)
            documentation = f"1 where the latest {section} went well, else 0."
            yield Gauge(f"{section}_success", documentation, (), {(): good})


def text(data_dir: Path) -> str:
    """The same in Prometheus' text format."""
    lines = []
    for gauge in gauges(data_dir):
        name = PREFIX + gauge.name
        lines += [f"# HELP {name} {gauge.documentation}", f"# TYPE {name} gauge"]
        lines += [f"{name} {value!r}" for value in gauge.samples.values()]
    return "\n".join(lines) + "\n"


def write(path: Path, data_dir: Path) -> None:
    """Into a file for node exporter's textfile collector, in one step. Raises UserError."""
    try:
        # The exporter is another user.
        private_file.write(path, text(data_dir).encode(), mode=0o644)
    except OSError as error:
        raise UserError(
            f"PROXY_BACKUP_METRICS_FILE: {path} can't be written ({os.strerror(error.errno or 0)})"
        ) from None
