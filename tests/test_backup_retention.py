"""Which sets stay: `superseded` by itself, and what a backup removes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from backup_site import Site, site, tree

from proxy.backup import reading
from proxy.backup.manifest import Manifest, new_name
from proxy.backup.places.tree import Tree
from proxy.backup.retention import DAY, Keep, superseded

NOW = 1_790_000_000.0


def manifest(moment: float) -> Manifest:
    name = time.strftime("%Y%m%dT%H%M%SZ-000000", time.gmtime(moment))
    return Manifest(name, moment, moment, moment, "host", {}, (), (), None, ())


def left(moments: Sequence[float], keep: Keep) -> list[float]:
    sets = [manifest(moment) for moment in moments]
    gone = {one.set for one in superseded(sets, max(one.set for one in sets), keep)}
    return sorted((NOW - one.moment) / DAY for one in sets if one.set not in gone)


def test_the_newest_of_each_day_week_and_month_stays() -> None:
    moments = [NOW - number * DAY for number in range(400)]
    kept = left(moments, Keep(7, 5, 12))
    assert kept[:7] == [0, 1, 2, 3, 4, 5, 6]
    # 7 days, 5 weeks and 12 months, some of which are the same.
    assert 7 + 4 + 10 <= len(kept) <= 7 + 5 + 12
    assert kept[-1] > 300


def test_all_of_the_last_day_stay() -> None:
    moments = [NOW - number * DAY / 24 for number in range(72)]
    # Of the third day the newest, too.
    assert len(left(moments, Keep(3, 0, 0))) == 24 + 1


@pytest.mark.parametrize("pause", [1, 30, 4000])
def test_the_last_good_one_stays_whatever_is_said(pause: int) -> None:
    assert left([NOW, NOW - pause * DAY], Keep(0, 0, 0)) == [0.0]
    assert left([NOW - pause * DAY], Keep(0, 0, 0)) == [pause]


def test_a_pause_of_the_backups_removes_none() -> None:
    old = [NOW - (1000 + number) * DAY for number in range(7)]
    assert len(left([NOW, *old], Keep(7, 0, 0))) == 7


def test_sets_of_one_second_are_in_order() -> None:
    names = [new_name(NOW + number / 20) for number in range(40)]
    assert names == sorted(names)
    assert len({name.partition("-")[0] for name in names}) == 2
    assert len({new_name(NOW) for _ in range(100)}) > 1


def test_what_is_newer_than_the_set_just_made_stays() -> None:
    # Of a clock that was ahead.
    sets = [manifest(NOW), manifest(NOW + 5 * DAY), manifest(NOW + 10 * DAY)]
    assert superseded(sets, sets[0].set, Keep(0, 0, 0)) == []


# ---- In a backup ----


@pytest.fixture
def made(tmp_path: Path) -> Site:
    return site(tmp_path / "site", artifacts=4)


def aged(made: Site, days: float) -> str:
    """Make the newest set so much older, under another name; that name."""
    newest = made.newest()
    moment = newest.moment - days * DAY
    older = dataclasses.replace(newest, set=manifest(moment).set, moment=moment)
    place = Path(made.place.text) / "sets"
    (place / newest.set).rename(place / older.set)
    (place / older.set / "manifest.json").write_bytes(older.text())
    return older.set


def test_a_backup_removes_what_no_rule_keeps_and_the_copies_that_nothing_needs(
    made: Site, tmp_path: Path
) -> None:
    made.run("backup", "--artifacts")
    oldest = aged(made, 30)
    made.artifact("1/run-1/artifacts/model.bin", b"trained again")
    made.run("backup", "--artifacts", PROXY_BACKUP_KEEP_DAILY="2")
    old = aged(made, 3)
    (made.artifacts / "1/run-2/artifacts/model.bin").unlink()
    keep = {"PROXY_BACKUP_KEEP_DAILY": "2", "PROXY_BACKUP_KEEP_WEEKLY": "0", "PROXY_BACKUP_KEEP_MONTHLY": "0"}
    said = made.run("backup", "--artifacts", **keep)
    assert f"the backup {oldest} was removed" in said
    assert [one.set for one in reading.sets(made.place)] == [old, made.newest().set]
    # What the oldest alone had is gone; what the second still needs is there, though it is removed here.
    needed = {
        one.copy for each in reading.sets(made.place) for one in reading.artifacts(made.place, each, made.key)
    }
    assert {entry.name for entry in made.place.entries("artifacts/") if "/index/" not in entry.name} == needed
    other = made.elsewhere(tmp_path / "other")
    other.run("restore", "--yes")
    assert tree(other.artifacts) == tree(made.artifacts)
    # What is known of the copies was kept.
    assert "0 of them" in made.run("backup", "--artifacts", **keep)


def test_backups_of_another_service_at_the_same_place_stay(made: Site, tmp_path: Path) -> None:
    made.run("backup")
    theirs = aged(made, 30)
    other = site(tmp_path / "other", artifacts=0)
    other.environment = made.environment
    other.run("backup")
    old = aged(other, 20)
    keep = {"PROXY_BACKUP_KEEP_DAILY": "1", "PROXY_BACKUP_KEEP_WEEKLY": "0", "PROXY_BACKUP_KEEP_MONTHLY": "0"}
    said = other.run("backup", **keep)
    assert f"the backup {old} was removed" in said
    assert "1 backups of another database" in said
    assert [one.set for one in reading.sets(made.place)] == [theirs, other.newest().set]


def test_a_backup_that_fails_removes_nothing(made: Site) -> None:
    made.run("backup")
    old = aged(made, 400)
    (made.data / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    keep = {"PROXY_BACKUP_KEEP_DAILY": "0", "PROXY_BACKUP_KEEP_WEEKLY": "0", "PROXY_BACKUP_KEEP_MONTHLY": "0"}
    made.run("backup", fails=True, **keep)
    assert [one.set for one in reading.sets(made.place)] == [old]


def test_copies_stay_where_it_can_not_be_told_who_needs_them(made: Site) -> None:
    made.run("backup", "--artifacts")
    aged(made, 30)
    made.run("backup", "--artifacts")
    needs = aged(made, 3)
    place = made.place
    assert isinstance(place, Tree)
    (place.path / "sets" / needs / "copies.zst").write_bytes(b"damaged")
    copies = {entry.name for entry in place.entries("artifacts/")}
    keep = {"PROXY_BACKUP_KEEP_DAILY": "2", "PROXY_BACKUP_KEEP_WEEKLY": "0", "PROXY_BACKUP_KEEP_MONTHLY": "0"}
    said = made.run("backup", "--artifacts", **keep)
    assert "copies.zst" in said
    assert copies <= {entry.name for entry in place.entries("artifacts/")}


def test_copies_stay_that_a_set_of_a_newer_version_may_need(made: Site) -> None:
    made.run("backup", "--artifacts")
    oldest = aged(made, 30)
    made.artifact("1/run-1/artifacts/model.bin", b"trained again")
    made.run("backup", "--artifacts")
    newer = Path(made.place.text) / "sets" / aged(made, 3) / "manifest.json"
    newer.write_text(newer.read_text().replace('"format": 1', '"format": 2'))
    (made.artifacts / "1/run-1/artifacts/model.bin").unlink()
    copies = {entry.name for entry in made.place.entries("artifacts/")}
    keep = {"PROXY_BACKUP_KEEP_DAILY": "1", "PROXY_BACKUP_KEEP_WEEKLY": "0", "PROXY_BACKUP_KEEP_MONTHLY": "0"}
    said = made.run("backup", "--artifacts", **keep)
    assert f"the backup {oldest} was removed" in said
    assert "is of a newer mlflow-proxy (format 2): use that one: copies of artifacts stay" in said
    assert copies <= {entry.name for entry in made.place.entries("artifacts/")}
    assert newer.exists()
