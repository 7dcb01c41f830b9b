"""Throwaway database servers from Debian's packages, on loopback; their password needs care in a URI."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from programs import program
from service import free_port

PASSWORD = "p@ss:w/rd%"


class Database(ABC):
    """A server with a database `mlflow` of the user `mlflow`; it can be stopped and started again."""

    scheme: str
    account: str
    """Whose processes these are, where we are root: the servers refuse to be root's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(folder, self.account)

    def uri(self, password: str = PASSWORD) -> str:
        """As a person writes it."""
        return f"{self.scheme}://mlflow:{quote(password, safe='')}@127.0.0.1:{self.port}/mlflow"

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, **self._as_account()
            )
        deadline = time.monotonic() + 60
        while subprocess.run(self.ping(), capture_output=True).returncode:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT if self.scheme == "postgresql" else signal.SIGTERM)
            self.process.wait(60)
            self.process = None

    def run(self, *command: str, text: str = "") -> None:
        """A command of the server's account, with `text` for its input."""
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, cwd=self.folder, **self._as_account()
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_account(self) -> Mapping[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self.account, "group": self.account, "extra_groups": []}

    @abstractmethod
    def create(self) -> None:
        """Lay the files down, start, and make the user and the database."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def ping(self) -> list[str]: ...


class PostgreSQL(Database):
    scheme = "postgresql"
    account = "postgres"
    programs = ("initdb", "postgres", "psql", "pg_isready")

    def create(self) -> None:
        data = self.folder / "data"
        self.run(path("initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync")
        (data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        self.start()
        self.run(
            *(path("psql"), "-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-f", "-"),
            text=f"CREATE ROLE mlflow LOGIN PASSWORD '{PASSWORD}';\nCREATE DATABASE mlflow OWNER mlflow;\n",
        )

    def command(self) -> list[str]:
        where = ("-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port))
        return [path("postgres"), *where, "-h", "127.0.0.1", "-c", "fsync=off"]

    def ping(self) -> list[str]:
        return [path("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]


class MariaDB(Database):
    scheme = "mysql"
    account = "mysql"
    programs = ("mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin")

    def create(self) -> None:
        self.run(
            path("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        self.start()
        self.run(
            *(path("mariadb"), "--no-defaults", f"--socket={self.socket}", "--user=root"),
            text=f"CREATE DATABASE mlflow; GRANT ALL ON mlflow.* TO mlflow@'%' IDENTIFIED BY '{PASSWORD}';",
        )

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    def command(self) -> list[str]:
        return [
            path("mariadbd"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder}",
            f"--socket={self.socket}",
            f"--pid-file={self.folder / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=0",
        ]

    def ping(self) -> list[str]:
        admin = (path("mariadb-admin"), "--no-defaults", f"--socket={self.socket}", "--user=root")
        return [*admin, "--silent", "ping"]


def path(name: str) -> str:
    found = program(name)
    assert found is not None, f"{name} is not installed"
    return found


@contextlib.contextmanager
def database(kind: type[Database]) -> Iterator[Database]:
    """A new one, running; gone with its files in the end."""
    # Not in pytest's directory, which is closed to the server's account.
    with tempfile.TemporaryDirectory(prefix="mp-database-", ignore_cleanup_errors=True) as folder:
        made = kind(Path(folder))
        try:
            made.create()
            yield made
        finally:
            made.stop()
