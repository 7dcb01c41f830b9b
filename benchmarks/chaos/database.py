"""A throwaway PostgreSQL on loopback, with two login roles that are members of the one that owns all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from processes import free_port

ACCOUNT = "postgres"  # whose processes these are where we are root, whom the server refuses
PASSWORD = "chaos-and-order-7"
LOGINS = ("mlflow_a", "mlflow_b")

_ROLES = f"""
CREATE ROLE mlflow_owner NOLOGIN;
CREATE ROLE mlflow_a LOGIN PASSWORD '{PASSWORD}' IN ROLE mlflow_owner;
CREATE ROLE mlflow_b LOGIN PASSWORD '{PASSWORD}' IN ROLE mlflow_owner;
ALTER ROLE mlflow_a SET role = mlflow_owner;
ALTER ROLE mlflow_b SET role = mlflow_owner;
CREATE DATABASE mlflow OWNER mlflow_owner;
"""


class Database:
    """Running from `create` to `stop`; its files lie in `folder`, which its account must be able to enter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(folder, ACCOUNT)

    def uri(self, login: str = LOGINS[0]) -> str:
        return f"postgresql://{login}:{PASSWORD}@127.0.0.1:{self.port}/mlflow"

    def create(self) -> None:
        data = self.folder / "data"
        self._run(program("initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync")
        (data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        self.start()
        self.sql(_ROLES)

    def start(self) -> None:
        """Returns when it takes connections."""
        where = ("-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port))
        command = [program("postgres"), *where, "-h", "127.0.0.1", "-c", "fsync=off"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **_account())
        ping = [program("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ping, capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit((self.folder / "server.log").read_text())
            time.sleep(0.1)

    def stop(self) -> None:
        """As an administrator would who does not wait for those who are connected."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
            self.process = None

    def enable(self, login: str) -> None:
        self.sql(f"ALTER ROLE {login} LOGIN;")

    def disable(self, login: str) -> None:
        """From now on nobody is, or gets, in by that name."""
        self.sql(
            f"ALTER ROLE {login} NOLOGIN;\n"
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{login}';"
        )

    def sql(self, text: str) -> None:
        psql = (program("psql"), "-h", str(self.folder), "-p", str(self.port), "-U", "postgres")
        self._run(*psql, "-v", "ON_ERROR_STOP=1", "-f", "-", text=text)

    def _run(self, *command: str, text: str = "") -> None:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, cwd=self.folder, **_account()
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)


def program(name: str) -> str:
    """Where it is, also where Debian puts it outside of an ordinary user's PATH; the end where it is not."""
    places = ["/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        sys.exit(f"{name} is not installed")
    return found


def _account() -> dict[str, Any]:
    return {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []} if os.geteuid() == 0 else {}
