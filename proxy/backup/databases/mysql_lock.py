"""The moment in which nothing is written to MySQL or MariaDB, such that no writer's transaction ends for it.

``LOCK TABLES`` takes one table after the other and waits while it holds those it has. A transaction that has
written to one that is still wanted, and goes on to one that is held, makes a ring of two, and the server ends
the transaction (error 1213; ``MDL_ticket::get_deadlock_weight`` in both servers' ``sql/mdl.cc``). So it is
asked for at once or not at all, for a while; then ``FLUSH TABLES WITH READ LOCK``, which holds nothing of a
table and so is in no such ring; and only a login without the right for that waits for ``LOCK TABLES``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from proxy.backup.databases.connecting import quoted, scalar
from proxy.backup.databases.kinds import DatabaseFailed

# MySQL's error numbers: a lock not got in time (also at once), oneself chosen in a ring, a right that lacks.
_NOT_GOT, _RIGHT_LACKS = (1205, 1213), 1227
_AT_ONCE_SECONDS, _AT_ONCE_PAUSE = 2.0, 0.01
_WAIT_SECONDS, _TRIES = 3, 10


def lock(uri: str, connection: sa.Connection, tables: Iterable[str]) -> None:
    """Until ``UNLOCK TABLES`` on this connection, which is in no transaction. Raises DatabaseFailed where a
    transaction of others stays open all the while; each wait, behind which writers queue, is short."""
    names = ", ".join(f"{quoted(connection, name)} READ" for name in tables)
    if not names:
        return
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {_WAIT_SECONDS}")
    # MySQL knows no NOWAIT here.
    at_once = "MariaDB" in str(scalar(connection, "SELECT VERSION()"))
    waiting = "FLUSH TABLES WITH READ LOCK"
    for _ in range(_TRIES):
        until = time.monotonic() + _AT_ONCE_SECONDS
        while at_once and time.monotonic() < until:
            if _got(connection, f"LOCK TABLES {names} NOWAIT"):
                return
            time.sleep(_AT_ONCE_PAUSE)
        try:
            if _got(connection, waiting):
                return
        except DBAPIError as error:
            if _number(error) != _RIGHT_LACKS:
                raise
            waiting = f"LOCK TABLES {names}"
            if _got(connection, waiting):
                return
        if not at_once:
            time.sleep(_AT_ONCE_SECONDS)
    raise DatabaseFailed.at(
        uri,
        "its tables can't be locked for the moment that a consistent dump takes: a transaction has been open "
        "for long (SHOW PROCESSLIST)",
    )


def _got(connection: sa.Connection, statement: str) -> bool:
    try:
        connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if _number(error) in _NOT_GOT:
            return False
        raise
    return True


def _number(error: DBAPIError) -> object:
    return error.orig.args[0] if error.orig is not None and error.orig.args else None
