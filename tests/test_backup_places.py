"""A directory as the place of backups; the stores have theirs in end_to_end/test_backup_storage.py."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from place_contract import ALL

from proxy.backup.places import Place, PlaceFailed
from proxy.backup.places.tree import Tree


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
def test_a_directory_does_what_every_place_does(tmp_path: Path, check: Callable[[Place], None]) -> None:
    check(Tree(tmp_path / "place"))


def test_what_a_killed_writer_left_is_not_seen_and_is_removed(tmp_path: Path) -> None:
    place = Tree(tmp_path)
    script = (
        "import os, sys\n"
        "from proxy.backup.places.tree import Tree\n"
        "from pathlib import Path\n"
        "sink = Tree(Path(sys.argv[1])).create('sets/one/part')\n"
        "sink.write(b'x' * 100_000)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert len(list(tmp_path.rglob(".part-*"))) == 1
    assert not list(place.entries(""))
    place.tidy("")
    assert not list(tmp_path.rglob(".part-*"))


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "place" / "file").symlink_to(tmp_path / "outside" / "secret")
    place = Tree(tmp_path / "place")
    for _ in range(2):
        assert not list(place.entries(""))
        assert sorted(place.links) == [f"{place.path}/file", f"{place.path}/link"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from proxy.backup.places import PlaceFailed\n"
        "from proxy.backup.places.tree import Tree\n"
        "try:\n"
        "    Tree(Path(sys.argv[1])).put('part', b'x' * 5_000_000)\n"
        "except PlaceFailed as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert f"{tmp_path / 'part'} can't be written" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_place_that_may_not_be_written_is_named() -> None:
    with pytest.raises(PlaceFailed, match="/proc/nothing"):
        Tree(Path("/proc/nothing")).put("part", b"x")
