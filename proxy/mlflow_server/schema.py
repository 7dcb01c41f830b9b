"""Which version of MLflow a database's tables belong to, and their migration, which is never silent.

MLflow migrates a database that lacks any of its tables at start, unasked, and refuses one that has them all
and another version (mlflow/store/db/utils.py). So this is looked at before MLflow is started.
"""

from __future__ import annotations

import asyncio
import enum
import importlib.util
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from proxy import private_file
from proxy.errors import UserError
from proxy.mlflow_server.output import driver_says, masking, place_of, secrets_of
from proxy.settings.fields import Settings

UPGRADE = Path(__file__).with_name("upgrade.py")
_REVISION = re.compile(r"^(down_)?revision\s*(?::[^=]*)?=\s*(.*)$", re.MULTILINE)
_QUOTED = re.compile(r"""["']([0-9a-zA-Z_]+)["']""")
_CONNECT_SECONDS = 10
_LOOK_SECONDS = 60.0
_TIMEOUT_OF = {"psycopg": "connect_timeout", "psycopg2": "connect_timeout", "pymysql": "connect_timeout"}
# A table of every MLflow there has been, by which a database without a version is told from one without
# MLflow's tables; ours may lie in it.
_FIRST_TABLE = "experiments"


NONE = "none"
"""Stands for the version of tables that are older than MLflow's first migration, or are just being made."""


class Fit(enum.Enum):
    """How a database's tables fit the installed MLflow."""

    EMPTY = "empty"  # MLflow makes them
    CURRENT = "current"
    OLD = "old"
    FOREIGN = "foreign"  # of a newer MLflow, or of none that this one knows


@dataclass(frozen=True, slots=True)
class Schema:
    """What was found."""

    fit: Fit
    found: str
    """The version of the tables; empty where there is none."""
    wanted: str
    """That of the installed MLflow."""


class Unreachable(Exception):
    """The database can't be asked; its message is for anybody to read."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason
        """What its driver says, for the log."""


def versions() -> tuple[str, frozenset[str]] | None:
    """The newest version of the tables that the installed MLflow has, and all that it knows.

    Read from its migrations' files as text: to import them takes seconds. None where there are none.
    """
    package = importlib.util.find_spec("mlflow")
    if package is None or package.origin is None:
        return None
    files = sorted(Path(package.origin).parent.joinpath("store/db_migrations/versions").glob("*.py"))
    known: set[str] = set()
    followed: set[str] = set()
    for file in files:
        for down, value in _REVISION.findall(file.read_text("utf-8", "replace")):
            (followed if down else known).update(_QUOTED.findall(value))
    heads = known - followed
    return (heads.pop(), frozenset(known)) if len(heads) == 1 else None


def look(uri: str) -> Schema | None:
    """How the tables in that database fit; None where that can't be known, and MLflow has to say.

    Blocks, for some ten seconds where nobody answers. Raises Unreachable.
    """
    known = versions()
    if known is None:
        return None
    wanted, all_known = known
    found = version_of(uri)
    if found is None:
        return None
    if found == "" or found == wanted:
        return Schema(Fit.CURRENT if found else Fit.EMPTY, found, wanted)
    fit = Fit.OLD if found in all_known or found == NONE else Fit.FOREIGN
    return Schema(fit, found, wanted)


async def looked(uri: str) -> Schema | None:
    """`look` in a thread. Raises Unreachable also where the database has stood still since it was connected
    to, which no driver notices; the thread is left to itself then."""
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            return await asyncio.to_thread(look, uri)
    except TimeoutError:
        text = f"{place_of(uri)} can't be reached; it is asked again"
        raise Unreachable(text, f"no answer within {_LOOK_SECONDS:g} s") from None


def version_of(uri: str) -> str | None:
    """The version of the tables in that database: empty where there are none, None where it can't be told.

    Blocks as `look` does. Raises Unreachable.
    """
    return _of_sqlite(uri) if _file_of(uri) is not None else _of_server(uri)


def _file_of(uri: str) -> Path | None:
    """SQLite's file; None for any other database."""
    url = sa.make_url(uri)
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def _of_sqlite(uri: str) -> str | None:
    file = _file_of(uri)
    assert file is not None
    if not file.exists() or file.stat().st_size == 0:
        return ""
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        ) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            if "alembic_version" in tables:
                found = database.execute("SELECT version_num FROM alembic_version").fetchall()
                if found:
                    return str(found[0][0])
            return NONE if _FIRST_TABLE in tables else ""
    except sqlite3.Error:
        return None  # no SQLite file, or a damaged one: MLflow's words are as good as ours


def _of_server(uri: str) -> str | None:
    url = sa.make_url(uri)
    option = _TIMEOUT_OF.get(url.get_driver_name())
    arguments: dict[str, Any] = {} if option is None or option in url.query else {option: _CONNECT_SECONDS}
    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=arguments)
    except (sa.exc.SQLAlchemyError, ImportError):
        return None
    try:
        with engine.connect() as connection:
            inspect = sa.inspect(connection)
            if inspect.has_table("alembic_version"):
                found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
                if found is not None:
                    return str(found)
            return NONE if inspect.has_table(_FIRST_TABLE) else ""
    except sa.exc.OperationalError as error:
        text = str(error.orig)
        raise Unreachable(_unreachable(uri, text), driver_says(text, uri)) from None
    except sa.exc.SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def _unreachable(uri: str, text: str) -> str:
    refused = re.search(
        r"authentication failed|Access denied|no pg_hba.conf entry|not permitted to log in", text
    )
    if refused:
        return f"{place_of(uri)} refuses the user or the password; it is asked again"
    return f"{place_of(uri)} can't be reached; it is asked again"


def policy(settings: Settings, uri: str) -> str:
    """PROXY_MIGRATE, or what stands for it: ``auto``, ``ask`` or ``never``."""
    return settings.migrate or ("auto" if _file_of(uri) is not None else "never")


def refusal(schema: Schema, uri: str) -> str:
    """Why MLflow can't be started over this, for a person, with what to do."""
    where = place_of(uri)
    if schema.fit is Fit.FOREIGN:
        return (
            f"{where} has the tables of another MLflow, most likely a newer one (version {schema.found}; "
            f"this MLflow has {schema.wanted}): install the MLflow that it belongs to"
        )
    return (
        f"{where} has the tables of an older MLflow (version {schema.found}; this MLflow has "
        f"{schema.wanted}) and is not migrated unasked (PROXY_MIGRATE): back it up, then run "
        "`mlflow-proxy migrate`"
    )


def copy_aside(uri: str, schema: Schema) -> Path | None:
    """Copy SQLite's file, as it is at this moment, to one beside it; None for any other database.

    Raises UserError where that can't be done, and nothing is left then.
    """
    file = _file_of(uri)
    if file is None:
        return None
    copy = file.with_name(f"{file.name}.{schema.found}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    try:
        needed, free = file.stat().st_size, shutil.disk_usage(file.parent).free
        if needed > free:
            raise OSError(f"it takes {needed} bytes, and {free} are free")
        private_file.write(copy, b"")
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except (OSError, sqlite3.Error) as error:
        copy.unlink(missing_ok=True)
        raise UserError(
            f"{file} can't be copied aside before it is migrated ({error}); make room, or set "
            "PROXY_MIGRATE=never and migrate it by `mlflow-proxy migrate` after a backup of your own"
        ) from None
    return copy


def upgrade_command() -> list[str]:
    """What migrates the database that MLFLOW_BACKEND_STORE_URI names, as a process of its own."""
    return [sys.executable, str(UPGRADE)]


def upgrade(uri: str, environ: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """Migrate it now, in a process of its own, saying each line; whether it has the newest version then.

    For commands. Raises Unreachable.
    """
    mask = masking([*secrets_of(uri), uri])
    with subprocess.Popen(
        upgrade_command(),
        env={**environ, "MLFLOW_BACKEND_STORE_URI": uri, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(mask(line.decode("utf-8", "backslashreplace").rstrip()))
    if process.returncode:
        return False
    after = look(uri)
    return after is not None and after.fit is Fit.CURRENT


def asked(settings: Settings, uri: str, confirm: Callable[[str], bool]) -> Settings:
    """The settings with what a person at the terminal says to a migration that has to be asked for."""
    try:
        found = look(uri) if policy(settings, uri) == "ask" else None
    except Unreachable:
        return settings
    if found is None or found.fit is not Fit.OLD:
        return settings
    backup = "A copy is made first." if _file_of(uri) else "Is there a backup?"
    question = (
        f"{place_of(uri)} has the tables of an older MLflow (version {found.found}; this MLflow has "
        f"{found.wanted}). {backup} Migrate it now?"
    )
    return settings.model_copy(update={"migrate": "auto"}) if confirm(question) else settings
