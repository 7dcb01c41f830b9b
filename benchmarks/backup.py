"""What a backup, a drill and a restore take, while MLflow's database is written to.

    .venv/bin/python benchmarks/backup.py sqlite
    .venv/bin/python benchmarks/backup.py postgresql
    .venv/bin/python benchmarks/backup.py mariadb

10,000 runs with a million metric rows and 2,000 artifacts are made (`--runs`, `--metrics`, `--artifacts`),
and rows go on being written. Then `mlflow-proxy backup`, a second one, `drill` and `restore` into an empty
place on a new server are run, each a process of its own, and their time and memory taken: the most that the
command itself had, and the most that it had with all that it started (shared pages once; looked at four times
a second). At the end the restored tables are held against the manifest once more. The servers are Debian's,
started for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

_ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(_ROOT / "tests"), str(_ROOT)]

import sqlalchemy as sa  # noqa: E402
from end_to_end.backed_up import World, administer, world  # noqa: E402
from end_to_end.databases import Database, MariaDB, PostgreSQL, database  # noqa: E402

from proxy.backup import databases  # noqa: E402
from proxy.backup.databases import scratch  # noqa: E402
from proxy.settings.database import driver_uri  # noqa: E402

_BATCH = 10_000
# VmHWM, since ru_maxrss is inherited over fork and exec.
_COMMAND = """
import atexit, resource, sys
from proxy.cli import main
def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("MEASURED", used.ru_utime + used.ru_stime, most, file=sys.stderr)
atexit.register(tell)
main()
"""
_TABLES = """
import os
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore(os.environ["URI"], "mlflow-artifacts:/")
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("sqlite", "postgresql", "mariadb"))
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--metrics", type=int, default=1_000_000)
    parser.add_argument("--artifacts", type=int, default=2_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, _places(asked.kind, Path(name)) as (uri, empty, server):
        settings = {"MLFLOW_BACKEND_STORE_URI": uri}
        made = world(Path(name) / "w", **settings, **({"PROXY_DRILL_SERVER_URL": server} if server else {}))
        subprocess.run([sys.executable, "-c", _TABLES], env={**os.environ, "URI": uri}, check=True)
        began = time.monotonic()
        size = _fill(uri, made.artifacts, asked.runs, asked.metrics, asked.artifacts)
        print(
            f"{asked.kind}: {asked.runs:,} runs, {asked.metrics:,} metric rows, {asked.artifacts:,} "
            f"artifacts of {size / 1e6:.0f} MB, made in {time.monotonic() - began:.0f} s"
        )
        print(f"{'':16} {'time':>8} {'CPU':>8} {'memory':>9} {'with all':>9}")
        with _writing(uri) as written:
            _measured(made, "backup", "backup")
            _measured(made, "the next backup", "backup")
        print(
            f"{'':16} {written.rows:,} rows were written meanwhile, one at a time; one of them waited "
            f"{written.longest:.2f} s, and half of them less than {1000 * written.median:.0f} ms"
        )
        sets = sorted(made.sets.iterdir())
        print(
            f"{'':16} the last set {_size(sets[-1]) / 1e6:.1f} MB, copies of the artifacts "
            f"{_size(made.sets.parent / 'artifacts') / 1e6:.1f} MB"
        )
        report = json.loads(_measured(made, "drill", "drill", "--json"))
        print(
            f"{'':16} RTO {report['restore_seconds']:.1f} s, of which MLflow's start "
            f"{report['mlflow_start_seconds']:.1f} s; {report['artifacts_read']} artifacts read"
        )
        there = world(Path(name) / "new", **{**made.settings, "MLFLOW_BACKEND_STORE_URI": empty})
        there.settings |= {"PROXY_BACKUP_IDENTITY_FILE": made.settings["PROXY_BACKUP_IDENTITY_FILE"]}
        there.settings |= {"PROXY_DATA_DIR": str(there.data)}
        (there.data / "proxy.db").unlink()
        _measured(there, "restore", "restore", "--yes")
        manifest = json.loads((sets[-1] / "manifest.json").read_text())
        tables = next(one["tables"] for one in manifest["databases"] if one["role"] == "tracking")
        found = {name: table._asdict() for name, table in databases.facts(empty).tables.items()}
        assert found == tables, "what was restored is not what was backed up"
        print(
            f"{'':16} {len(found)} tables restored, each with the rows and the digest of the backup's moment"
        )


@contextlib.contextmanager
def _places(kind: str, folder: Path) -> Iterator[tuple[str, str, str | None]]:
    """The database, an empty one on another server, and a server for scratch databases."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'w' / 'mlflow.db'}", f"sqlite:///{folder / 'new' / 'mlflow.db'}", None
        return
    server: type[Database] = PostgreSQL if kind == "postgresql" else MariaDB
    with database(server) as one, database(server) as other:
        for each in (one, other):
            rights = (
                "ALTER ROLE mlflow CREATEDB" if kind == "postgresql" else "GRANT ALL ON *.* TO mlflow@'%'"
            )
            administer(each, rights)
        lent = driver_uri(other.uri())
        yield driver_uri(one.uri()), scratch.create(lent, "empty"), lent


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _measured(made: World, name: str, *arguments: str) -> str:
    """The command's output; its figures are printed."""
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments],
            cwd=made.folder,
            env=made.environment(PYTHONPATH=str(_ROOT)),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
        ThreadPoolExecutor(1) as beside,
    ):
        most_of_all = beside.submit(_most, process)
        assert process.stdout is not None
        output = process.stdout.read()
        process.wait()
        seconds = time.monotonic() - began
        said.seek(0)
        words = said.read()
    if process.returncode:
        sys.exit(f"{name} has failed: {words}")
    _, cpu, itself = next(line for line in words.splitlines() if line.startswith("MEASURED")).split()
    print(
        f"{name:16} {seconds:6.1f} s {float(cpu):6.1f} s {int(itself) / 1024:6.0f} MB "
        f"{max(int(itself), most_of_all.result()) / 1024:6.0f} MB",
        flush=True,
    )
    return output


def _most(process: subprocess.Popen[str]) -> int:
    """The most memory that it has had with all its descendants, in KiB."""
    most = 0
    while process.poll() is None:
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        family = {process.pid}
        while more := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= more
        used = 0
        for pid in family:
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                used += int(next(line.split()[1] for line in lines if line.startswith("Pss:")))
        most = max(most, used)
        time.sleep(0.25)
    return most


def _fill(uri: str, root: Path, runs: int, metrics: int, artifacts: int) -> int:
    """Rows of MLflow's own tables, and files; how many bytes of files."""
    chance = random.Random(1)
    engine = sa.create_engine(uri)
    meta = sa.MetaData()
    meta.reflect(engine, only=["runs", "metrics", "latest_metrics", "params", "tags"])
    tables = meta.tables
    ids = [UUID(int=chance.getrandbits(128), version=4).hex for _ in range(runs)]
    each = max(1, metrics // runs)
    now = int(time.time() * 1000)

    def insert(name: str, rows: Iterator[dict[str, Any]]) -> None:
        while batch := [row for _, row in zip(range(_BATCH), rows, strict=False)]:
            with engine.begin() as connection:
                connection.execute(tables[name].insert(), batch)

    insert(
        "runs",
        (
            {
                "run_uuid": run,
                "name": f"run {number}",
                "experiment_id": 0,
                "user_id": "ada",
                "status": "FINISHED",
                "source_type": "LOCAL",
                "source_name": "",
                "entry_point_name": "",
                "source_version": "",
                "start_time": now,
                "end_time": now + 1000,
                "lifecycle_stage": "active",
                "artifact_uri": f"mlflow-artifacts:/0/{run}/artifacts",
            }
            for number, run in enumerate(ids)
        ),
    )
    insert(
        "params", ({"run_uuid": run, "key": f"p{n}", "value": str(n / 7)} for run in ids for n in range(10))
    )
    insert("tags", ({"run_uuid": run, "key": f"t{n}", "value": "x" * 40} for run in ids for n in range(5)))
    insert("metrics", (_metric(run, step, now, chance.random()) for run in ids for step in range(each)))
    engine.dispose()
    written = 0
    for number in range(artifacts):
        folder = root / "0" / ids[number % runs] / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        data = chance.randbytes(chance.randrange(1000, 100_000)) + b"0" * chance.randrange(1000, 100_000)
        written += (folder / f"{number}.bin").write_bytes(data)
    return written


def _metric(run: str, step: int, now: int, value: float) -> dict[str, Any]:
    key = {"run_uuid": run, "key": "loss", "step": step, "timestamp": now + step}
    return {**key, "value": value, "is_nan": False}


class _Written:
    """Rows that were written one at a time, and how long each took in seconds."""

    def __init__(self) -> None:
        self.took: list[float] = []

    @property
    def rows(self) -> int:
        return len(self.took)

    @property
    def longest(self) -> float:
        return max(self.took)

    @property
    def median(self) -> float:
        return statistics.median(self.took)


@contextlib.contextmanager
def _writing(uri: str) -> Iterator[_Written]:
    """Another row every few milliseconds, from a thread."""
    over, written = threading.Event(), _Written()

    def write() -> None:
        engine = sa.create_engine(uri, connect_args={"timeout": 60} if uri.startswith("sqlite") else {})
        table = sa.Table("metrics", sa.MetaData(), autoload_with=engine)
        with engine.connect() as connection:
            run = connection.execute(sa.text("SELECT min(run_uuid) FROM runs")).scalar()
            connection.rollback()
            while not over.wait(0.005):
                step = 10_000_000 + written.rows
                began = time.monotonic()
                connection.execute(table.insert(), [_metric(str(run), step, step, 0.5)])
                connection.commit()
                written.took.append(time.monotonic() - began)
        engine.dispose()

    with ThreadPoolExecutor(1) as beside:
        writing = beside.submit(write)
        try:
            yield written
        finally:
            over.set()
        writing.result()


if __name__ == "__main__":
    main()
