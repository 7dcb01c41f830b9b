"""What a training job does, with MLflow's client as it is: python training.py NAME

The environment alone says where the server is and who we are. Logs, uploads, searches and registers, and
prints who the run belongs to. What MLflow's client raises is printed as a person would see it: exit code 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient


def main(name: str) -> None:
    client = MlflowClient()
    mlflow.set_experiment("training")
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_name=name) as run:
        mlflow.log_params({"learning_rate": 0.01})
        mlflow.log_metrics({"accuracy": 0.9, "loss": 0.1}, step=1)
        file = Path(folder) / "weights.bin"
        file.write_bytes(b"weights" * 10_000)
        mlflow.log_artifact(str(file))
        came_back = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=folder))
        assert (came_back / "weights.bin").read_bytes() == file.read_bytes()
    run_id = run.info.run_id
    assert [
        found.info.run_id for found in client.search_runs([run.info.experiment_id], f"run_id = '{run_id}'")
    ]
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run_id}/weights.bin", run_id=run_id)
    found = client.get_run(run_id)
    print(json.dumps({"run_id": run_id, "user_id": found.info.user_id, "tags": found.data.tags}))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except MlflowException as error:
        print(error, file=sys.stderr)
        sys.exit(1)
