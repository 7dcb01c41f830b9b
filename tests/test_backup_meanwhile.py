"""What happens to the files, the places and the databases while a backup or a restore is at them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from pathlib import Path

import pytest
from backup_site import Site, copied, site

from proxy.backup import planning, reading, restoring, writing
from proxy.backup.copying import drop_unneeded
from proxy.backup.lease import LeaseLost
from proxy.backup.ledger import Ledger
from proxy.backup.manifest import DatabaseEntry
from proxy.backup.places import PlaceFailed
from proxy.backup.places.place import READ
from proxy.backup.places.tree import Tree
from proxy.backup.progress import Progress
from proxy.backup.retention import Keep
from proxy.backup.sources import Database, place_of
from proxy.errors import UserError

# ---- Artifacts ----


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An artifact of two pieces."""
    file = tmp_path / "artifacts" / "model.bin"
    file.parent.mkdir()
    file.write_bytes(b"1" * 2 * READ)
    os.utime(file, (1e9, 1e9))
    return file


def test_a_file_that_is_written_while_it_is_copied_is_copied_again_as_it_then_is(
    model: Path, tmp_path: Path
) -> None:
    def meanwhile() -> None:
        if model.read_bytes()[-1:] == b"1":
            with model.open("r+b") as file:
                file.write(b"2" * 2 * READ)

    (one,) = copied(Tree(model.parent), tmp_path, meanwhile=meanwhile)
    assert one.digest == hashlib.sha256(b"2" * 2 * READ).hexdigest()
    assert one.modified == model.stat().st_mtime


def test_a_file_that_changes_all_the_time_is_named(model: Path, tmp_path: Path) -> None:
    at = [1_000_000_000]

    def meanwhile() -> None:
        at[0] += 1
        os.utime(model, (at[0], at[0]))

    with pytest.raises(PlaceFailed, match=r"model\.bin changes all the time"):
        copied(Tree(model.parent), tmp_path, meanwhile=meanwhile)


def test_a_file_that_is_removed_while_it_is_copied_is_not_in_the_list(model: Path, tmp_path: Path) -> None:
    assert copied(Tree(model.parent), tmp_path, meanwhile=lambda: model.unlink(missing_ok=True)) == []


# ---- The destination ----


def test_a_part_that_was_cut_short_behind_its_back_makes_no_set(tmp_path: Path) -> None:
    made = site(tmp_path / "site", sealed=False)
    place = Tree(Path(made.place.text))

    def say(line: str) -> None:
        # The databases are written by then.
        if line.startswith("13 artifacts"):
            (part,) = place.path.glob("sets/*/tracking.dump.zst")
            os.truncate(part, part.stat().st_size - 1)

    with pytest.raises(UserError, match=r"tracking\.dump\.zst is cut short.*although it was just written"):
        writing.backup(
            writing.Plan(
                databases=[tracking(made)],
                artifacts=Tree(made.artifacts),
                place=place,
                copy_artifacts=False,
                recipients=(),
                keep=Keep(7, 5, 12),
                folder=tmp_path / "scratch",
                versions={},
            ),
            Progress(say),
        )
    assert not list(place.path.rglob("*.zst"))
    assert not reading.names(place)


def tracking(made: Site) -> Database:
    return Database(
        "tracking", ("tracking",), f"sqlite:///{made.data / 'mlflow.db'}", "MLFLOW_BACKEND_STORE_URI"
    )


def test_no_copy_is_removed_once_somebody_else_may_have_the_lock(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLost

    place = Tree(tmp_path / "place")
    place.put("artifacts/ab/abcd.zst", b"x")
    with contextlib.closing(Ledger(tmp_path / "ledger.db", ".zst", ())) as ledger:
        with pytest.raises(LeaseLost):
            drop_unneeded(place, ledger, [], "set", lost)
        assert place.stat("artifacts/ab/abcd.zst") is not None
    with contextlib.closing(Ledger(tmp_path / "again.db", ".zst", ())) as ledger:
        assert drop_unneeded(place, ledger, [], "set", lambda: None) == 1
    assert place.stat("artifacts/ab/abcd.zst") is None


# ---- The database that a restore goes to ----


def test_what_came_into_the_database_after_the_question_is_not_lost(tmp_path: Path) -> None:
    made = site(tmp_path / "site", sealed=False)
    made.run("backup")
    other = made.elsewhere(tmp_path / "other")
    plan = planning.plan(
        made.place,
        made.newest(),
        None,
        [tracking(other)],
        None,
        other.data / "backup",
        replace=False,
        without=["proxy"],
    )
    assert any("tracking" in line for line in planning.what(plan))
    other.data.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(other.data / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE runs (id TEXT)")
    with pytest.raises(UserError, match="is not empty"):
        restoring.restore(plan, Progress(lambda _: None))
    assert list(other.tables()) == ["runs"]
    # Nor by the next call, as if this one had begun it.
    with pytest.raises(UserError, match="is not empty"):
        planning.what(plan)


def test_what_was_begun_in_one_database_is_not_gone_on_with_in_another_of_that_server(tmp_path: Path) -> None:
    entry = DatabaseEntry("tracking", ("tracking",), "postgresql", "PostgreSQL 17", "", "", 0, "", {})
    one, same, other = (
        Database(
            "tracking", ("tracking",), f"postgresql://{login}@db:5432/{name}", "MLFLOW_BACKEND_STORE_URI"
        )
        for login, name in (("a:b", "mlflow"), ("c:d", "mlflow"), ("a:b", "production"))
    )
    assert planning.step(entry, one) == planning.step(entry, same)
    assert planning.step(entry, one) != planning.step(entry, other)
    assert place_of(other.uri) == "the database production at db:5432"
