"""A real MLflow job runs; what it asks of MLflow goes through the proxy: signed in, logged and counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from service import running

JOB = Path(__file__).with_name("job.py")


@pytest.mark.slow
def test_a_real_job_calls_back_through_the_proxy(tmp_path: Path) -> None:
    with running(tmp_path, jobs=True, MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS="true") as service:
        result = tmp_path / "result.json"
        done = subprocess.run(
            [sys.executable, str(JOB), str(result)],
            env=service.client_environment(),
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outcome = json.loads(result.read_text())
        assert outcome["job"]["status"] == "SUCCEEDED", (outcome, service.log())
        assert outcome["feedback"] == [{"name": "calls_back", "value": True, "error": "None"}]

        of_jobs = [line for line in service.access_log() if line["user"] == "mlflow-jobs"]
        print(sorted({line["operation"] for line in of_jobs}))
        assert {"get-experiment-by-name", "create-run"} <= {line["operation"] for line in of_jobs}
        assert {(line["auth"], line["role"]) for line in of_jobs} == {("job", "editor")}
        assert {line["client"] for line in of_jobs} == {"127.0.0.1"}
        assert not [line for line in of_jobs if line["status"] >= 400 or line["refusal"] or line["error"]]
        counted = service.metric("mlflow_proxy_authentications_total", method="job", result="success")
        assert counted >= 1
