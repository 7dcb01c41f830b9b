"""Connections to database servers: made with the driver that MLflow uses, and their errors as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from proxy.backup.databases.digest import digest
from proxy.backup.databases.kinds import DatabaseFailed, Table

BATCH = 500
"""Rows in memory at once."""

_STREAMED = {"stream_results": True, "max_row_buffer": BATCH}
# client_encoding: a database without one (SQL_ASCII, as initdb makes it under the locale C) gives bytes else.
_LIMITS: dict[str, Mapping[str, Any]] = {
    "psycopg": {"connect_timeout": 10, "application_name": "mlflow-proxy backup", "client_encoding": "utf8"},
    "psycopg2": {"connect_timeout": 10, "application_name": "mlflow-proxy backup", "client_encoding": "utf8"},
    "pymysql": {"connect_timeout": 10},
    "mysqldb": {"connect_timeout": 10},
}


@contextlib.contextmanager
def connected(uri: str, **options: Any) -> Iterator[sa.Connection]:
    """A connection with these execution options; what fails on it within the context is a DatabaseFailed."""
    url = sa.make_url(uri)
    limits = {
        name: value for name, value in _LIMITS.get(url.get_driver_name(), {}).items() if name not in url.query
    }
    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=limits)
    except (SQLAlchemyError, ImportError) as error:
        raise DatabaseFailed.at(uri, f"no driver for it ({error})") from None
    try:
        with engine.connect() as connection:
            yield connection.execution_options(**options)
    except SQLAlchemyError as error:
        raise DatabaseFailed.at(uri, str(getattr(error, "orig", None) or error)) from None
    finally:
        engine.dispose()


def rows(connection: sa.Connection, statement: str, **values: Any) -> Sequence[Any]:
    return connection.execute(sa.text(statement), values).fetchall()


def scalar(connection: sa.Connection, statement: str, **values: Any) -> Any:
    return connection.execute(sa.text(statement), values).scalar()


def quoted(connection: sa.Connection, *names: str) -> str:
    """The names as SQL has them, with points between."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    return ".".join(quote(name) for name in names)


def table(
    connection: sa.Connection, columns: Mapping[str, str], source: str, tick: Callable[[], None]
) -> Table:
    """Count and digest of a table. `columns` gives the expression for each column's name."""
    names = sorted(columns)

    def batches() -> Iterator[Sequence[Sequence[Any]]]:
        selected = ", ".join(columns[name] for name in names) or "NULL"
        statement = f"SELECT {selected} FROM {source}"  # noqa: S608
        with connection.exec_driver_sql(statement, execution_options=_STREAMED) as result:
            for batch in result.partitions(BATCH):
                tick()
                yield batch

    return digest(names, batches())
