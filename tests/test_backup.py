"""`mlflow-proxy backup` and `restore` over a directory: what is in a set, and that it comes back."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backup_site import Site, site, tree
from programs import needs
from service import free_port

from proxy.backup import databases, lease, places, reading, sealing, state, streams
from proxy.backup.lease import LeaseLost
from proxy.backup.places.tree import Tree
from proxy.backup.progress import Progress
from proxy.backup.streams import BrokenBackup
from proxy.errors import UserError


@pytest.fixture
def made(tmp_path: Path) -> Site:
    return site(tmp_path / "site")


def file_of(made: Site, name: str) -> Path:
    """Where a part of the newest set lies."""
    return Path(made.place.text) / "sets" / made.newest().set / name


# ---- What comes back ----


@pytest.mark.parametrize("sealed", [True, False], ids=["encrypted", "not encrypted"])
def test_what_was_backed_up_comes_back_table_by_table_and_file_by_file(tmp_path: Path, sealed: bool) -> None:
    made = site(tmp_path / "site", sealed=sealed)
    said = made.run("backup", "--artifacts")
    assert ("is not encrypted" in said) is not sealed
    manifest = made.newest()
    assert [entry.role for entry in manifest.databases] == ["tracking", "proxy"]
    assert manifest.databases[0].tables == made.tables()
    assert manifest.encryption == ((made.public,) if sealed else ())

    other = made.elsewhere(tmp_path / "other")
    said = other.run("restore", "--yes")
    assert "2 tables, 2001 rows" in said
    assert other.tables() == made.tables()
    assert other.tables("proxy.db") == made.tables("proxy.db")
    assert tree(other.artifacts) == tree(made.artifacts)
    assert not (other.data / "backup" / "restore.json").exists()


def test_nothing_of_the_data_can_be_read_where_backups_are_encrypted(made: Site) -> None:
    made.artifact("1/secret.txt", b"the-secret-content " * 1000)
    made.run("backup", "--artifacts")
    for path in Path(made.place.text).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert path.name.endswith(".age") or b"run-" not in data
            assert b"secret-content" not in data
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = made.run("backup", "verify")
    assert "is as it was written" in said


@needs("age", "age-keygen", "zstd")
def test_the_age_program_opens_it_too_and_makes_keys_for_it(made: Site, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.key"
    subprocess.run(["age-keygen", "--output", theirs], check=True, capture_output=True)
    public = subprocess.run(["age-keygen", "-y", theirs], check=True, capture_output=True, text=True).stdout
    made.run("backup", PROXY_BACKUP_RECIPIENT=f"{made.public},{public.strip()}")
    part = file_of(made, "tracking.dump.zst.age")
    opened = []
    for key in (made.key_file, theirs):
        # As docs/disaster-recovery.md says it.
        line = f"age --decrypt --identity {key} {part} | zstd --decompress"
        opened.append(subprocess.run(["sh", "-c", line], check=True, capture_output=True).stdout)
    assert opened[0] == opened[1]
    (tmp_path / "by-hand.db").write_bytes(opened[0])
    assert databases.facts(f"sqlite:///{tmp_path / 'by-hand.db'}").tables == made.tables()
    other = made.elsewhere(tmp_path / "other")
    other.run("restore", "--yes", PROXY_BACKUP_IDENTITY_FILE=str(theirs))
    assert other.tables() == made.tables()


def test_the_list_names_every_artifact_with_its_size_and_digest(made: Site) -> None:
    made.run("backup")
    manifest = made.newest()
    assert manifest.artifacts is not None
    assert not manifest.artifacts.copied
    listed = {one.path: one for one in reading.artifacts(made.place, manifest, made.key)}
    assert {path: one.digest for path, one in listed.items()} == tree(made.artifacts)
    assert all(one.size == (made.artifacts / path).stat().st_size for path, one in listed.items())
    # A second run reads no file again that has not changed.
    changed = "1/run-1/artifacts/model.bin"
    made.artifact(changed, b"another")
    made.run("backup")
    again = {one.path: one.digest for one in reading.artifacts(made.place, made.newest(), made.key)}
    assert again == tree(made.artifacts)
    assert again[changed] != listed[changed].digest


def test_links_among_the_artifacts_are_named(made: Site) -> None:
    (made.artifacts / "2").symlink_to(made.folder)
    said = made.run("backup")
    assert f"not in it: what 1 symbolic links among the artifacts lead to ({made.artifacts / '2'})" in said


def test_artifacts_are_copied_once_and_each_set_keeps_what_it_had(made: Site, tmp_path: Path) -> None:
    made.run("backup", "--artifacts")
    first, before = made.newest(), tree(made.artifacts)
    copies = set(Path(made.place.text).glob("artifacts/??/*"))
    assert len(copies) == len(before)
    made.artifact("1/run-1/artifacts/model.bin", b"trained again".ljust(3000))
    (made.artifacts / "1/run-2/artifacts/model.bin").unlink()
    assert "1 of them, 3.0 KB, were not copied before" in made.run("backup", "--artifacts")
    assert len(set(Path(made.place.text).glob("artifacts/??/*")) - copies) == 1

    old, new = made.elsewhere(tmp_path / "old"), made.elsewhere(tmp_path / "new")
    old.run("restore", first.set, "--yes")
    new.run("restore", "--yes")
    assert tree(old.artifacts) == before
    assert tree(new.artifacts) == tree(made.artifacts)


def test_another_key_means_new_copies(made: Site, tmp_path: Path) -> None:
    made.run("backup", "--artifacts")
    made.public, secret = sealing.keygen()
    made.key_file.write_text(secret)
    made.environment["PROXY_BACKUP_RECIPIENT"] = made.public
    made.run("backup", "--artifacts")
    other = made.elsewhere(tmp_path / "other")
    other.run("restore", "--yes")
    assert tree(other.artifacts) == tree(made.artifacts)


def test_a_database_that_is_written_to_meanwhile_is_one_moments(made: Site, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(made.data / "mlflow.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        with made.start("backup") as process:
            number = 0
            while process.poll() is None:
                # Both rows of a pair, or none of them.
                with database:
                    for half in "ab":
                        database.execute(
                            "INSERT INTO runs VALUES (?,?,0,x'00')", (f"pair-{number}-{half}", number)
                        )
                number += 1
            assert process.returncode == 0, process.communicate()
    other = made.elsewhere(tmp_path / "other")
    other.run("restore", "--yes")
    with contextlib.closing(sqlite3.connect(other.data / "mlflow.db")) as database:
        (pairs,) = database.execute("SELECT count(*) FROM runs WHERE id LIKE 'pair-%'").fetchone()
    assert pairs % 2 == 0
    assert other.tables() == dict(made.newest().databases[0].tables)


# ---- What is not taken for a backup ----


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "was changed": lambda path: flip(path),
    "is missing": lambda path: path.unlink(),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "part"),
    [*((how, "tracking.dump.zst.age") for how in DAMAGE), ("was changed", "artifacts.jsonl.zst.age")],
)
def test_a_damaged_part_is_named_and_nothing_is_touched(
    made: Site, tmp_path: Path, how: str, part: str
) -> None:
    made.run("backup")
    DAMAGE[how](file_of(made, part))
    assert how in made.run("backup", "verify", fails=True)
    other = made.elsewhere(tmp_path / "other")
    said = other.run("restore", "--yes", fails=True)
    assert how in said
    assert part in said
    assert not (other.data / "mlflow.db").exists()
    assert not (other.data / "proxy.db").exists()


@pytest.mark.parametrize("how", ["cut short", "was changed"])
def test_a_damaged_manifest_is_named_and_no_older_set_taken_in_its_stead(
    made: Site, tmp_path: Path, how: str
) -> None:
    made.run("backup")
    made.run("backup")
    manifest = file_of(made, "manifest.json")
    text = manifest.read_text()
    manifest.write_text(
        text[: len(text) // 2] if how == "cut short" else text.replace('"rows": 2000', '"rows": 1')
    )
    other = made.elsewhere(tmp_path / "other")
    # What is cut is no JSON any more; a changed one has another digest.
    assert "changed" in other.run("restore", "--yes", fails=True)
    assert str(manifest) in made.run("backup", "list")
    assert not (other.data / "mlflow.db").exists()


def test_a_part_with_the_right_digest_that_is_not_encrypted_to_us_is_refused(
    made: Site, tmp_path: Path
) -> None:
    made.run("backup")
    other = made.elsewhere(tmp_path / "other")
    keyless = {"PROXY_BACKUP_IDENTITY_FILE": ""}
    said = other.run("restore", "--yes", fails=True, **keyless)
    assert "PROXY_BACKUP_IDENTITY_FILE" in said
    assert made.public in said
    wrong = tmp_path / "wrong.key"
    made.run("backup", "keygen", str(wrong))
    said = other.run("restore", "--yes", fails=True, PROXY_BACKUP_IDENTITY_FILE=str(wrong))
    assert "encrypted to other keys" in said
    (tmp_path / "none.key").write_text("no key")
    said = other.run("restore", "--yes", fails=True, PROXY_BACKUP_IDENTITY_FILE=str(tmp_path / "none.key"))
    assert "holds no secret key" in said
    assert not (other.data / "mlflow.db").exists()
    # What is there goes for what can be read alone.
    replace = {"PROXY_BACKUP_IDENTITY_FILE": str(wrong), "PROXY_BACKUP_DESTINATION": made.place.text}
    before = made.tables()
    assert "encrypted to other keys" in made.run(
        "restore", "--yes", "--replace-what-is-there", fails=True, **replace
    )
    assert made.tables() == before


def test_a_missing_copy_is_named_with_its_artifact(made: Site, tmp_path: Path) -> None:
    made.run("backup", "--artifacts")
    manifest = made.newest()
    gone = next(
        one for one in reading.artifacts(made.place, manifest, made.key) if one.path.endswith("%.txt")
    )
    (Path(made.place.text) / gone.copy).unlink()
    other = made.elsewhere(tmp_path / "other")
    said = other.run("restore", "--yes", fails=True)
    assert gone.path in said
    assert "is missing" in said
    assert not (other.data / "mlflow.db").exists()
    # The next backup sees that it is gone, and copies it again.
    made.run("backup", "--artifacts")
    other.run("restore", "--yes")
    assert tree(other.artifacts) == tree(made.artifacts)


def test_a_changed_copy_does_not_become_an_artifact(made: Site, tmp_path: Path) -> None:
    made.run("backup", "--artifacts")
    one = next(
        one for one in reading.artifacts(made.place, made.newest(), made.key) if one.path.endswith("%.txt")
    )
    flip(Path(made.place.text) / one.copy)
    other = made.elsewhere(tmp_path / "other")
    assert one.copy in other.run("restore", "--yes", fails=True)
    assert one.path not in tree(other.artifacts)


def test_what_is_left_of_the_artifacts_comes_back_where_that_is_asked_for(made: Site, tmp_path: Path) -> None:
    made.run("backup", "--artifacts")
    listed = {one.path: one for one in reading.artifacts(made.place, made.newest(), made.key)}
    changed, gone = (f"1/run-{number}/artifacts/model.bin" for number in (3, 4))
    flip(Path(made.place.text) / listed[changed].copy)
    (Path(made.place.text) / listed[gone].copy).unlink()
    other = made.elsewhere(tmp_path / "other")
    assert "--without-damaged-artifacts" in other.run("restore", "--yes", fails=True)
    said = other.run("restore", "--yes", "--without-damaged-artifacts")
    assert f"left out: the artifact {changed}: " in said
    assert f"left out: the artifact {gone}: " in said
    assert "2 of 13 artifacts are left out" in said
    assert tree(made.artifacts).keys() - tree(other.artifacts).keys() == {changed, gone}
    assert tree(other.artifacts).items() <= tree(made.artifacts).items()


@pytest.mark.parametrize("sealed", [True, False], ids=["encrypted", "not encrypted"])
def test_another_parts_content_under_its_name_is_refused(tmp_path: Path, sealed: bool) -> None:
    place = Tree(tmp_path)
    public, secret = sealing.keygen()
    (tmp_path / "key").write_text(secret)
    key = sealing.identity(tmp_path / "key")
    name = "one.zst.age" if sealed else "one.zst"
    keys = sealing.recipients([public]) if sealed else ()
    kept: list[streams.Stored] = []
    # The second lies there, whole and of the first one's size; age makes a head of this length or that.
    while not kept or kept[0].bytes != kept[-1].bytes or kept[0].plain_digest == kept[-1].plain_digest:
        with streams.writing(place, name, keys, lambda _: None) as (writer, one):
            writer.write((b"2" if kept else b"1") * 1000)
        kept.append(one.stored)
    assert "was changed" in str(streams.damage(place, kept[0], lambda _: None))
    with (
        pytest.raises(BrokenBackup, match="its digest is not"),
        streams.reading(place, kept[0], key) as reader,
    ):
        assert reader.read(1) == b"2"
    with streams.reading(place, kept[-1], key) as reader:
        assert reader.read(10_000) == b"2" * 1000


# ---- Breaking off ----


def begun(process: subprocess.Popen[str], sign: Path) -> float:
    """When it was seen that it is at it; the process may have ended by then."""
    while process.poll() is None and not sign.exists():
        time.sleep(0.002)
    return time.monotonic()


def test_killed_at_ten_moments_nothing_half_made_is_taken_for_whole(tmp_path: Path) -> None:
    made = site(tmp_path / "site", rows=20_000, artifacts=150)
    made.run("backup", "--artifacts")
    destination = Path(made.place.text)
    lock = destination / "lock.json"
    with made.start("backup", "--artifacts") as process:
        since = begun(process, lock)
        process.communicate()
        takes = time.monotonic() - since
    chance = random.Random(9)
    cut = 0
    for number in range(10):
        made.artifact(f"2/run-{number}/big.bin", chance.randbytes(400_000))
        with made.start("backup", "--artifacts") as process:
            begun(process, lock)
            time.sleep(chance.random() * takes)
            process.kill()
            process.communicate()
        cut += process.returncode == -signal.SIGKILL
        for one in reading.sets(made.place):
            assert reading.damage(made.place, one) is None
        assert not reading.unreadable(made.place)
    assert cut, "none was killed before its end"
    left = lock.exists()
    assert ("taken over" in made.run("backup", "--artifacts")) is left
    # What the killed ones left is gone.
    folders = {path.name for path in (destination / "sets").iterdir()}
    assert folders == {one.set for one in reading.sets(made.place)}
    assert not list(destination.rglob(".part-*"))
    assert not list((made.data / "backup").glob("scratch-*"))
    other = made.elsewhere(tmp_path / "other")
    other.run("restore", "--yes")
    assert other.tables() == made.tables()
    assert tree(other.artifacts) == tree(made.artifacts)


def test_what_a_killed_one_left_goes_with_the_next(made: Site) -> None:
    destination = Path(made.place.text)
    left = (
        destination / "sets/20200101T000000Z-abcdef/tracking.dump.zst.age",
        destination / "sets/20200101T000000Z-abcdef/.part-mlflow-proxy-x1",
        destination / "artifacts/ab/.part-mlflow-proxy-x2",
        destination / ".part-mlflow-proxy-x3",
        made.data / "backup/scratch-x4/tracking/mlflow.db",
    )
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    (destination / "sets/20200102T000000Z-abcdef").mkdir()
    (destination / "other people's").mkdir()
    said = made.run("backup")
    assert "20200101T000000Z-abcdef had broken off" in said
    assert not [path for path in left if path.exists()]
    assert (destination / "other people's").exists()
    assert {path.name for path in (destination / "sets").iterdir()} == {made.newest().set}


def test_a_restore_that_is_killed_goes_on(tmp_path: Path) -> None:
    made = site(tmp_path / "site", rows=20_000, artifacts=150)
    made.run("backup", "--artifacts")
    other = made.elsewhere(tmp_path / "other")
    chance = random.Random(5)
    journal = other.data / "backup" / "restore.json"
    for _ in range(5):
        with other.start("restore", "--yes") as process:
            begun(process, journal)
            time.sleep(chance.random() * 0.3)
            process.kill()
            process.communicate()
        if not journal.exists():
            break  # that one had come to its end
    else:
        assert "goes on where it was" in other.run("restore", "--yes")
    assert other.tables() == made.tables()
    assert other.tables("proxy.db") == made.tables("proxy.db")
    assert tree(other.artifacts) == tree(made.artifacts)
    assert not journal.exists()


def test_nothing_starts_on_what_a_restore_has_not_finished(made: Site, tmp_path: Path) -> None:
    made.run("backup", "--artifacts")
    one = next(
        one for one in reading.artifacts(made.place, made.newest(), made.key) if one.path.endswith("%.txt")
    )
    flip(Path(made.place.text) / one.copy)
    other = made.elsewhere(tmp_path / "other")
    other.run("restore", "--yes", fails=True)
    for command in ("serve", "backup"):
        said = other.run(command, fails=True, MLFLOW_PORT=str(free_port()))
        assert f"`mlflow-proxy restore {made.newest().set}`" in said
        assert str(other.data / "backup" / "restore.json") in said
    # Without what it could not bring, it comes to its end; what was emptied since is brought again.
    (other.data / "mlflow.db").unlink()
    assert "done already" in other.run("restore", "--yes", "--without-artifacts")
    assert not (other.data / "backup" / "restore.json").exists()
    assert other.tables() == made.tables()


def test_asked_to_end_it_leaves_no_set_and_no_lock(tmp_path: Path) -> None:
    made = site(tmp_path / "site", artifacts=3)
    made.artifact("1/large.bin", os.urandom(150_000_000))
    destination = Path(made.place.text)
    with made.start("backup", "--artifacts") as process:
        # The databases are in it, and the large artifact is on its way.
        while not list(destination.glob("artifacts/*/.part-*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 143
    # Whole copies of small artifacts may stay: the next run need not make them again.
    left = {path.relative_to(destination).parts[0] for path in destination.rglob("*") if path.is_file()}
    assert left <= {"artifacts"}
    assert not list(destination.rglob(".part-*"))


def test_a_file_that_can_not_be_written_is_named(made: Site) -> None:
    destination = Path(made.place.text)
    destination.parent.joinpath("backups").write_text("a file")
    said = made.run("backup", fails=True)
    assert str(destination) in said
    found = state.read(made.data)["backup"]
    assert found["error"]
    assert "last_success" not in found


def test_a_data_directory_without_room_for_what_is_needed_meanwhile_is_named(made: Site) -> None:
    (made.data / "backup").write_text("a file where there should be a directory")
    said = made.run("backup", fails=True)
    assert f"PROXY_DATA_DIR is {made.data}: files that are needed meanwhile" in said
    assert not reading.sets(made.place)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: it can't make files for another user")
def test_root_does_not_shut_the_services_user_out(made: Site, tmp_path: Path) -> None:
    os.chown(made.data, 65534, 65534)
    made.run("backup")
    for path in (made.data / "backup", state.file(made.data)):
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)
    other = made.elsewhere(tmp_path / "other")
    other.data.mkdir()
    os.chown(other.data, 65534, 65534)
    assert f"chown -R 65534:65534 {other.data}" in other.run("restore", "--yes")


# ---- One at a time ----


def test_a_second_one_is_refused_and_told_who_is_at_it(made: Site) -> None:
    with lease.held(made.place, print):
        said = made.run("backup", fails=True)
        assert f"process {os.getpid()} on" in said
        assert "another backup runs" in said
    assert not reading.sets(made.place)
    made.run("backup")


@pytest.fixture
def shared(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "shared")


def elsewhere(place: Tree) -> None:
    """The lock's holder looks as if it were on another machine."""
    found = place.get(lease.NAME)
    assert found is not None
    body = {**json.loads(found[0]), "machine": "another", "host": "other-host"}
    assert place.exchange(lease.NAME, json.dumps(body).encode(), found[1])


def test_another_hosts_lock_holds_while_it_is_renewed(shared: Tree) -> None:
    place = Tree(shared.path)
    with lease.held(place, print, seconds=4) as held:
        elsewhere(place)
        # Its holder finds its own name in it at the next renewal, and goes on.
        with pytest.raises(UserError, match="another backup runs"), lease.held(shared, print, seconds=60):
            pass
        held.check()


def test_the_lock_of_a_dead_host_is_taken_when_nobody_has_renewed_it(shared: Tree) -> None:
    said: list[str] = []
    shared.put(
        lease.NAME,
        json.dumps({"id": "x", "machine": "gone", "pid": 1, "host": "dead", "since": 1e9}).encode(),
    )
    with lease.held(shared, said.append, seconds=1) as held:
        held.check()
    assert any("dead" in line and "taken over" in line for line in said)
    assert shared.get(lease.NAME) is None


def checked_until_lost(held: lease.Lease) -> None:
    while True:
        held.check()
        time.sleep(0.05)


def test_who_has_lost_the_lock_finishes_nothing(shared: Tree) -> None:
    with lease.held(shared, print, seconds=2) as held:
        shared.remove(lease.NAME)
        assert shared.put_new(lease.NAME, b'{"id": "another"}')
        with pytest.raises(LeaseLost):
            checked_until_lost(held)
    # It is the other's now.
    assert shared.get(lease.NAME) is not None


# ---- What is asked, and refused ----


def test_a_database_that_is_not_empty_is_left_alone_unless_told_in_words(made: Site, tmp_path: Path) -> None:
    made.run("backup")
    other = site(tmp_path / "second" / "site", rows=10, artifacts=1)
    other.environment = made.elsewhere(tmp_path / "unused").environment
    before = other.tables()
    said = other.run("restore", "--yes", fails=True)
    assert "mlflow.db is not empty" in said
    assert "--replace-what-is-there" in said
    assert other.tables() == before
    said = other.run("restore", "--yes", "--replace-what-is-there")
    assert "EMPTIED" in said
    assert other.tables() == made.tables()


def test_an_artifact_store_that_is_not_empty_is_left_alone_unless_told_in_words(
    made: Site, tmp_path: Path
) -> None:
    made.run("backup", "--artifacts")
    other = made.elsewhere(tmp_path / "other")
    other.artifact("1/run-1/artifacts/model.bin", b"another")
    other.artifact("mine.txt", b"mine")
    said = other.run("restore", "--yes", fails=True)
    assert "artifacts is not empty" in said
    assert "--without-artifacts" in said
    assert not (other.data / "mlflow.db").exists()
    other.run("restore", "--yes", "--replace-what-is-there")
    mine = tree(other.artifacts).keys() - tree(made.artifacts).keys()
    assert mine == {"mine.txt"}
    assert tree(made.artifacts).items() <= tree(other.artifacts).items()


def test_nothing_is_restored_where_nobody_says_yes(made: Site, tmp_path: Path) -> None:
    made.run("backup")
    other = made.elsewhere(tmp_path / "other")
    said = other.run("restore", fails=True)
    assert "2 tables, 2001 rows" in said
    assert "--yes" in said
    assert not (other.data / "mlflow.db").exists()


def test_another_kind_of_database_is_refused_with_the_reason(made: Site, tmp_path: Path) -> None:
    made.run("backup")
    other = made.elsewhere(tmp_path / "other")
    said = other.run(
        "restore", "--yes", fails=True, MLFLOW_BACKEND_STORE_URI="postgresql://me:hidden@127.0.0.1:9/mlflow"
    )
    assert "MLFLOW_BACKEND_STORE_URI" in said
    assert "of the kind postgresql" in said
    assert "dump of sqlite" in said
    assert "hidden" not in said


def test_a_database_that_can_not_be_written_is_named_with_its_setting(made: Site, tmp_path: Path) -> None:
    made.run("backup")
    other = made.elsewhere(tmp_path / "other")
    said = other.run("restore", "--yes", fails=True, MLFLOW_BACKEND_STORE_URI="sqlite:////proc/mlflow.db")
    assert "MLFLOW_BACKEND_STORE_URI: the database /proc/mlflow.db: it can't be written" in said


def test_two_databases_are_not_restored_into_one(made: Site, tmp_path: Path) -> None:
    made.run("backup")
    other = made.elsewhere(tmp_path / "other")
    one = f"sqlite:///{other.data / 'both.db'}"
    said = other.run("restore", "--yes", fails=True, MLFLOW_BACKEND_STORE_URI=one, PROXY_DATABASE_URL=one)
    assert "let the settings name as many" in said
    assert not (other.data / "both.db").exists()


def test_a_part_of_a_set_can_be_left_out(made: Site, tmp_path: Path) -> None:
    made.run("backup", "--artifacts")
    other = made.elsewhere(tmp_path / "other")
    assert "write one of" in other.run("restore", "--yes", "--without", "all", fails=True)
    other.run("restore", "--yes", "--without", "proxy", "--without-artifacts")
    assert other.tables() == made.tables()
    assert not (other.data / "proxy.db").exists()
    assert not other.artifacts.exists()


def test_a_database_of_mlflows_permissions_is_in_the_set(made: Site, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(made.folder / "permissions.db")) as database, database:
        database.execute("CREATE TABLE users (id INTEGER, name TEXT)")
        database.execute("INSERT INTO users VALUES (1, 'alice')")
    config = made.folder / "auth.ini"
    config.write_text(f"[mlflow]\ndatabase_uri = sqlite:///{made.folder / 'permissions.db'}\n")
    made.environment["MLFLOW_AUTH_CONFIG_PATH"] = str(config)
    made.run("backup")
    entry = made.newest().database("permissions")
    assert entry is not None
    assert entry.tables["users"].rows == 1


def test_one_database_with_two_tasks_is_dumped_once(made: Site) -> None:
    (made.data / "proxy.db").unlink()
    made.environment["PROXY_DATABASE_URL"] = f"sqlite:///{made.data}/../mlflow-data/mlflow.db"
    made.run("backup")
    (entry,) = made.newest().databases
    assert entry.roles == ("tracking", "proxy")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PROXY_BACKUP_DESTINATION": ""}, "PROXY_BACKUP_DESTINATION is not set"),
        ({"PROXY_BACKUP_DESTINATION": "ftp://host/x"}, "ftp:// is not known"),
        ({"PROXY_BACKUP_DESTINATION": "wasbs://container/path"}, "is not wasbs://container@account"),
        ({"PROXY_BACKUP_DESTINATION": "mlflow-data/artifacts/backups"}, "lies among the artifacts"),
        ({"PROXY_BACKUP_RECIPIENT": "age1nonsense"}, "is no public key"),
        ({"PROXY_BACKUP_RECIPIENT": "me@example.com"}, "is no public key"),
        ({"PROXY_BACKUP_KEEP_DAILY": "-1"}, "is not a whole number"),
        (
            {"MLFLOW_BACKEND_STORE_URI": "sqlite:////no/such/mlflow.db"},
            "MLFLOW_BACKEND_STORE_URI: the database /no/such/mlflow.db: there is no such file",
        ),
        ({"MLFLOW_AUTH_CONFIG_PATH": "/no/such/file"}, "MLFLOW_AUTH_CONFIG_PATH"),
    ],
)
def test_a_wrong_setting_is_named(made: Site, settings: dict[str, str], said: str) -> None:
    assert said in made.run("backup", fails=True, **settings)


def test_a_secret_key_in_place_of_the_public_one_is_refused_and_not_shown(made: Site) -> None:
    secret = made.key_file.read_text().splitlines()[-1]
    said = made.run("backup", fails=True, PROXY_BACKUP_RECIPIENT=secret)
    assert "that is a secret key" in said
    assert secret not in said


def test_a_key_is_never_written_over(made: Site) -> None:
    before = made.key_file.read_text()
    assert "can't be made" in made.run("backup", "keygen", str(made.key_file), fails=True)
    assert made.key_file.read_text() == before
    said = made.run("backup", "keygen", "new.key")
    assert said.startswith("PROXY_BACKUP_RECIPIENT=age1")
    assert stat.S_IMODE((made.folder / "new.key").stat().st_mode) == 0o600


def test_what_came_of_it_is_noted_for_the_metrics(made: Site) -> None:
    made.run("backup")
    manifest, found = made.newest(), state.read(made.data)["backup"]
    assert found["last_success"] == manifest.moment
    assert found["set"] == manifest.set
    assert found["error"] is None
    made.run("backup", fails=True, PROXY_BACKUP_DESTINATION="/proc/nothing")
    later = state.read(made.data)["backup"]
    assert later["last_success"] == manifest.moment
    assert "/proc/nothing" in later["error"]
    # Figures that nobody can write hide neither what went wrong nor what went well.
    nowhere = {"PROXY_BACKUP_METRICS_FILE": "/proc/nothing.prom"}
    said = made.run("backup", fails=True, PROXY_BACKUP_DESTINATION="/proc/nothing", **nowhere)
    assert said.endswith("lock.json can't be written: No such file or directory\n")
    said = made.run("backup", fails=True, **nowhere)
    assert f"{made.newest().set}, " in said
    assert "PROXY_BACKUP_METRICS_FILE: /proc/nothing.prom can't be written" in said


def test_the_secrets_that_are_not_in_it_are_named(made: Site) -> None:
    (made.data / "gateway-secrets.passphrase").write_text("x")
    assert "not in it: gateway-secrets.passphrase" in made.run("backup")


def test_a_name_that_leads_out_of_the_place_is_refused(tmp_path: Path) -> None:
    place = places.open_place(str(tmp_path), {})
    for name in ("../x", "a/../../x", "/etc/x"):
        with pytest.raises(UserError):
            place.put(name, b"x")


def test_it_tells_how_far_it_is_and_how_long_it_will_take() -> None:
    said: list[str] = []
    live: list[str] = []
    progress = Progress(said.append, live.append)
    progress.stage("tracking", 10_000)
    while not live:
        time.sleep(0.05)
        progress.tick(1)
    assert re.fullmatch(r"tracking: \d+ B of about 10\.0 KB, about [\d.]+ (s|min|h) left", live[0])
    progress.end()
    assert re.fullmatch(r"tracking: \d+ B in \d+ s", said[0])
