"""Brings the tables up to date at start, one process at a time."""

from __future__ import annotations

from pathlib import Path

import alembic.command
import alembic.config
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from proxy.errors import UserError
from proxy.store.tables import VERSION_TABLE

# Any number that nobody else takes for an advisory lock of the same database.
_LOCK = 0x6D6C_7072_6F78_7901
_LOCK_SECONDS = 60


def upgrade(engine: Engine) -> None:
    """Make or migrate the tables. Replicas that start together wait for the first.

    Raises UserError where the tables are a newer version's, and SQLAlchemy's errors.
    """
    config = alembic.config.Config()
    # ConfigParser fills in what stands after a %.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with engine.begin() as connection:  # on SQLite that takes the write lock at once
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            connection.execute(sa.text(f"SET LOCAL statement_timeout = '{_LOCK_SECONDS}s'"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        if _is_current(connection, ScriptDirectory.from_config(config)):
            return
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")


def _is_current(connection: Connection, scripts: ScriptDirectory) -> bool:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    revision = context.get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise UserError(
            f"PROXY_DATABASE_URL: its tables were made by a newer version of this program ({revision}): "
            "start that one, or name another database"
        )
    return revision == scripts.get_current_head()
