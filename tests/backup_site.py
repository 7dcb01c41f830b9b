"""A data directory with databases and artifacts of its own making, and the commands that back it up."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service import clean_environment

from proxy.backup import databases, places, reading, sealing, streams
from proxy.backup.copying import Copying
from proxy.backup.databases import Table
from proxy.backup.ledger import Ledger
from proxy.backup.manifest import Manifest
from proxy.backup.places import Place
from proxy.backup.places.tree import Tree
from proxy.backup.reading import Artifact

COMMAND = (sys.executable, "-m", "proxy")


@dataclass
class Site:
    """One installation and the place of its backups, with a pair of keys."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    public: str = ""

    @property
    def data(self) -> Path:
        return self.folder / "mlflow-data"

    @property
    def artifacts(self) -> Path:
        return self.data / "artifacts"

    @property
    def key_file(self) -> Path:
        return self.folder / "backup.key"

    @property
    def key(self) -> sealing.Key | None:
        return sealing.identity(self.key_file)

    @property
    def place(self) -> Place:
        return places.open_place(self.environment["PROXY_BACKUP_DESTINATION"], self.environment)

    def tables(self, name: str = "mlflow.db") -> dict[str, Table]:
        return dict(databases.facts(f"sqlite:///{self.data / name}").tables)

    def newest(self) -> Manifest:
        return reading.newest(self.place)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=clean_environment(**{**self.environment, **more}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, fails: bool = False, **more: str) -> str:
        """All that it says."""
        with self.start(*arguments, **more) as process:
            out, err = process.communicate(timeout=240)
        assert (process.returncode != 0) is fails, out + err
        assert "Traceback" not in err, err
        return out + err

    def elsewhere(self, folder: Path) -> Site:
        """An empty installation that restores this one's backups."""
        folder.mkdir()
        more = {"PROXY_BACKUP_IDENTITY_FILE": str(self.key_file)} if self.key_file.exists() else {}
        return Site(folder, {**self.environment, **more}, self.public)

    def artifact(self, path: str, data: bytes) -> None:
        file = self.artifacts / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def site(folder: Path, *, sealed: bool = True, rows: int = 2000, artifacts: int = 12) -> Site:
    """One with content, and a destination beside it."""
    made = Site(folder)
    made.data.mkdir(parents=True)
    made.environment = {"PROXY_BACKUP_DESTINATION": str(folder.parent / "backups")}
    if sealed:
        made.public, secret = sealing.keygen()
        made.key_file.write_text(secret)
        made.environment["PROXY_BACKUP_RECIPIENT"] = made.public
    chance = random.Random(1)
    with contextlib.closing(sqlite3.connect(made.data / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, number INTEGER, value REAL, data BLOB)")
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('0a')")
        database.executemany(
            "INSERT INTO runs VALUES (?,?,?,?)",
            ((f"run-{number}", number, chance.random(), chance.randbytes(60)) for number in range(rows)),
        )
    with contextlib.closing(sqlite3.connect(made.data / "proxy.db")) as database, database:
        database.execute("CREATE TABLE mlflow_proxy_tokens (id TEXT, hash TEXT)")
        database.execute("INSERT INTO mlflow_proxy_tokens VALUES ('1', 'abc')")
    for number in range(artifacts):
        made.artifact(f"1/run-{number}/artifacts/model.bin", chance.randbytes(3000 * number))
    made.artifact("1/run-0/artifacts/ä b/ü%.txt", b"text")
    return made


def tree(folder: Path) -> dict[str, str]:
    """Every file's digest, by its path below."""
    return {
        os.fsdecode(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def copied(
    root: Place,
    folder: Path,
    *,
    listed: Callable[[], object] = lambda: None,
    meanwhile: Callable[[], object] = lambda: None,
) -> list[Artifact]:
    """What the list says of the artifacts in `root`, which are copied below `folder`. `listed` is called when
    they are listed and not copied yet, `meanwhile` after each piece of them."""

    def tick(_number: int) -> None:
        meanwhile()

    place = Tree(folder / "place")
    with contextlib.closing(Ledger(folder / "ledger.db", ".zst", ())) as ledger:
        work = Copying(root, place, ledger, "set", (), folder / "digests.db")
        work.find()
        listed()
        work.find_copies()
        with (
            streams.writing(place, "list.zst", (), lambda _: None) as (to, kept),
            streams.writing(place, "names.zst", (), lambda _: None) as (names, _),
        ):
            work.copy_to(to, names, tick)
    with streams.reading(place, kept.stored, None) as reader:
        found = [Artifact(**json.loads(line)) for line in reading.lines(reader)]
    for one in found:
        with reading.copy(place, one, None) as copy:
            digest = hashlib.sha256()
            while data := copy.read(2**20):
                digest.update(data)
        assert digest.hexdigest() == one.digest
    return found
