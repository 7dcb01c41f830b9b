"""``mlflow`` with its migrations audible, and its job runner behind a gate; it imports nothing of ours.

MLflow holds Alembic's log at warnings (mlflow/utils/logging_utils.py), and a migration of a large database
would be minutes of silence. The logger below that one is nobody's, so its level stays.

In a rolling restart the environment names a gate, behind which MLflow's job runner is started (jobs_gate.py).
"""

import logging
import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

GATE = "PROXY_JOBS_GATE"
RUNNERS = {"mlflow.server.jobs._job_runner", "mlflow.server.jobs._executor_runner"}


def gated(gate: str) -> "type[subprocess.Popen[Any]]":
    """``subprocess.Popen``, which starts a job runner behind `gate`."""

    class Popen(subprocess.Popen[Any]):
        def __init__(self, args: Any, *more: Any, **named: Any) -> None:
            if isinstance(args, list) and len(args) == 3 and args[2] in RUNNERS:
                args = [args[0], str(Path(__file__).with_name("jobs_gate.py")), gate, args[2]]
            super().__init__(args, *more, **named)

    return Popen


if __name__ == "__main__":
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    if named := os.environ.pop(GATE, ""):
        subprocess.Popen = gated(named)  # type: ignore[misc, assignment]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
