"""``mlflow`` with its migrations audible: started by path, it imports nothing of ours.

MLflow holds Alembic's log at warnings (mlflow/utils/logging_utils.py), and a migration of a large database
would be minutes of silence. The logger below that one is nobody's, so its level stays.
"""

import logging
import runpy

if __name__ == "__main__":
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
