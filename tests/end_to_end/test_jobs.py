"""Real MLflow jobs run; what they ask of MLflow goes through the proxy: signed in, logged and counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from service import clean_environment, free_port, running

JOB = Path(__file__).with_name("job.py")
PROVIDER = Path(__file__).with_name("model_provider.py")


@pytest.mark.slow
def test_real_jobs_call_back_through_the_proxy(tmp_path: Path) -> None:
    port, headers, result = free_port(), tmp_path / "headers.jsonl", tmp_path / "result.json"
    provider = subprocess.Popen(
        [sys.executable, str(PROVIDER), str(port), str(headers)],
        env=clean_environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        with running(
            tmp_path,
            jobs=True,
            MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS="true",
            MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS="true",
            MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES="http,https",
        ) as service:
            done = subprocess.run(
                [sys.executable, str(JOB), str(result), f"http://127.0.0.1:{port}/v1"],
                env=service.client_environment(),
                capture_output=True,
                text=True,
                timeout=280,
            )
            assert done.returncode == 0, done.stdout + done.stderr + service.log()
            outcome = json.loads(result.read_text())
            assert [job["status"] for job in outcome["jobs"]] == ["SUCCEEDED"] * 2, (outcome, service.log())
            assert outcome["feedback"] == {"calls_back": True, "judge": "yes"}, (outcome, service.log())

            of_jobs = [line for line in service.access_log() if line["user"] == "mlflow-jobs"]
            operations = {line["operation"] for line in of_jobs}
            assert {"get-experiment-by-name", "create-run", "gateway-inference"} <= operations
            assert {(line["auth"], line["role"]) for line in of_jobs} == {("job", "editor")}
            assert {line["client"] for line in of_jobs} == {"127.0.0.1"}
            assert not [line for line in of_jobs if line["status"] >= 400 or line["refusal"] or line["error"]]
            for operation in operations:
                assert service.metric("mlflow_proxy_requests_total", operation=operation, status="200") >= 1
            assert service.metric("mlflow_proxy_authentications_total", method="job", result="success") >= 1
    finally:
        provider.terminate()
        provider.wait(10)
    # What the provider gets is its own key, and nothing of the job's credential.
    (seen,) = [json.loads(line) for line in headers.read_text().splitlines()]
    assert seen["authorization"] == "Bearer the-providers-key"
    assert not {"cookie", "x-forwarded-for", "x-mlflow-authorization"} & set(seen)
