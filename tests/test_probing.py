"""What is wrong with MLflow is noticed within a round and called by its name, and to ask takes no place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow_helpers import until

from proxy.http1 import fetch
from proxy.mlflow_server import readiness
from proxy.mlflow_server.probing import PROBLEMS, STUCK, Probe, Problem, Replacing

HERE = Path(__file__).parent
URI = "postgresql://me:secret-word@db:7/x"
PACE = (0.05, 1.0)


class Workers:
    """Processes behind a socket that misbehave as they are told."""

    def __init__(self, place: Path, number: int) -> None:
        self.socket = place / "m.sock"
        self._plan = place / "plan"
        self.plan()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fake_workers.py"), str(self.socket), str(number), str(self._plan)],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.pids: list[int] = json.loads(self.process.stdout.readline())

    def plan(self, **plan: Any) -> None:
        new = self._plan.with_suffix(".new")
        new.write_text(json.dumps(plan))
        new.replace(self._plan)

    async def at_work(self) -> int:
        _, body = await fetch(self.socket, "GET", "/asked", timeout=20)
        number: int = json.loads(body)["at_work"]
        return number

    def end(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Looks:
    """A Probe, and its rounds one by one."""

    def __init__(self, probe: Probe, rounds: AsyncIterator[Problem | None], noticed: Counter[str]) -> None:
        self.probe = probe
        self.noticed = noticed
        self._rounds = rounds

    async def until(self, kind: str | None, seconds: float = 60) -> Problem | None:
        """The first round with that finding."""
        async with asyncio.timeout(seconds):
            async for problem in self._rounds:
                if (None if problem is None else problem.kind) == kind:
                    return problem
        raise AssertionError("the rounds ended")


@asynccontextmanager
async def looking(place: Path, number: int = 1) -> AsyncIterator[tuple[Workers, Looks]]:
    workers = Workers(place, number)
    noticed: Counter[str] = Counter()
    probe = Probe(workers.socket, URI, number, lambda: PACE, noticed)
    try:
        async with aclosing(probe.looks()) as rounds:
            looks = Looks(probe, rounds, noticed)
            assert await looks.until(None) is None
            yield workers, looks
    finally:
        workers.end()


def test_a_frozen_database_is_noticed_and_so_is_its_thaw(tmp_path: Path) -> None:
    async def run() -> None:
        async with looking(tmp_path) as (workers, looks):
            workers.plan(hold=True)
            problem = await looks.until("frozen")
            assert problem is not None
            assert {problem.kind} <= STUCK <= PROBLEMS
            assert problem.text == "a call that reaches the database at db:7 was not answered within 1 s"
            for _ in range(4):
                await looks.until("frozen")
            assert looks.probe.stuck_for > 1.5
            assert await workers.at_work() == 1, (
                "each question that is given up keeps one of MLflow's threads"
            )
            workers.plan()
            await looks.until(None)
            assert looks.probe.stuck_for == 0
            assert looks.noticed == {"frozen": 1}

    asyncio.run(run())


def test_a_socket_that_accepts_and_says_nothing_is_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        async with looking(tmp_path) as (workers, looks):
            workers.plan(deaf=True)
            problem = await looks.until("silent")
            assert problem is not None
            assert "answered nothing within 1 s" in problem.text
            workers.plan()
            await looks.until(None)
            os.kill(workers.pids[0], signal.SIGSTOP)
            await looks.until("silent")
            os.kill(workers.pids[0], signal.SIGCONT)
            await looks.until(None)

    asyncio.run(run())


def test_a_socket_that_nobody_accepts_on_is_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "m.sock"))
            listener.listen(1)
            noticed: Counter[str] = Counter()
            probe = Probe(tmp_path / "m.sock", URI, 1, lambda: PACE, noticed)
            async with aclosing(probe.looks()) as rounds:
                await Looks(probe, rounds, noticed).until("silent")

    asyncio.run(run())


def test_a_worker_that_hangs_while_others_answer_is_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        async with looking(tmp_path, 3) as (workers, looks):
            async with asyncio.timeout(60):
                while looks.probe.workers != set(workers.pids):
                    await looks.until(None)
            workers.plan(shy=True)
            for _ in range(15):
                await looks.until(None)
            assert looks.probe.workers == set(workers.pids), "the only line to a worker is kept"
            os.kill(workers.pids[1], signal.SIGSTOP)
            problem = await looks.until("worker")
            assert problem is not None
            named = f"one of MLflow's 3 workers (process {workers.pids[1]}) has answered nothing"
            assert problem.text.startswith(named)
            await looks.until("worker")
            os.kill(workers.pids[1], signal.SIGCONT)
            await looks.until(None)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (503, "away", "the database at db:7 can't be reached"),
        (500, "failed", "a call that reaches the database at db:7 was answered with 500"),
    ],
)
def test_what_mlflow_says_itself_is_no_reason_to_replace_it(
    tmp_path: Path, status: int, kind: str, text: str
) -> None:
    async def run() -> None:
        async with looking(tmp_path) as (workers, looks):
            workers.plan(
                status=status, message="(psycopg.OperationalError) as secret-word:\n\tno [SQL: SELECT]"
            )
            problem = await looks.until(kind)
            assert problem == Problem(kind, text, "(psycopg.OperationalError) as ***: no")
            workers.plan(status=status)
            while problem is None or problem.reason:
                problem = await looks.until(kind)
            assert looks.probe.stuck_for == 0
            workers.plan()
            await looks.until(None)

    asyncio.run(run())


def test_a_socket_without_mlflow_is_noticed_and_left_for_the_next(tmp_path: Path) -> None:
    async def run() -> None:
        async with looking(tmp_path) as (workers, looks):
            workers.end()
            assert await looks.until("refused") == Problem("refused", "MLflow takes no connection")
            assert looks.probe.stuck_for == 0

    asyncio.run(run())


def test_nothing_stays_behind_when_the_looking_ends(tmp_path: Path) -> None:
    async def run() -> None:
        workers = Workers(tmp_path, 3)
        try:
            workers.plan(hold=True)
            before = len(list(Path("/proc/self/fd").iterdir()))
            probe = Probe(workers.socket, URI, 3, lambda: PACE, noticed := Counter[str]())
            async with aclosing(probe.looks()) as rounds:
                await Looks(probe, rounds, noticed).until("frozen")
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, 60)
            assert len(list(Path("/proc/self/fd").iterdir())) <= before
        finally:
            workers.end()

    asyncio.run(run())


def test_a_late_answer_is_looked_at_when_it_comes(tmp_path: Path) -> None:
    async def run() -> None:
        workers = Workers(tmp_path, 1)
        try:
            pause = 0.05
            probe = Probe(workers.socket, URI, 1, lambda: (pause, 0.3), noticed := Counter[str]())
            async with aclosing(probe.looks()) as rounds:
                looks = Looks(probe, rounds, noticed)
                workers.plan(hold=True)
                await looks.until("frozen")
                pause = 3600
                workers.plan()
                await looks.until(None)
        finally:
            workers.end()

    asyncio.run(run())


def test_a_start_over_a_frozen_database_asks_once(tmp_path: Path) -> None:
    async def run() -> None:
        workers = Workers(tmp_path, 1)
        workers.plan(hold=True)
        first = asyncio.create_task(readiness.first_answer(workers.socket, 0.2, "the database at db:7"))
        try:
            for _ in range(600):
                if await workers.at_work():
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(1.0)  # it would have asked again by now
            assert not first.done()
            assert await workers.at_work() == 1
            workers.plan()
            await asyncio.wait_for(first, 60)
        finally:
            first.cancel()
            workers.end()

    asyncio.run(run())


def test_a_stuck_mlflow_is_replaced_when_the_setting_says_so_and_then_ever_more_rarely() -> None:
    replacing = Replacing(first_wait=1.0)
    assert not replacing.due(1000, None)
    assert not replacing.due(2.9, 3)
    assert replacing.due(3, 3)
    assert not replacing.due(3.1, 3)
    time.sleep(1.01)
    assert replacing.due(3.3, 3)
    time.sleep(1.01)
    assert not replacing.due(3.5, 3), "the second time it waits twice as long"
    time.sleep(1.01)
    assert replacing.due(3.7, 3)
    time.sleep(4.01)
    assert not replacing.due(0, 3)
    assert replacing.due(3, 3)
    time.sleep(1.01)
    assert replacing.due(3.3, 3), "it was well in between"
