"""What the tests of MLflow's life share."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from proxy import guard
from proxy.mlflow_server import MlflowServer
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


async def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.01)
    return value


class Life:
    """A MlflowServer over the stand-in, and what it observed."""

    def __init__(self, place: Path, plan: dict[str, Any], **settings: Any) -> None:
        self.place = place
        self.plan_file = place / "plan"
        self.plan(**plan)
        self.events: list[tuple[str, dict[str, Any]]] = []
        (place / "run").mkdir(exist_ok=True)
        (place / "data").mkdir(exist_ok=True)
        given = self.given = {"PYTHONPATH": str(HERE / "fake_mlflow"), "FAKE_PLAN": str(self.plan_file)}
        self.server = MlflowServer(
            settings_for(place, **settings),
            given,
            place / "run",
            1,
            TOKEN,
            lambda event, what: self.events.append((event, what)),
        )

    def plan(self, **plan: Any) -> None:
        new = self.plan_file.with_suffix(".new")
        new.write_text(json.dumps(plan))
        new.replace(self.plan_file)

    def living(self) -> list[int]:
        return marked(str(self.plan_file))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [what for name, what in self.events if name == event]


@asynccontextmanager
async def living(place: Path, plan: dict[str, Any], **settings: Any) -> AsyncIterator[Life]:
    life = Life(place, plan, **settings)
    run = asyncio.create_task(life.server.run())
    try:
        yield life
    finally:
        await life.server.stop(1)
        await run
        assert life.living() == []
        assert list((place / "run").iterdir()) == []
        assert not (place / "data" / "running.json").exists()
