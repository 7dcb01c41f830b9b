"""What lies at a destination by somebody else's doing: it is left alone, and is not believed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backup_site import site

from proxy.backup import manifest as manifests
from proxy.backup import reading, streams
from proxy.backup.manifest import ArtifactsEntry, DatabaseEntry, Manifest
from proxy.backup.places import PlaceFailed
from proxy.backup.places.tree import Tree

SET = "20260101T000000Z-abcdef"


def written(place: Tree, name: str, data: bytes) -> streams.Stored:
    with streams.writing(place, f"sets/{SET}/{name}", [], lambda _: None) as (writer, kept):
        writer.write(data)
    return kept.stored._replace(name=name)


def a_set(place: Tree, artifacts: bytes = b"") -> Manifest:
    """A whole one, made by hand, whose database is nothing."""
    parts = (
        written(place, "tracking.dump.zst", b"dump"),
        written(place, "artifacts.jsonl.zst", artifacts),
        written(place, "copies.zst", b""),
    )
    entry = DatabaseEntry(
        "tracking", ("tracking",), "sqlite", "SQLite 3", "there", "", 1.0, "tracking.dump.zst", {}
    )
    listed = ArtifactsEntry("/there", "artifacts.jsonl.zst", 0, 0, True, "copies.zst")
    made = Manifest(SET, 1.0, 1.0, 1.0, "host", {"mlflow": "3"}, (), (entry,), listed, parts)
    place.put(made.name, made.text())
    return made


def test_what_is_not_ours_beside_the_sets_stays(tmp_path: Path) -> None:
    made = site(tmp_path / "site", rows=10, artifacts=0)
    sets = Path(made.place.text) / "sets"
    theirs = (sets / "photos" / "a.jpg", sets / "20260101" / "manifest.json", sets / "notes.txt")
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theirs")
    said = made.run("backup")
    assert "had broken off" not in said
    assert [path.read_bytes() for path in theirs] == [b"theirs"] * 3
    assert [one.set for one in reading.sets(made.place)] == [made.newest().set]


def test_a_link_beside_the_lock_leads_to_no_file_of_ours(tmp_path: Path) -> None:
    place = Tree(tmp_path / "backups")
    etag = place.put_new("lock.json", b"one")
    assert etag is not None
    ours = tmp_path / "ours"
    ours.write_bytes(b"precious")
    (tmp_path / "backups" / ".lock.json.turn").symlink_to(ours)
    with pytest.raises(PlaceFailed, match=r"lock.json can't be written"):
        place.exchange("lock.json", b"two", etag)
    assert ours.read_bytes() == b"precious"


def test_a_manifest_in_another_sets_folder_is_refused(tmp_path: Path) -> None:
    place = Tree(tmp_path)
    a_set(place)
    # An old one, put there as the newest.
    newer = "20270101T000000Z-abcdef"
    shutil.copytree(tmp_path / "sets" / SET, tmp_path / "sets" / newer)
    with pytest.raises(reading.BrokenBackup, match=f"{newer}/manifest.json was changed: .*{SET}"):
        reading.newest(place)
    assert [one.set for one in reading.sets(place)] == [SET]


@pytest.mark.parametrize(
    "change",
    [
        lambda told: {**told, "parts": []},
        lambda told: {**told, "parts": [{**part, "bytes": "many"} for part in told["parts"]]},
        lambda told: {**told, "moment": "soon"},
        lambda told: {**told, "artifacts": {**told["artifacts"], "copies": "elsewhere"}},
        lambda told: {**told, "databases": [{**told["databases"][0], "part": "../../secret"}]},
    ],
)
def test_a_manifest_that_nothing_can_be_made_of_is_told_in_a_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    place = Tree(tmp_path)
    made = a_set(place)
    told = json.loads(made.text())
    del told["digest"]
    told = change(told)
    place.put(made.name, json.dumps({**told, "digest": manifests._digest(told)}).encode())
    with pytest.raises(reading.BrokenBackup, match=r"manifest.json is cut short or was changed"):
        reading.newest(place)


def test_a_list_that_is_one_endless_line_is_not_held_in_memory(tmp_path: Path) -> None:
    place = Tree(tmp_path)
    made = a_set(place, artifacts=b"0" * (8 * 2**20))
    with pytest.raises(
        reading.BrokenBackup, match=r"artifacts.jsonl.zst can't be used: it was changed"
    ) as told:
        list(reading.artifacts(place, made, None))
    # Not because its end was reached and is no artifact.
    frames = [frame for frame in told.traceback if frame.name == "lines"]
    assert frames


def test_a_set_made_by_hand_is_read(tmp_path: Path) -> None:
    # What the others here refuse is only what was changed in it.
    place = Tree(tmp_path)
    made = a_set(place)
    assert dataclasses.replace(reading.newest(place)) == made
    assert reading.damage(place, made) is None
    assert list(reading.artifacts(place, made, None)) == []
