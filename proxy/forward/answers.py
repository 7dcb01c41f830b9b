"""What MLflow's own errors say of what became of the request; pure."""

from __future__ import annotations

import re

import orjson

from proxy.forward.resending import Failure

# mlflow/store/db/utils.py answers every OperationalError of SQLAlchemy's with the driver's words. psycopg has
# classes of their own for what the server said, and this one for the connection; once that stands, its end
# may come between a COMMIT and the answer to it. PyMySQL and mysqlclient say it by number. SQLite has none.
_CONNECTION_LOST = re.compile(
    r"\(psycopg2?\.OperationalError\) "
    r"(?!connection failed|connection is bad|connection to server|could not connect|could not translate)"
    r"|\((?:pymysql\.err|MySQLdb)\.OperationalError\) \(20(?:06|13|55)\b"
    r"|\(pyodbc\.OperationalError\)"
)
_LONGEST = 64 * 1024


def failure_of(status: int, body: bytes) -> Failure | None:
    """What failed, where a 500 or 503 is MLflow's word for its database, or of no handler's; else None."""
    if len(body) > _LONGEST:
        return None
    if status == 500:
        # Werkzeug's page: a handler raised what none expects. So it does where the connection to the database
        # ends in mid-transaction: the rollback fails, too (mlflow/store/db/utils.py).
        return Failure.CRASHED if b"<title>500 Internal Server Error</title>" in body else None
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(said, dict) or said.get("error_code") != "TEMPORARILY_UNAVAILABLE":
        return None
    return Failure.LOST if _CONNECTION_LOST.match(str(said.get("message"))) else Failure.NOT_TAKEN
