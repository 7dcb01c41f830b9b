"""Logs in files: opened again when asked, rotated by size, and nothing lost on the way."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from service import running
from test_logs import exchange_of

from proxy.errors import UserError
from proxy.logs import AccessLog
from proxy.logs.file import LogFile


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[int, int], AccessLog]]:
    files = []

    def make(max_size: int, keep: int) -> AccessLog:
        file = LogFile(
            tmp_path / "logs" / "access.log", "PROXY_ACCESS_LOG_FILE", max_size=max_size, keep=keep
        )
        files.append(file)
        return AccessLog("json", file)

    yield make
    for file in files:
        file.close()


def lines(path: Path) -> int:
    """How many whole JSON lines a file has; none may be broken."""
    return len([json.loads(line) for line in path.read_bytes().splitlines()])


def until(happened: Callable[..., bool], look: Callable[[], object] | None = None) -> None:
    """Wait for it; `look` gives what it is asked of."""
    end = time.monotonic() + 30
    while not (happened(look()) if look else happened()):
        assert time.monotonic() < end
        time.sleep(0.01)


def last_path(path: Path) -> str:
    """The path of the request in a file's last line, as it stands there."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return json.dumps(json.loads(path.read_bytes().splitlines()[-1])["path"])
    return ""


def write(log: AccessLog, number: int, path: Path) -> None:
    """Lines that are there when this returns, so that each is a batch of its own."""

    def size() -> int:
        return sum(each.stat().st_size for each in path.parent.iterdir())

    for _ in range(number):
        before = size()
        log.write(exchange_of())
        until(functools.partial(operator.ne, before), size)


def test_a_full_file_gets_a_number_and_so_many_are_kept(
    written: Callable[[int, int], AccessLog], tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "access.log"
    log = written(400, 3)  # less than a line has
    names = ["access.log", "access.log.1", "access.log.2", "access.log.3"]
    for number in range(1, 7):
        log.write(exchange_of("GET", f"/{number}"))
        until(f'"/{number}"'.__eq__, lambda: last_path(path))
        assert sorted(each.name for each in path.parent.iterdir()) == names[:number]
    assert log.close()
    held = [json.loads(path.with_name(name).read_bytes())["path"] for name in names]
    assert held == ["/6", "/5", "/4", "/3"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert log.dropped == 0


def test_none_is_kept_where_none_is_to_be(written: Callable[[int, int], AccessLog], tmp_path: Path) -> None:
    path = tmp_path / "logs" / "access.log"
    log = written(400, 0)
    for number in range(3):
        log.write(exchange_of("GET", f"/{number}"))
        until(f'"/{number}"'.__eq__, lambda: last_path(path))
    assert log.close()
    assert [each.name for each in path.parent.iterdir()] == ["access.log"]
    assert lines(path) == 1


def test_a_renamed_file_is_written_until_it_is_opened_again(
    written: Callable[[int, int], AccessLog], tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "access.log"
    log = written(0, 0)
    write(log, 1, path)
    path.rename(path.with_name("renamed"))
    write(log, 1, path)
    assert not path.exists()
    log.reopen()
    until(path.exists)  # at once, and not with the next line
    write(log, 1, path)
    assert log.close()
    assert lines(path.with_name("renamed")) == 2
    assert lines(path) == 1


def test_a_file_that_was_copied_and_truncated_is_not_taken_for_full(
    written: Callable[[int, int], AccessLog], tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "access.log"
    log = written(2000, 5)
    for _ in range(4):
        write(log, 1, path)
        os.truncate(path, 0)
    assert log.close()
    assert [each.name for each in path.parent.iterdir()] == ["access.log"]


def test_where_it_can_be_neither_renamed_nor_opened_again_the_lines_go_on(
    written: Callable[[int, int], AccessLog], tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "access.log"
    log = written(400, 1)
    write(log, 1, path)
    path.with_name("access.log.1").mkdir()
    (path.with_name("access.log.1") / "in the way").touch()
    write(log, 3, path)
    assert lines(path) == 4
    moved = path.parent.rename(tmp_path / "elsewhere")
    log.reopen()
    log.write(exchange_of())
    until(lambda: lines(moved / "access.log") == 5)
    assert log.close()
    assert log.dropped == 0


def test_a_file_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"PROXY_LOG_FILE is .*: it can't be written \(Is a directory\)"):
        LogFile(tmp_path, "PROXY_LOG_FILE", max_size=0, keep=0)


def test_both_logs_of_a_service_go_on_in_new_files_at_sigusr1(tmp_path: Path) -> None:
    access, application = tmp_path / "a.log", tmp_path / "b.log"
    files = {"PROXY_ACCESS_LOG_FILE": str(access), "PROXY_LOG_FILE": str(application)}
    # A MLflow that ends at once: what it writes and becomes is no matter here.
    fake = {"PYTHONPATH": str(Path(__file__).with_name("fake_mlflow")), "PROXY_TLS": "off"}
    with running(tmp_path / "service", ready=False, **files, **fake) as service:
        until(lambda: access.exists() and lines(access) > 0)
        for path in (access, application):
            path.rename(path.with_suffix(".old"))
        service.process.send_signal(signal.SIGUSR1)
        until(lambda: access.exists() and application.exists())
        service.wait_alive()
        until(lambda: lines(access) > 0)
        assert service.process.poll() is None
        assert not service.access_log()  # nothing on standard output
    assert lines(application) > 0  # of its end
