"""What waits in the job runner's place until the generation before has none: standard library, run by path.

    python jobs_gate.py GATE MODULE

Every job runner puts all unfinished jobs of the database back into its queue at its start, whoever runs them
(mlflow/server/jobs/utils.py, _enqueue_unfinished_jobs), so two of them would run the same job at once. This
process becomes the runner (the same pid) as soon as the file GATE is there. In it is the Unix time, in
milliseconds, from which on jobs were submitted to this generation and are in its own queue already.
"""

import os
import sys
import time
from pathlib import Path

UP_TIME = "_MLFLOW_SERVER_UP_TIME"
"""Jobs submitted up to then are taken for the generation's before (mlflow/server/constants.py)."""


def main() -> None:
    gate, module = Path(sys.argv[1]), sys.argv[2]
    while not gate.exists():
        time.sleep(0.2)
    # The other engine has no queue but the database, and takes back running jobs alone: all that run now are
    # the dead runner's.
    moment = str(int(time.time() * 1000)) if module.endswith("._executor_runner") else gate.read_text()
    os.environ[UP_TIME] = moment
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606


if __name__ == "__main__":
    main()
