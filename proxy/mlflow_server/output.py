"""MLflow's output: cut into lines, without secrets, and what a line says about how far a start is."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote, urlsplit

logger = logging.getLogger("proxy.mlflow_server")

LONGEST_LINE = 8192
"""Bytes of a line that are kept; a traceback's SQL parameters can be megabytes."""

LONGEST_REASON = 300
"""Characters of what a driver says; psycopg repeats itself for each address that it has tried."""

_UPGRADE = re.compile(r"Running upgrade\s+(?P<old>[0-9a-f, ]*?)\s*->\s*(?P<new>[0-9a-f]+)(?:, (?P<what>.*))?")


class Lines(asyncio.Protocol):
    """Gives each line of a pipe to a function, whatever bytes come and however many; a last one without end
    too."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._begun = bytearray()
        self._cut = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            self._give()
        self._add(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._begun:
            self._give()
        if not self.ended.done():
            self.ended.set_result(None)

    def _add(self, part: bytes) -> None:
        room = LONGEST_LINE - len(self._begun)
        self._cut = self._cut or len(part) > room
        self._begun += part[:room]

    def _give(self) -> None:
        line = self._begun.rstrip(b"\r").decode("utf-8", "backslashreplace")
        cut, self._cut = self._cut, False
        self._begun.clear()
        try:
            self._take(line + " ... (cut)" if cut else line)
        except Exception:
            # asyncio would close the pipe, and MLflow could not print any more.
            logger.exception("a line of MLflow's output could not be taken")


def masking(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that takes these out of a line: MLflow prints a database's URI when it can't open it."""
    # The longest first: a password is a part of its URI.
    known = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)
    if not known:
        return lambda line: line
    pattern = re.compile("|".join(re.escape(secret) for secret in known))
    return lambda line: pattern.sub("***", line)


def secrets_of(uri: str) -> list[str]:
    """What of a database URI must not be printed: its password, as written and as meant."""
    try:
        password = urlsplit(uri).password
    except ValueError:
        return [uri]
    return [password, unquote(password)] if password else []


def driver_says(text: str, uri: str) -> str:
    """What a database's driver gives for the reason, in a line for the log: without the secrets of the URI,
    and without SQL. It has addresses, and so is not for everybody."""
    line = " ".join(text.partition("[SQL:")[0].split())
    line = masking([*secrets_of(uri), uri])(line)
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} ..."


def place_of(uri: str) -> str:
    """The database for a person to recognize: host and port, never a user or password."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "the database"
    if not host:
        return "the database" if not parts.scheme.startswith("sqlite") else f"the database {parts.path[1:]}"
    return f"the database at {host}:{port}" if port else f"the database at {host}"


_REFUSED = re.compile(r"authentication failed for user|Access denied for user|no pg_hba.conf entry")


class Progress:
    """How far a start is, going by MLflow's output."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.step: str | None = None
        """A few words, or None where MLflow is just starting."""
        self.migrating = False
        self.migrations = 0

    def read(self, line: str) -> None:
        """Take notice of a line."""
        if found := _UPGRADE.search(line):
            self.migrating = True
            self.migrations += 1
            what = f", {found['what'].strip()}" if found["what"] else ""
            self.step = f"migrating the database: {found['new']}{what} (step {self.migrations})"
        elif "Creating initial MLflow database tables" in line:
            self.step = "creating the database's tables"
        elif _REFUSED.search(line):
            # PostgreSQL's words and MySQL's; MLflow's own line follows, and knows of no difference.
            self.step = f"{self._database} refuses the user or the password; MLflow goes on trying"
        elif "SQLAlchemy engine could not be created" in line:
            if self.step is None or "refuses" not in self.step:
                self.step = f"{self._database} can't be reached; MLflow goes on trying"
        elif "Detected out-of-date database schema" in line:
            self.step = (
                f"{self._database} has the tables of another version of MLflow; back it up and run "
                "`mlflow-proxy migrate`, or use the version that it belongs to"
            )
        elif "Started server process" in line or "Started parent process" in line:
            # uvicorn's first words: MLflow has opened its stores by then.
            self.migrating = False
            self.step = None
