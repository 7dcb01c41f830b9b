"""What MLflow's own client finds on the restored service, in a process of its own; imports nothing of ours.

Standard input has one JSON object: ``{"artifacts": [{"path", "size", "digest"}, ...]}``. The last line of
standard output is one: ``{"experiments", "read", "problem"}``; the first problem ends it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def look(asked: dict[str, Any]) -> dict[str, Any]:
    import mlflow

    client = mlflow.MlflowClient()
    experiments = client.search_experiments(max_results=1000)
    if experiments:
        client.search_runs([each.experiment_id for each in experiments[:100]], max_results=10)
    found: dict[str, Any] = {"experiments": len(experiments), "read": 0, "problem": None}
    for artifact in asked["artifacts"]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=f"mlflow-artifacts:/{artifact['path']}", dst_path=folder
                    )
                )
            except Exception as error:
                words = " ".join(str(error).split())[:300]
                return {**found, "problem": f"the artifact {artifact['path']} can't be read: {words}"}
            size = path.stat().st_size
            if size != artifact["size"]:
                text = f"the artifact {artifact['path']} has {size} bytes and should have {artifact['size']}"
                return {**found, "problem": text}
            if artifact["digest"] and sha256(path) != artifact["digest"]:
                return {**found, "problem": f"the artifact {artifact['path']} has other content"}
        found["read"] += 1
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(look(json.load(sys.stdin))), flush=True)
