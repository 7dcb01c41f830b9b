"""Rolling restarts of MLflow, with a stand-in that misbehaves as it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow_helpers import Life, living, place, until

from proxy import guard
from proxy.http1 import Broken, Pool, fetch
from proxy.mlflow_server.jobs import Submissions

__all__ = ["place"]


async def ask(life: Life) -> dict[str, Any]:
    status, body = await fetch(life.server.socket, "GET", "/x", timeout=60)
    assert status == 200
    return json.loads(body)  # type: ignore[no-any-return]


def other_plan(life: Life, **plan: Any) -> dict[str, str]:
    """What a second MLflow is given, so that it alone follows another plan."""
    file = life.place / "second-plan"
    file.write_text(json.dumps(plan))
    return {**life.given, "FAKE_PLAN": str(file)}


def test_a_second_mlflow_takes_the_first_ones_place_and_no_request_fails(place: Path) -> None:
    async def run() -> None:
        # Longer than what lies between the change and the first one's end.
        plan = {"slow": 1.8, "graceful": True}
        async with living(place, plan, grace_seconds=5.0, ready_timeout=5.0) as life:
            assert await life.server.wait_ready(60)
            first, inode = life.server.pid, life.server.socket.stat().st_ino
            pids: list[int] = []
            rolled = asyncio.Event()

            async def client() -> None:
                while not rolled.is_set():
                    pids.append((await ask(life))["pid"])

            clients = [asyncio.create_task(client()) for _ in range(8)]
            await until(lambda: pids)
            taken: list[bool] = []
            result = await life.server.roll(
                passthrough={**life.given, "MLFLOW_NEW": "yes"}, taken=lambda: taken.append(life.server.up)
            )
            assert result.ok, result
            assert taken == [True]
            assert life.server.pid != first
            assert life.server.socket.stat().st_ino != inode
            assert guard.stat(first or 0) is None, "the first one is gone when it is said to be"
            last = len(pids)
            await until(lambda: len(pids) > last + 8)
            rolled.set()
            await asyncio.gather(*clients)  # raises where a request failed
            assert pids[0] == first
            assert pids[-1] == life.server.pid
            assert (await ask(life))["environ"]["MLFLOW_NEW"] == "yes"
            assert life.server.rolls == {"done": 1, "failed": 0}
            assert life.server.restarts.total() == 0
            await asyncio.sleep(1.5)
            assert life.server.checks() == {"mlflow": None, "database": None, "jobs": None}
            assert (await life.server.roll()).ok, "and again"

    asyncio.run(run())


@pytest.mark.parametrize("plan", [{"exit": 3, "print": ["why"]}, {"silent": True}, {"status": 503}])
def test_a_second_mlflow_that_does_not_become_ready_is_given_up_and_the_first_stays(
    place: Path, plan: dict[str, Any]
) -> None:
    async def run() -> None:
        async with living(place, {}, mlflow_start_timeout=8.0) as life:
            assert await life.server.wait_ready(60)
            before = (await ask(life))["pid"]
            result = await life.server.roll(passthrough=other_plan(life, **plan))
            assert not result.ok
            assert "the old one stays" in result.text
            assert "exit code 3" in result.text or "was not ready 8 s after its start" in result.text
            assert result.lines == (("why",) if "print" in plan else ())
            assert (await ask(life))["pid"] == before
            assert not [pid for pid in life.living() if pid != before and guard.stat(pid) is None]
            assert life.server.ready
            assert life.server.rolls == {"done": 0, "failed": 1}
            os.kill(before, signal.SIGKILL)  # what is started then follows the old plan
            await until(lambda: life.server.restarts["killed"])
            assert await life.server.wait_ready(60)

    asyncio.run(run())


def test_where_the_first_one_dies_meanwhile_the_second_takes_over_at_once(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}) as life:
            assert await life.server.wait_ready(60)
            roll = asyncio.create_task(life.server.roll(passthrough=other_plan(life, status=503)))
            await until((place / "run" / "g2.sock").exists)
            os.kill(life.server.pid or 0, signal.SIGKILL)
            await until(lambda: life.server.restarts["killed"])
            assert not life.server.up
            await asyncio.sleep(1.5)
            other_plan(life)
            assert (await roll).ok
            assert life.server.up
            assert life.server.generation == 2, "no third one was started"
            assert life.server.restarts.total() == 1

    asyncio.run(run())


@pytest.mark.parametrize("when", ["before", "after"])
def test_stopping_in_the_middle_of_a_rolling_restart_leaves_nothing(place: Path, when: str) -> None:
    async def run() -> None:
        plan = {"stubborn": True, "brood": True}
        async with living(place, plan) as life:
            assert await life.server.wait_ready(60)
            roll = asyncio.create_task(
                life.server.roll(
                    passthrough=other_plan(life, **({"status": 503} if when == "before" else plan))
                )
            )
            if when == "before":
                await until((place / "run" / "g2.sock").exists)
            else:
                await until(lambda: len(life.of("ready")) == 2)
            await asyncio.wait_for(life.server.stop(1), 60)
            assert (await roll).ok == (when == "after")

    asyncio.run(run())


def test_a_cancelled_run_ends_a_rolling_restart_too(place: Path) -> None:
    async def run() -> None:
        life = Life(place, {})
        task = asyncio.create_task(life.server.run())
        assert await life.server.wait_ready(60)
        roll = asyncio.create_task(life.server.roll(passthrough=other_plan(life, status=503)))
        await until((place / "run" / "g2.sock").exists)
        task.cancel()
        await asyncio.gather(task, roll, return_exceptions=True)
        assert life.living() == []
        assert list((place / "run").iterdir()) == []

    asyncio.run(run())


def test_where_mlflow_is_not_up_it_is_started_anew_with_what_is_given(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"exit": 1}) as life:
            await until(lambda: life.of("restart"))
            result = await life.server.roll(passthrough=other_plan(life))
            assert result.ok, result
            assert life.server.ready

    asyncio.run(run())


async def post(life: Life, path: str) -> bool:
    """Whether it was answered, on a connection of its own. False: nobody has read it, so that it may be sent
    again whatever it does (proxy/forward/resending.py). Raises Broken for anything else."""
    connection = await Pool(life.server.socket).acquire()
    try:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        connection.send_head(head.encode(), head_only=False)
        await connection.head()
        return connection.status == 200
    except Broken as broken:
        if broken.unread:
            return False
        raise
    finally:
        connection.close()


def test_no_connection_is_lost_when_several_workers_give_way_to_others(place: Path) -> None:
    answered: list[int] = []
    numbers = itertools.count()
    rolled = asyncio.Event()

    async def client(life: Life) -> None:
        while not rolled.is_set():
            number = next(numbers)
            while not await post(life, f"/number/{number}"):
                pass
            answered.append(number)

    async def run() -> None:
        # The workers are busy all the time, so that some who have connected stand in the line, or were let in
        # and not read, for longer than there is between the change and the workers' end.
        plan = {"uvicorn": True, "slow": 0.05}
        more: dict[str, Any] = {"mlflow_workers": 2, "grace_seconds": 20.0, "ready_timeout": 20.0}
        async with living(place, plan, **more) as life:
            assert await life.server.wait_ready(60)
            clients = [asyncio.create_task(client(life)) for _ in range(100)]
            await until(lambda: len(answered) > 100, 60)
            for _ in range(2):
                result = await life.server.roll()
                assert result.ok, result
            rolled.set()
            await asyncio.gather(*clients)
        served = [int(line) for line in (place / "served").read_text().splitlines()]
        assert sorted(served) == sorted(answered), "each once"

    asyncio.run(run())


def events(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def with_jobs(place: Path, seconds: float) -> dict[str, str]:
    return {"FAKE_JOBS": str(place / "jobs"), "FAKE_JOB_SECONDS": str(seconds)}


@pytest.mark.parametrize("seconds", [3.0, 600.0])
def test_the_second_job_runner_starts_when_the_first_and_its_jobs_are_over(
    place: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    for name, value in with_jobs(place, seconds).items():
        monkeypatch.setenv(name, value)

    async def run() -> None:
        async with living(place, {"jobs": True}, grace_seconds=4.0) as life:
            assert await life.server.wait_ready(60)
            log = place / "jobs"
            await until(lambda: [event for event in events(log) if event[0] == "begun"])
            first_job = int(events(log)[1][1])
            before = time.time() * 1000
            roll = asyncio.create_task(life.server.roll())
            await until(lambda: len(life.of("ready")) == 2)
            moment = time.time() * 1000
            assert len([event for event in events(log) if event[0] == "runner"]) == 1
            result = await roll
            assert result.ok, result
            await until(lambda: len([event for event in events(log) if event[0] == "begun"]) == 2)
            kinds = [event[0] for event in events(log)]
            if seconds < 10:
                assert kinds == ["runner", "begun", "done", "runner", "begun"]
                assert "cut off" not in result.text
            else:
                assert kinds == ["runner", "begun", "runner", "begun"], "and no consumer said that it failed"
                assert "jobs cut off and run again: sum j1" in result.text
            assert guard.stat(first_job) is None
            second = [event for event in events(log) if event[0] == "runner"][1]
            assert before < int(second[3]) <= moment, "what was submitted later is in its own queue"

    asyncio.run(run())


def test_a_second_mlflow_that_dies_at_once_brings_no_two_job_runners_together(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in with_jobs(place, 600).items():
        monkeypatch.setenv(name, value)

    async def run() -> None:
        async with living(place, {"jobs": True}, grace_seconds=30.0) as life:
            assert await life.server.wait_ready(60)
            log = place / "jobs"
            await until(lambda: len(events(log)) == 2)
            runner, job = (int(event[1]) for event in events(log))
            roll = asyncio.create_task(life.server.roll())
            await until(lambda: len(life.of("ready")) == 2)
            os.kill(life.server.pid or 0, signal.SIGKILL)
            await until(lambda: len(events(log)) > 2)
            assert guard.stat(runner) is None
            assert guard.stat(job) is None
            assert await life.server.wait_ready(60)
            assert life.server.generation == 3
            await roll

    asyncio.run(run())


def test_requests_that_submit_a_job_are_finished_before_the_generations_change() -> None:
    async def run() -> None:
        submissions = Submissions()
        order = []

        async def submit(name: str, seconds: float) -> None:
            assert await submissions.wait(30)
            with submissions.one():
                order.append(f"{name} begins")
                await asyncio.sleep(seconds)
                order.append(f"{name} ends")

        first = asyncio.create_task(submit("first", 0.2))
        await asyncio.sleep(0.05)
        pausing = asyncio.create_task(submissions.pause(5))
        await asyncio.sleep(0.05)
        assert submissions.paused
        second = asyncio.create_task(submit("second", 0))
        await pausing
        order.append("change")
        assert not await submissions.wait(0.01)
        submissions.resume()
        await asyncio.gather(first, second)
        assert order == ["first begins", "first ends", "change", "second begins", "second ends"]
        with submissions.one():
            began = time.monotonic()
            await submissions.pause(0.1)
            assert time.monotonic() - began < 20, "a request that never ends is not waited for"

    asyncio.run(run())


def test_an_mlflow_that_is_stuck_is_replaced_where_that_is_set(place: Path) -> None:
    async def run() -> None:
        settings: dict[str, Any] = {"ready_timeout": 0.5, "stuck_restart": 2.0}
        async with living(place, {}, **settings) as life:
            assert await life.server.wait_ready(60)
            first = life.server.pid
            life.plan(slow=60)
            await until(lambda: life.server.problems["frozen"])
            assert not life.server.ready
            await until(lambda: life.server.generation == 2)
            life.plan()  # what the second one is asked is answered
            await until(lambda: life.server.rolls["done"])
            assert life.server.pid != first
            assert life.server.ready
            assert life.server.restarts.total() == 0

    asyncio.run(run())
