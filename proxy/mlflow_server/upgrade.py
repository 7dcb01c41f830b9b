"""Brings the tables of MLFLOW_BACKEND_STORE_URI's database to the installed MLflow's version; run by path.

As ``mlflow db upgrade`` does (mlflow/db.py), which takes the URI, with its password, as an argument that
everybody on the machine can read.
"""

import importlib
import logging
import os
from typing import Any

if __name__ == "__main__":
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    utils: Any = importlib.import_module("mlflow.store.db.utils")
    engine = utils.create_sqlalchemy_engine_with_retry(os.environ["MLFLOW_BACKEND_STORE_URI"])
    if utils._is_empty_database(engine):
        utils._initialize_tables(engine)
    else:
        utils._upgrade_db(engine)
    print("the database has the tables of this MLflow")
