"""What the tests of MLflow's life share."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy import guard
from proxy.settings import Settings

HERE = Path(__file__).parent
TOKEN = "the-jobs-token-of-a-test"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's, which pytest's own may not."""
    with tempfile.TemporaryDirectory(prefix="mp-") as path:
        yield Path(path)


def settings_for(place: Path, **more: Any) -> Settings:
    return Settings(
        **{
            "data_dir": place / "data",
            "grace_seconds": 2.0,
            "ready_interval": 0.2,
            "ready_timeout": 1.0,
            **more,
        }
    )


def marked(value: str) -> list[int]:
    """The living processes that carry this in their environment."""
    return [
        pid
        for pid in guard.processes()
        if (known := guard.stat(pid))
        and known[0] not in "ZX"
        and value in guard.environment_of(pid).values()
        and pid != os.getpid()
    ]


def readlink(entry: Path | str) -> str:
    """What a link of /proc says; empty where it is gone."""
    with suppress(OSError):
        return str(Path(entry).readlink())
    return ""


def child(code: str, **more: Any) -> subprocess.Popen[bytes]:
    """A Python process that has begun; end it with kill() and communicate()."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE, **more
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


SLEEP = "import time; time.sleep(600)"


async def until(true: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.01)
    return value
