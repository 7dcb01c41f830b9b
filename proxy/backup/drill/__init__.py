"""The drill: restores the newest backup aside, starts MLflow on it, and compares."""

from proxy.backup.drill.drill import drill
from proxy.backup.drill.report import DrillFailed, Report

__all__ = ["DrillFailed", "Report", "drill"]
