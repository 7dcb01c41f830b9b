"""A real MLflow client that logs without repeating anything, and keeps a ledger of what it was told.

    python client_that_logs.py NAME SECONDS

The ledger, one JSON object, goes to standard output: which runs it asked for and which it got, which metrics
it was told are logged, and every call that failed.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

PER_RUN = 4


def main(name: str, seconds: float) -> None:
    client = MlflowClient()
    ledger: dict[str, Any] = {"asked": [], "runs": {}, "metrics": {}, "failed": [], "longest": 0.0}
    end = time.monotonic() + seconds

    def call(what: str, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*arguments, **more) or True
        except MlflowException as error:
            ledger["failed"].append((what, error.error_code, str(error)))
            return None
        finally:
            ledger["longest"] = max(ledger["longest"], time.monotonic() - began)

    for number in itertools.count():
        if time.monotonic() > end:
            break
        title = f"{name}-{number}"
        ledger["asked"].append(title)
        run = call("create-run", client.create_run, "0", run_name=title)
        if run is None:
            continue
        run_id = run.info.run_id
        ledger["runs"][title] = run_id
        logged = ledger["metrics"][run_id] = []
        for step in range(PER_RUN):
            if call("log-metric", client.log_metric, run_id, "m", step, 1000 + step, step):
                logged.append(step)
            metrics = [Metric("b", value, 2000 + value, step) for value in range(5)]
            call(
                "log-batch",
                client.log_batch,
                run_id,
                metrics,
                [Param(f"p{step}", "1")],
                [RunTag("t", str(step))],
            )
            call("set-tag", client.set_tag, run_id, "last", str(step))
            if call("get-run", client.get_run, run_id) is None:
                break
        call("update-run", client.set_terminated, run_id, "FINISHED")
    print(json.dumps(ledger))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
