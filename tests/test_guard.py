"""The guard leaves nothing behind, whatever its descendants do and whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import guard

UNRULY = Path(__file__).with_name("unruly.py")


class Guarded:
    """A guard over a process that misbehaves; a variable of their environment tells its descendants."""

    def __init__(self, *behave: str, grace: float = 0.3) -> None:
        self.tag = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(grace), sys.executable, str(UNRULY), *behave],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "UNRULY_TAG": self.tag},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        assert self.process.stdin is not None
        self.input, self.status, self.output = self.process.stdin, self.process.stdout, self.process.stderr
        assert self.output.readline() == b"here\n"

    def living(self) -> list[int]:
        """Every living process of this guard, the guard included."""
        return [
            pid
            for pid in guard.processes()
            if (known := guard.stat(pid))
            and known[0] not in "ZX"
            and guard.environment_of(pid).get("UNRULY_TAG") == self.tag
        ]

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.living()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.status]


@pytest.fixture
def guarded() -> Iterator[Any]:
    made: list[Guarded] = []

    def start(*behave: str, grace: float = 0.3) -> Guarded:
        made.append(Guarded(*behave, grace=grace))
        return made[-1]

    yield start
    for one in made:
        one.input.close()
        one.process.wait(10)
        assert one.living() == []
        for file in (one.status, one.output):
            file.close()


def test_its_own_end_and_code_are_told(guarded: Any) -> None:
    one = guarded("exit", "7")
    assert one.process.wait(60) == guard.EXITED
    assert [event["event"] for event in one.events()] == ["started", "exited", "ended"]


def test_an_exit_code_of_zero_is_told_as_an_exit_too(guarded: Any) -> None:
    one = guarded("exit", "0")
    assert one.process.wait(60) == guard.EXITED
    assert one.events()[1] == {"event": "exited", "code": 0}


def test_what_the_main_process_leaves_is_ended_with_it(guarded: Any) -> None:
    one = guarded("exit", "0", "and leave a daemon")
    assert one.process.wait(60) == guard.EXITED
    assert one.living() == []
    assert one.events()[-1] == {"event": "ended", "killed": 1}


def test_it_stops_in_good_order_when_asked(guarded: Any) -> None:
    one = guarded("obey", grace=30)
    one.input.write(b"stop 20\n")
    one.input.flush()
    assert one.process.wait(60) == guard.ASKED
    assert one.events()[1:] == [
        {"event": "exited", "signal": signal.SIGTERM},
        {"event": "ended", "killed": 0},
    ]


def test_a_stubborn_process_is_killed_after_the_grace_that_was_asked(guarded: Any) -> None:
    one = guarded("stubborn", grace=30)
    began = time.monotonic()
    one.input.write(b"stop 0.5\n")
    one.input.flush()
    assert one.process.wait(60) == guard.ASKED
    assert 0.5 <= time.monotonic() - began < 25
    assert {"event": "exited", "signal": signal.SIGKILL} in one.events()


@pytest.mark.parametrize("how", ["sigterm", "input closed"])
def test_daemons_in_sessions_of_their_own_are_ended_though_they_fork_on(guarded: Any, how: str) -> None:
    one = guarded("brood")
    one.wait_for(8)
    if how == "sigterm":
        one.process.send_signal(signal.SIGTERM)
    else:
        one.input.close()
    assert one.process.wait(60) == (guard.ASKED if how == "sigterm" else guard.ORPHANED)
    assert one.living() == []


def test_the_proxys_death_shortens_the_grace(guarded: Any) -> None:
    one = guarded("stubborn", grace=60)
    one.input.close()
    assert one.process.wait(60) == guard.ORPHANED
    assert one.living() == []


def test_the_proxys_death_is_seen_while_a_long_stop_is_under_way(guarded: Any) -> None:
    one = guarded("stubborn", grace=60)
    one.input.write(b"stop 60\n")
    one.input.flush()
    time.sleep(0.2)
    one.input.close()
    assert one.process.wait(60) == guard.ORPHANED


def test_orphans_are_reaped_while_it_runs(guarded: Any) -> None:
    one = guarded("brood")
    one.wait_for(12)
    orphan = next(pid for pid in one.living() if (guard.stat(pid) or ("", 0))[1] == one.process.pid)
    os.kill(orphan, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{orphan}").exists():
        assert time.monotonic() < deadline, "a zombie is left"
        time.sleep(0.01)


def test_a_command_that_is_not_there_is_told() -> None:
    result = subprocess.run(
        [sys.executable, "-I", "-S", guard.__file__, "1", "/no/such/program"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=10,
    )
    assert result.returncode == guard.NOT_STARTED
    assert json.loads(result.stdout)["error"] == "/no/such/program: No such file or directory"


def test_it_needs_nothing_of_ours_nor_site_packages() -> None:
    names = "import sys; sys.argv = ['']; sys.path.insert(0, sys.path[0]); import runpy; runpy.run_path(%r); "
    code = (
        names % guard.__file__
        + "print([name for name in sys.modules if name.split('.')[0] in ('proxy', 'site')])"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=10
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_job_storage_is_removed_only_where_it_looks_like_it(tmp_path: Path) -> None:
    mine = tmp_path / "tmpabc"
    mine.mkdir(mode=0o700)
    (mine / "queue").write_text("x")
    open_to_all = tmp_path / "tmpopen"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    link = tmp_path / "tmplink"
    link.symlink_to(other)
    assert guard.remove_job_storage(str(mine))
    assert not mine.exists()
    for path in (open_to_all, other, link, tmp_path / "tmpmissing"):
        assert not guard.remove_job_storage(str(path))
    assert not guard.remove_job_storage("tmprelative")
    assert open_to_all.exists()
    assert other.exists()
