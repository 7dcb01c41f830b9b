"""What a drill found: for a person, for a program, and for the metrics."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from proxy.errors import UserError


class DrillFailed(UserError):
    """The backup could not be restored, or is not what its manifest says; one line."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One database that was restored and found the same, table by table."""

    role: str
    kind: str
    server: str
    """What it was dumped from."""
    restored_on: str
    tables: int
    rows: int
    seconds: float
    """That restoring and comparing it took."""


@dataclass(frozen=True, slots=True)
class Report:
    """A drill that went well. Times are seconds, moments Unix time."""

    set: str
    began: float
    data_age_seconds: float
    """RPO: how old the data was when it began, which is what would have been lost."""
    restore_seconds: float
    """RTO: from its beginning until MLflow answered; comparing is part of any restore."""
    mlflow_start_seconds: float
    """The part of it that MLflow took to start."""
    seconds: float
    """All of it."""
    databases: tuple[Compared, ...]
    artifacts: int
    """In the backup's list."""
    artifacts_restored: int
    artifacts_read: int
    """Through MLflow's client, each with the size and digest that it should have."""

    def json(self) -> dict[str, Any]:
        return {"result": "good", **asdict(self)}

    def text(self) -> str:
        lines = [f"Backup {self.set} of {_utc(self.began - self.data_age_seconds)} was restored and is good."]
        for one in self.databases:
            lines.append(
                f"  {one.role}: {one.tables} tables, {one.rows} rows, each as in the manifest "
                f"({one.server} -> {one.restored_on}, {one.seconds:.1f} s)"
            )
        if self.artifacts:
            lines.append(
                f"  artifacts: {self.artifacts} listed, {self.artifacts_restored} restored, "
                f"{self.artifacts_read} read through MLflow's client"
            )
        else:
            lines.append("  artifacts: none in the backup")
        lines += [
            f"Time to restore (RTO): {span(self.restore_seconds)}, of which MLflow's start "
            f"{span(self.mlflow_start_seconds)}",
            f"Age of the data (RPO): {span(self.data_age_seconds)}",
        ]
        return "\n".join(lines)

    def noted(self) -> dict[str, Any]:
        """For the state file."""
        return {
            "last_success": self.began + self.seconds,
            "last_attempt": self.began,
            "set": self.set,
            "restore_seconds": self.restore_seconds,
            "data_age_seconds": self.data_age_seconds,
            "error": None,
        }


def span(seconds: float) -> str:
    """For a person: ``3 d 4 h``, ``5 min 6 s``, ``7.8 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
