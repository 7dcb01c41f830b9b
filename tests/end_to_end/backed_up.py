"""A real MLflow's database and artifacts, written to while they are backed up, and the commands on them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from end_to_end.databases import Database, MariaDB, path
from service import clean_environment

from proxy.settings import Settings
from proxy.store import Store

# MLflow's own store makes the tables and the rows; then it goes on until its input ends.
_WRITE = """
import logging, os, sys, threading, time
from pathlib import Path
logging.disable(logging.WARNING)
from mlflow.entities import Metric, Param
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

root, runs = Path(sys.argv[1]), int(sys.argv[2])
store = SqlAlchemyStore(os.environ["MLFLOW_BACKEND_STORE_URI"], "mlflow-artifacts:/")
experiment = store.create_experiment("kept")

def run(number, artifact):
    now = int(time.time() * 1000)
    made = store.create_run(experiment, "ada", now, [], f"run {number}")
    metrics = [Metric("loss", step / 7, now, step) for step in range(20)]
    store.log_batch(made.info.run_id, metrics, [Param("rate", "0.1 \\u00fc")], [])
    if artifact:
        folder = root / made.info.artifact_uri.removeprefix("mlflow-artifacts:/")
        folder.mkdir(parents=True)
        (folder / "model \\u00fc.bin").write_bytes(os.urandom(10_000 + number))

for number in range(runs):
    run(number, number % 2 == 0)
print("filled", flush=True)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.is_set():
    run(number := number + 1, False)
    print("one more", flush=True)
"""


@dataclass
class World:
    """A folder with a service's data, and what the commands get for their settings."""

    folder: Path
    settings: dict[str, str]

    @property
    def data(self) -> Path:
        return self.folder / "mlflow-data"

    @property
    def artifacts(self) -> Path:
        return self.data / "artifacts"

    @property
    def sets(self) -> Path:
        return self.folder / "backups" / "sets"

    def environment(self, **more: str) -> dict[str, str]:
        return clean_environment(**{**self.settings, **more})

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`mlflow-proxy` with that, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "proxy", *arguments],
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=280,
        )

    def done(self, *arguments: str, **more: str) -> str:
        """The same, which goes well; its standard output."""
        done = self.command(*arguments, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def drill(self, **more: str) -> dict[str, Any]:
        """A drill that goes well: its report."""
        report: dict[str, Any] = json.loads(self.done("drill", "--json", **more))
        return report

    def refused(self, *arguments: str, **more: str) -> str:
        """A command that fails, as it should: the one line that says why."""
        done = self.command(*arguments, **more)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("mlflow-proxy: ")]
        return line

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "backup" / "state.json").read_text())
        return found


def world(folder: Path, **settings: str) -> World:
    """One whose service's own database is there, and whose backups are encrypted."""
    folder.mkdir(exist_ok=True)
    made = World(
        folder,
        {
            "PROXY_DATA_DIR": str(folder / "mlflow-data"),
            "PROXY_BACKUP_DESTINATION": str(folder / "backups"),
            "PROXY_BACKUP_ARTIFACTS": "true",
            **settings,
        },
    )
    made.data.mkdir(mode=0o700)
    made.artifacts.mkdir()
    Store.open(Settings(data_dir=made.data)).close()
    key = folder / "key"
    recipient = made.done("backup", "keygen", str(key)).strip().removeprefix("PROXY_BACKUP_RECIPIENT=")
    made.settings |= {"PROXY_BACKUP_RECIPIENT": recipient, "PROXY_BACKUP_IDENTITY_FILE": str(key)}
    return made


@contextlib.contextmanager
def written_to(made: World, uri: str, runs: int = 20) -> Iterator[subprocess.Popen[str]]:
    """Filled with runs, and written to by MLflow's own store while the context lasts."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(made.artifacts), str(runs)],
        env=made.environment(MLFLOW_BACKEND_STORE_URI=uri),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "filled\n"
        assert process.stdout.readline() == "one more\n"
        yield process
        assert process.poll() is None, "it was written to all the time"
        process.stdin.close()
        process.stdout.read()
    assert process.returncode == 0


def administer(server: Database, statement: str) -> None:
    """As the one who may do everything there."""
    if isinstance(server, MariaDB):
        client = (path("mariadb"), "--no-defaults", f"--socket={server.socket}", "--user=root")
    else:
        client = (path("psql"), "-h", str(server.folder), "-p", str(server.port), "-U", "postgres", "-f", "-")
    server.run(*client, text=statement + ";\n")
