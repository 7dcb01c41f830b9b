"""Submits a real MLflow job, as MLflow's UI does for a judge, and waits for it: python job.py RESULT.json

The job runs a scorer on a trace and logs the feedback. MLflow's job reads and writes the database itself;
what it asks over HTTP is the gateway at MLFLOW_GATEWAY_URI, so the scorer asks there, with MLflow's client.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import mlflow
import requests

SCORER = """
import os
from mlflow import MlflowClient
client = MlflowClient(os.environ["MLFLOW_GATEWAY_URI"])
experiment = client.get_experiment_by_name("jobs")
client.create_run(experiment.experiment_id, run_name="made by a job")
return True
"""


@mlflow.trace
def answer(question: str) -> str:
    return "an answer"


def main(result: Path) -> None:
    experiment = mlflow.set_experiment("jobs").experiment_id
    answer("?")
    mlflow.flush_trace_async_logging()
    trace = mlflow.get_last_active_trace_id()
    assert trace is not None
    scorer = {
        "name": "calls_back",
        "aggregations": None,
        "mlflow_version": mlflow.__version__,
        "serialization_version": 1,
        "call_source": SCORER,
        "call_signature": "(outputs)",
        "original_func_name": "calls_back",
    }
    params = {"experiment_id": experiment, "serialized_scorer": json.dumps(scorer), "trace_ids": [trace]}
    session = requests.Session()
    session.trust_env = False
    session.auth = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    session.verify = os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"]
    jobs = os.environ["MLFLOW_TRACKING_URI"] + "/ajax-api/3.0/jobs/"
    job = session.post(jobs, json={"job_name": "invoke_scorer", "params": params}, timeout=60).json()
    deadline = time.monotonic() + 200
    while job["status"] in ("PENDING", "RUNNING") and time.monotonic() < deadline:
        time.sleep(0.5)
        job = session.get(jobs + job["job_id"], timeout=60).json()
    feedback = [
        {"name": assessment.name, "value": assessment.feedback.value, "error": str(assessment.feedback.error)}
        for assessment in mlflow.get_trace(trace).info.assessments
    ]
    result.write_text(json.dumps({"job": job, "feedback": feedback}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
