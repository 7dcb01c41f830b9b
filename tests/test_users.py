"""The users file: what is read, what is refused and with which advice, and edits that lose nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import bcrypt
import pytest

from proxy.auth import passwords, users
from proxy.auth.users import UsersFile
from proxy.errors import UserError
from proxy.identity import Role

BCRYPT = bcrypt.hashpw(b"seven lamps", bcrypt.gensalt(4)).decode()
ARGON2 = passwords.hash_password("seven lamps")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


def test_roles_come_after_the_hash_and_the_least_where_there_is_none(path: Path) -> None:
    path.write_text(
        f"# the team\n\nann:{ARGON2}:admin\nbob:{BCRYPT}:Editor\r\nzoë:{BCRYPT.replace('$2b', '$2y')}\n"
    )
    assert {name: user.role for name, user in users.read(path).items()} == {
        "ann": Role.ADMIN,
        "bob": Role.EDITOR,
        "zoë": Role.VIEWER,
    }


def test_a_name_is_the_same_however_its_accent_is_written(path: Path) -> None:
    path.write_text(f"zoe\u0308:{BCRYPT}:editor\n")
    assert list(users.read(path)) == ["zo\u00eb"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ann:$apr1$abc$0123456789", "is an MD5 hash (apr1), only argon2 and bcrypt"),
        ("ann:{SHA}0123456789", "is a SHA-1 hash"),
        ("ann:$6$abc$0123456789", "is a SHA-512 hash"),
        ("ann:rqXexS6ZhobKA", "is neither (a crypt hash, or a plain password)"),
        ("ann:", "is empty"),
        (f"ann:{BCRYPT[:-1]}", "is a damaged bcrypt hash"),
        (f"ann:{ARGON2[:-30]}", "argon2 hash that is damaged"),
        ("ann:$argon2id$v=19$m=9999999,t=3,p=4$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdA", "costs over 1 GiB"),
        (f"ann:{BCRYPT.replace('$04$', '$31$')}", "bcrypt hash of cost 31"),
        (f"ann:{BCRYPT}:root", "'root' is not a role: viewer, editor, admin"),
        (f"ann:{BCRYPT}:", "'' is not a role"),
        (f"ann:{BCRYPT}:admin:more", "is not name:hash:role"),
        ("ann", "is not name:hash:role"),
        (f":{BCRYPT}", "the user name is empty"),
        (f"{'a' * 129}:{BCRYPT}", "longer than 128"),
        (f"an\x1bn:{BCRYPT}", "control or invisible character"),
        (f"an\u202en:{BCRYPT}", "control or invisible character"),
        (f"mlflow-jobs:{BCRYPT}", "is the name that this service gives"),
        (f"bob:{BCRYPT}", "'bob' is in line 1 already"),
        (b"\xff\xfe:x", "is not UTF-8"),
    ],
)
def test_a_bad_line_is_refused_with_file_number_and_advice(path: Path, line: str | bytes, said: str) -> None:
    path.write_bytes(f"bob:{BCRYPT}\n\n".encode() + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(UserError) as refusal:
        UsersFile(path)
    assert str(refusal.value).startswith(f"{path} line 3: ")
    assert said in str(refusal.value)


def test_a_hash_that_is_not_taken_comes_with_the_command_to_run_and_is_not_shown(path: Path) -> None:
    path.write_text("ann:hunter2-in-plain\n")
    with pytest.raises(UserError, match="set it again: mlflow-proxy users passwd ann") as refusal:
        users.read(path)
    assert "hunter2" not in str(refusal.value)


def test_every_bad_line_is_named_at_once(path: Path) -> None:
    path.write_text("ann\nbob\n")
    with pytest.raises(UserError, match=r"line 1: (?s:.*)\n.*line 2: "):
        users.read(path)


def test_a_missing_file_is_refused_with_the_command_that_makes_it(path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; make it: mlflow-proxy users add NAME --role admin"):
        UsersFile(path)


# Read again when it changes


def test_a_change_is_in_force_at_once_and_other_users_keep_their_record(path: Path) -> None:
    users.add(path, "ann", "seven lamps", Role.VIEWER)
    users.add(path, "bob", "nine wells", Role.VIEWER)
    file = UsersFile(path)
    before = file.current()
    users.change(path, "ann", role=Role.ADMIN)
    assert file.current()["ann"].role is Role.ADMIN
    assert file.current()["bob"] is before["bob"]
    users.remove(path, "ann")
    assert list(file.current()) == ["bob"]


def test_a_second_change_within_one_tick_of_the_clock_is_seen(path: Path) -> None:
    for _ in range(100):  # as often as it takes for both to fall into one tick
        path.write_text(f"ann:{BCRYPT}\n")
        file = UsersFile(path)
        with path.open("r+") as same_file:  # the same inode and size
            same_file.write("bob")
        assert list(file.current()) == ["bob"]


def test_a_file_that_has_long_lain_still_is_read_again_once_it_changes(path: Path) -> None:
    path.write_text(f"ann:{BCRYPT}:admin\n")
    file = UsersFile(path)
    time.sleep(0.3)  # so long that its times tell of any further change
    assert list(file.current()) == ["ann"]
    path.write_text(f"bob:{BCRYPT}\n")
    deadline = time.monotonic() + 30
    while list(file.current()) != ["bob"]:
        assert time.monotonic() < deadline, "the change is not noticed"


def test_a_file_that_became_wrong_changes_nothing_and_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(f"ann:{BCRYPT}:admin\n")
    file = UsersFile(path)
    path.write_text(f"ann:{BCRYPT}:admin\nbob:plain\n")
    for _ in range(3):
        assert list(file.current()) == ["ann"]
    assert caplog.text.count("stay in force") == 1
    assert "line 2" in (file.problem or "")
    path.unlink()
    assert list(file.current()) == ["ann"]
    assert "does not exist" in (file.problem or "")
    path.write_text(f"bob:{BCRYPT}\n")
    assert list(file.current()) == ["bob"]
    assert file.problem is None


def test_an_empty_file_is_not_taken_for_the_end_of_all_users_while_it_is_being_written(path: Path) -> None:
    path.write_text(f"ann:{BCRYPT}:admin\n")
    file = UsersFile(path)
    path.write_text("")
    assert list(file.current()) == ["ann"]
    os.utime(path, (1, 1))
    assert list(file.current()) == []


# Editing


def test_edits_keep_comments_order_mode_and_the_lines_of_others(path: Path) -> None:
    path.write_text(f"# the team\nann:{BCRYPT}:admin\n\n# guests\nbob:{BCRYPT}:odd\ncleo:{BCRYPT}")
    path.chmod(0o640)
    assert users.add(path, "dan", "seven lamps", Role.EDITOR) == [
        f"{path} line 5: 'odd' is not a role: viewer, editor, admin"
    ]
    users.change(path, "ann", password="nine wells")
    users.remove(path, "cleo")
    lines = path.read_text().split("\n")
    assert [line.split(":")[0] for line in lines] == ["# the team", "ann", "", "# guests", "bob", "dan", ""]
    assert lines[1].endswith(":admin")
    assert lines[4] == f"bob:{BCRYPT}:odd"
    assert path.stat().st_mode & 0o777 == 0o640
    assert passwords.verify(lines[1].split(":")[1], b"nine wells")
    assert [entry.name for entry in path.parent.iterdir()] == ["users"]


def test_a_new_file_is_for_its_owner_alone(path: Path) -> None:
    users.add(path, "ann", "seven lamps", Role.ADMIN)
    assert path.stat().st_mode & 0o777 == 0o600
    assert users.read(path)["ann"].hash.startswith("$argon2id$")


def test_a_line_that_is_wrong_can_be_put_right_or_removed(path: Path) -> None:
    path.write_text("ann:plain:editor\nbob:$apr1$x$y\n")
    assert len(users.change(path, "ann", password="seven lamps")) == 1
    assert users.remove(path, "bob") == []
    assert users.read(path)["ann"].role is Role.EDITOR
    path.write_text(f"ann:{BCRYPT}:odd\n")
    with pytest.raises(UserError, match=r"'odd' is not a role.*say which with --role"):
        users.change(path, "ann", password="seven lamps")
    users.change(path, "ann", role=Role.VIEWER)
    assert users.read(path)["ann"].role is Role.VIEWER


def test_edits_that_make_no_sense_are_refused_and_change_nothing(path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; make it"):
        users.remove(path, "ann")
    assert not path.exists()
    users.add(path, "ann", "seven lamps", Role.ADMIN)
    before = path.read_bytes()
    for edit, said in (
        (lambda: users.add(path, "ann", "nine wells", Role.VIEWER), "already; mlflow-proxy users passwd ann"),
        (lambda: users.add(path, "a:b", "nine wells", Role.VIEWER), "holds a colon"),
        (lambda: users.add(path, "#a", "nine wells", Role.VIEWER), "begins with #"),
        (lambda: users.change(path, "bob", role=Role.ADMIN), "has no user 'bob'"),
        (lambda: users.remove(path, "bob"), "has no user 'bob'"),
    ):
        with pytest.raises(UserError, match=said):
            edit()
    assert path.read_bytes() == before


def test_a_symlink_stays_one(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text(f"ann:{BCRYPT}\n")
    path.symlink_to(target)
    users.change(path, "ann", role=Role.EDITOR)
    assert path.is_symlink()
    assert users.read(target)["ann"].role is Role.EDITOR


def test_editors_at_the_same_time_lose_nothing(path: Path) -> None:
    names = [f"{editor}{number}" for number in range(40) for editor in "abc"]
    path.write_text("".join(f"{name}:{BCRYPT}\n" for name in names))
    program = (
        "import sys\nfrom pathlib import Path\nfrom proxy.auth.users import change\n"
        "from proxy.identity import Role\n"
        "for number in range(40): change(Path(sys.argv[1]), sys.argv[2] + str(number), role=Role.EDITOR)"
    )
    editors = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name], cwd=Path(__file__).parents[1])
        for name in "abc"
    ]
    assert [editor.wait(60) for editor in editors] == [0, 0, 0]
    assert {name for name, user in users.read(path).items() if user.role is Role.EDITOR} == set(names)


@pytest.mark.skipif(shutil.which("htpasswd") is None, reason="needs htpasswd (Debian: apache2-utils)")
def test_htpasswd_leaves_the_other_lines_alone_and_its_user_a_viewer(path: Path) -> None:
    path.write_text(f"# the team\nann:{ARGON2}:admin\nbob:{BCRYPT}:editor\n")
    for name in ("bob", "cleo"):
        subprocess.run(["htpasswd", "-bB", path, name, "seven lamps"], check=True, capture_output=True)
    found = users.read(path)
    assert {name: user.role for name, user in found.items()} == {
        "ann": Role.ADMIN,
        "bob": Role.VIEWER,
        "cleo": Role.VIEWER,
    }
    assert passwords.verify(found["cleo"].hash, b"seven lamps")


# Hashes


def test_both_kinds_of_hash_tell_right_from_wrong() -> None:
    for hash_ in (ARGON2, BCRYPT, BCRYPT.replace("$2b", "$2y")):
        assert passwords.verify(hash_, b"seven lamps")
        assert not passwords.verify(hash_, b"seven lamps ")
        assert not passwords.verify(hash_, b"")


def test_bcrypt_takes_no_password_beyond_the_72_bytes_it_reads() -> None:
    start = "ä" * 36
    hash_ = bcrypt.hashpw(start.encode(), bcrypt.gensalt(4)).decode()
    assert passwords.verify(hash_, start.encode())
    assert not passwords.verify(hash_, f"{start}x".encode())
    assert passwords.verify(passwords.hash_password(f"{start}x"), f"{start}x".encode())
    assert not passwords.verify(passwords.hash_password(f"{start}x"), start.encode())


def test_a_decoy_costs_what_its_model_costs_and_is_nobodys_hash() -> None:
    for hash_ in (ARGON2, BCRYPT):
        decoy = passwords.decoy(hash_)
        kind = passwords.check_hash(decoy)
        assert kind == passwords.check_hash(hash_)
        assert decoy != hash_
        before = passwords.verifications[kind]
        assert not passwords.verify(decoy, b"seven lamps")
        assert passwords.verifications[kind] == before + 1
