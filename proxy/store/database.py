"""The connection to the database of our own: opened at start, used in threads, never waited for long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from proxy import private_file
from proxy.errors import UserError
from proxy.settings import proxy_database_uri
from proxy.store.migrate import upgrade

if TYPE_CHECKING:
    from proxy.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

DEADLINE = 5.0
"""Seconds that a query may take, waiting for a connection and for a thread included."""
THREADS = 4
# After a failure nothing is asked for that long: whoever comes meanwhile need not wait for the same again.
_PAUSE = 1.0


class StoreUnavailable(Exception):
    """The database did not answer, or not in time. Its message names no secret."""


class Store:
    """One database, over a few threads. Any thread may use it, and any number of replicas may share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._paused_until = 0.0
        self.problem: str | None = None
        """Why the latest query failed; None where it did not."""
        self.queries = 0
        """Transactions begun so far; no request takes one as a matter of course."""

    @classmethod
    def open(cls, settings: Settings) -> Store:
        """Connect to PROXY_DATABASE_URL's database, and make or migrate its tables.

        Blocks, up to about a minute where another replica migrates. Raises UserError.
        """
        return cls(_connected(settings))

    def take(self, other: Store) -> None:
        """Go on over the connections of `other`, another login of the same database; `other` is not to be
        used any more. A query under way finishes on its own connection, which is closed after it."""
        old, self._engine = self._engine, other._engine
        other._threads.shutdown(wait=False)
        self._paused_until = 0.0
        old.dispose()

    async def run(self, query: Callable[[Connection], T], deadline: float = DEADLINE) -> T:
        """What ``query`` returns, run in a thread in one transaction.

        Raises StoreUnavailable after ``deadline`` seconds, or where the database fails. The query may have
        been carried out all the same then.
        """
        if time.monotonic() < self._paused_until:
            raise StoreUnavailable(self.problem or "the database did not answer")
        self.queries += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline):
                result = await loop.run_in_executor(self._threads, self._in_thread, query)
        except TimeoutError:
            raise self._failed(f"no answer within {deadline:g} seconds") from None
        except (DataError, IntegrityError):
            raise  # a defect of the query, and no reason to think the database away
        except SQLAlchemyError as error:
            raise self._failed(_reason(error)) from None
        self._worked()
        return result

    def run_blocking(self, query: Callable[[Connection], T]) -> T:
        """The same without an event loop, for commands. Raises StoreUnavailable."""
        try:
            return self._in_thread(query)
        except SQLAlchemyError as error:
            raise StoreUnavailable(_reason(error)) from None

    def close(self) -> None:
        """Wait for no query; those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    def _in_thread(self, query: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return query(connection)

    def _failed(self, reason: str) -> StoreUnavailable:
        self._paused_until = time.monotonic() + _PAUSE
        if self.problem is None:
            log.warning("the database of sessions and tokens does not answer: %s", reason)
        self.problem = reason
        return StoreUnavailable(reason)

    def _worked(self) -> None:
        if self.problem is not None:
            log.warning("the database of sessions and tokens answers again")
            self.problem = None


def _connected(settings: Settings) -> Engine:
    url = sa.make_url(proxy_database_uri(settings))
    engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
    try:
        upgrade(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        shown = url.render_as_string(hide_password=True)
        raise UserError(f"PROXY_DATABASE_URL: {shown} can't be used: {_reason(error)}") from None
    except UserError:
        engine.dispose()
        raise
    return engine


def _postgresql(url: sa.URL) -> Engine:
    # libpq's own limits, where the URL has none of its own: without them a host that is gone is waited for
    # for minutes, in every thread.
    limits: dict[str, Any] = {
        "connect_timeout": 3,
        "tcp_user_timeout": 5000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "application_name": "mlflow-proxy",
    }
    if url.get_driver_name() == "psycopg":
        limits["prepare_threshold"] = None  # a pooler (PgBouncer) gives each transaction another connection
    engine = sa.create_engine(
        url,
        pool_size=THREADS,
        max_overflow=1,
        pool_timeout=DEADLINE,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={name: value for name, value in limits.items() if name not in url.query},
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Within the transaction, so that a pooler between us and the server (PgBouncer) does no harm.
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(DEADLINE * 1000)}")

    return engine


def _sqlite(url: sa.URL) -> Engine:
    path = Path(url.database or "")
    try:
        with contextlib.suppress(FileExistsError):
            # Made with its mode, and the files beside it take theirs from it.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if private_file.tighten(path):
            log.warning("%s could be read by others on this machine; that is put right now", path)
    except OSError as error:
        raise UserError(
            f"PROXY_DATABASE_URL: {path} can't be made or read ({error.strerror}): name a file in a "
            "directory that this user may write to"
        ) from None
    engine = sa.create_engine(
        url, pool_size=THREADS, max_overflow=1, pool_timeout=DEADLINE, connect_args={"timeout": DEADLINE}
    )

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, and not by sqlite3
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # a sign-out outlives a power cut

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # The write lock at once: a transaction that reads first can't wait for it later (SQLITE_BUSY).
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _reason(error: SQLAlchemyError) -> str:
    """An error's first line, without the statement and its values."""
    text = str(getattr(error, "orig", None) or error).strip()
    return (text.splitlines() or [type(error).__name__])[0]
