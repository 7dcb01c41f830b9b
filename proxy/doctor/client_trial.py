"""A round trip with MLflow's own client, run as a process of its own with a client's environment.

A line of JSON for each step: ``step``, ``ok``, ``said``. It works in one experiment of its own, which is
there between its runs as a deleted one: MLflow has no call that takes an experiment away for good.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

EXPERIMENT = "mlflow-proxy-doctor"
_SIZE = 256 * 1024


def attempt() -> Iterator[tuple[str, str | None]]:
    """Each step, and what was said where it failed. What was made is deleted however it went."""
    from mlflow.client import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = MlflowClient()
    undo: list[tuple[str, Callable[[], object]]] = []
    content = secrets.token_bytes(_SIZE)
    made: dict[str, str] = {}

    def experiment() -> None:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            made["experiment"] = client.create_experiment(EXPERIMENT)
        else:
            made["experiment"] = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
        undo.append(("delete-experiment", lambda: client.delete_experiment(made["experiment"])))

    def run() -> None:
        begun = client.create_run(made["experiment"], run_name="doctor")
        made["run"], made["root"] = begun.info.run_id, str(begun.info.artifact_uri)
        undo.append(("delete-run", lambda: client.delete_run(made["run"])))

    def log() -> None:
        client.log_param(made["run"], "doctor", "well")
        client.log_metric(made["run"], "looked", 1.0)
        client.set_terminated(made["run"])
        data = client.get_run(made["run"]).data
        if data.params.get("doctor") != "well" or data.metrics.get("looked") != 1.0:
            raise ValueError("what is read is not what was logged")

    def upload() -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "doctor.bin").write_bytes(content)
            client.log_artifact(made["run"], str(Path(folder) / "doctor.bin"))
        undo.append(
            ("delete-artifact", lambda: get_artifact_repository(made["root"]).delete_artifacts("doctor.bin"))
        )

    def download() -> None:
        with tempfile.TemporaryDirectory() as folder:
            if Path(client.download_artifacts(made["run"], "doctor.bin", folder)).read_bytes() != content:
                raise ValueError("the artifact that comes back is another one")

    try:
        for step, do in (
            ("experiment", experiment),
            ("run", run),
            ("log", log),
            ("upload", upload),
            ("download", download),
        ):
            problem = _problem(do)
            yield step, problem
            if problem is not None:
                break
    finally:
        problems = [f"{what}: {problem}" for what, do in reversed(undo) if (problem := _problem(do))]
    if undo:
        yield "delete", "; ".join(problems) or None


def _problem(do: Callable[[], object]) -> str | None:
    try:
        do()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return None


def main() -> None:
    logging.disable(logging.CRITICAL)
    # Its libraries print what they like.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for step, problem in attempt():
        print(json.dumps({"step": step, "ok": problem is None, "said": problem}), file=out, flush=True)


if __name__ == "__main__":
    main()
