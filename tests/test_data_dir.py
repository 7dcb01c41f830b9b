"""The data directory is one instance's at a time; the runtime directory is private and gone afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import data_dir
from proxy.errors import UserError
from proxy.runtime_dir import remove, runtime_dir


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's, which pytest's own may not."""
    with tempfile.TemporaryDirectory(prefix="mp-") as path:
        yield Path(path)


HOLD = (
    "import sys, pathlib; from proxy import data_dir\n"
    "with data_dir.lock(pathlib.Path(sys.argv[1]), 'https://127.0.0.1:8443'):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_instance_is_refused_with_a_line_that_names_the_first(tmp_path: Path) -> None:
    with hold(tmp_path / "data") as first:
        with pytest.raises(UserError) as refused, data_dir.lock(tmp_path / "data", "https://127.0.0.1:9"):
            pass
        first.communicate()
    said = str(refused.value)
    assert "\n" not in said
    assert re.search(
        rf"pid {first.pid}, https://127\.0\.0\.1:8443, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d", said
    )


def test_a_killed_instance_holds_nothing(tmp_path: Path) -> None:
    with hold(tmp_path / "data") as first:
        first.send_signal(signal.SIGKILL)
        first.wait(30)
    with data_dir.lock(tmp_path / "data", "https://127.0.0.1:9") as places:
        assert f'"pid": {os.getpid()}' in places.lock_file.read_text()


def test_a_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    with data_dir.lock(tmp_path, "a"):
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
            close_fds=False,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        child.stdout.read(1)
    try:
        with data_dir.lock(tmp_path, "b"):
            pass
    finally:
        child.kill()
        child.communicate()


def test_a_new_data_directory_is_private(tmp_path: Path) -> None:
    places = data_dir.prepare(tmp_path / "a" / "b")
    assert places.path.stat().st_mode & 0o7777 == 0o700


def test_a_data_directory_that_no_uri_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PROXY_DATA_DIR"):
        data_dir.prepare(tmp_path / "what?")


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"PROXY_DATA_DIR is .*/file: it can't be made"):
        data_dir.prepare(tmp_path / "file")


def test_the_runtime_directory_is_fresh_private_and_gone_at_the_end(short: Path) -> None:
    with runtime_dir(short / "run") as first, runtime_dir(short / "run") as second:
        assert first != second
        assert first.parent == short / "run"
        assert first.stat().st_mode & 0o7777 == 0o700
        (first / "mlflow.sock").write_text("")
    assert list((short / "run").iterdir()) == []


def test_the_runtime_directory_is_in_xdgs_where_that_can_be_written(short: Path) -> None:
    with runtime_dir(None, {"XDG_RUNTIME_DIR": str(short)}) as path:
        assert path.parent == short
    with runtime_dir(None, {"XDG_RUNTIME_DIR": str(short / "missing")}) as path:
        assert path.parent != short
    with runtime_dir(None, {}) as path:
        assert path.is_dir()


def test_a_runtime_directory_with_too_long_a_path_is_refused_by_name(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    with pytest.raises(UserError, match=r"PROXY_RUNTIME_DIR is .* bytes"), runtime_dir(long):
        pass
    assert list(long.iterdir()) == []


def test_only_a_runtime_directory_is_removed_for_a_killed_instance(tmp_path: Path) -> None:
    ours = tmp_path / "mlflow-proxy-abc"
    ours.mkdir(mode=0o700)
    other = tmp_path / "precious"
    other.mkdir(mode=0o700)
    for path in (ours, other, tmp_path / "mlflow-proxy-missing"):
        remove(path)
    assert not ours.exists()
    assert other.exists()
