"""Submits real MLflow jobs, as MLflow's UI does, and waits for them: python job.py RESULT.json PROVIDERS_URL

Each job runs a scorer on a trace and logs the feedback. MLflow's job reads and writes the database itself;
over HTTP it asks the gateway. So one scorer is a judge whose model is behind MLflow's gateway, and the other
calls back with MLflow's client.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.genai.judges import make_judge

CALLS_BACK = """
import os
from mlflow import MlflowClient
client = MlflowClient(os.environ["MLFLOW_GATEWAY_URI"])
experiment = client.get_experiment_by_name("jobs")
client.create_run(experiment.experiment_id, run_name="made by a job")
return True
"""
CLIENT = {
    "name": "calls_back",
    "aggregations": None,
    "mlflow_version": mlflow.__version__,
    "serialization_version": 1,
    "call_source": CALLS_BACK,
    "call_signature": "(outputs)",
    "original_func_name": "calls_back",
}


class Server:
    """MLflow's routes that its client has no method for."""

    def __init__(self) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        name, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
        self.session.auth = (name, password)
        self.session.verify = os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"]
        self.base = os.environ["MLFLOW_TRACKING_URI"] + "/ajax-api/3.0/"

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.session.post(self.base + path, json=body, timeout=60)
        assert answer.ok, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def endpoint(self, name: str, provider: str) -> None:
        """A model behind the gateway."""
        secret = self.post(
            "mlflow/gateway/secrets/create",
            secret_name=name,
            secret_value={"api_key": "the-providers-key"},
            auth_config={"api_base": provider},
            provider="openai",
        )
        definition = self.post(
            "mlflow/gateway/model-definitions/create",
            name=name,
            secret_id=secret["secret"]["secret_id"],
            provider="openai",
            model_name="judge",
        )
        self.post(
            "mlflow/gateway/endpoints/create",
            name=name,
            model_configs=[
                {
                    "model_definition_id": definition["model_definition"]["model_definition_id"],
                    "linkage_type": "PRIMARY",
                    "weight": 1,
                }
            ],
        )

    def job(self, **params: Any) -> dict[str, Any]:
        """Run one to its end."""
        job = self.post("jobs/", job_name="invoke_scorer", params=params)
        deadline = time.monotonic() + 120
        while job["status"] in ("PENDING", "RUNNING") and time.monotonic() < deadline:
            time.sleep(0.5)
            job = self.session.get(f"{self.base}jobs/{job['job_id']}", timeout=60).json()
        return job


@mlflow.trace
def answer(question: str) -> str:
    return "an answer"


def main(result: Path, provider: str) -> None:
    experiment = mlflow.set_experiment("jobs").experiment_id
    answer("?")
    mlflow.flush_trace_async_logging()
    trace = mlflow.get_last_active_trace_id()
    assert trace is not None
    server = Server()
    server.endpoint("judge", provider)
    judge = make_judge(
        name="judge",
        instructions="Say yes or no: is {{ outputs }} an answer?",
        model="gateway:/judge",
        feedback_value_type=str,
    )
    jobs = [
        server.job(experiment_id=experiment, serialized_scorer=json.dumps(scorer), trace_ids=[trace])
        for scorer in (CLIENT, judge.model_dump())
    ]
    assessments = mlflow.get_trace(trace).info.assessments
    feedback = {assessment.name: assessment.feedback.value for assessment in assessments}
    result.write_text(json.dumps({"jobs": jobs, "feedback": feedback}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
