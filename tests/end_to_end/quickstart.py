"""What a person runs first, with MLflow's client as it is: python quickstart.py RESULT.json [SIZE...]

The environment says where the server is and who we are. Artifacts of each SIZE in bytes go up and come down.
What it has done goes into the file RESULT.json: ids, and the checksums of both ways by size.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

MEGABYTE = 1 << 20


def write(path: Path, size: int) -> str:
    """A file of that size which no compression makes smaller and no two parts of which are equal."""
    digest = hashlib.sha256()
    noise = os.urandom(MEGABYTE)
    with path.open("wb") as file:
        for number in range(0, size, MEGABYTE):
            piece = (number.to_bytes(8, "big") + noise[8:])[: size - number]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@mlflow.trace
def greet(name: str) -> str:
    return f"Hello, {name}"


def model_input_and_output(model_input: list[str]) -> list[str]:
    return model_input


def main(result: Path, sizes: list[int]) -> None:
    client = MlflowClient()
    experiment = mlflow.set_experiment("quickstart")
    done: dict[str, object] = {"experiment_id": experiment.experiment_id}
    with mlflow.start_run(run_name="first run") as run, tempfile.TemporaryDirectory() as folder:
        run_id = run.info.run_id
        mlflow.log_params({"learning_rate": 0.01, "epochs": 500})
        for step in range(100):
            mlflow.log_metric("accuracy", 1 - 0.99**step, step=step)
        now = int(time.time() * 1000)
        client.log_batch(
            run_id, metrics=[Metric("loss", 0.99**step, now + step, step) for step in range(900)]
        )
        mlflow.log_text("What the run has to say:\n- it works\n", "notes.txt")
        done["metrics"] = [len(client.get_metric_history(run_id, name)) for name in ("accuracy", "loss")]
        done["params"] = client.get_run(run_id).data.params

        artifacts = []
        for size in sizes:
            path = Path(folder, f"{size}.bin")
            sent = write(path, size)
            began = time.monotonic()
            mlflow.log_artifact(str(path), "data")
            up = time.monotonic() - began
            path.unlink()
            began = time.monotonic()
            got = client.download_artifacts(run_id, f"data/{size}.bin", folder)
            down = time.monotonic() - began
            artifacts.append(
                {"size": size, "sent": sent, "got": checksum(Path(got)), "up_s": up, "down_s": down}
            )
            Path(got).unlink()
        done["artifacts"] = artifacts
        done["listed"] = sorted(entry.path for entry in client.list_artifacts(run_id))

        info = mlflow.pyfunc.log_model(
            name="echo",
            python_model=model_input_and_output,
            pip_requirements=[],
            registered_model_name="echo",
        )
        done["model_version"] = client.get_model_version("echo", info.registered_model_version).status
        greet("you")
    mlflow.flush_trace_async_logging()
    traces = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    done["traces"] = [[span.name for span in trace.data.spans] for trace in traces]
    done["run_id"] = run_id
    result.write_text(json.dumps(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
