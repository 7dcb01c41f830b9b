"""MLflow's life under a supervisor, with a stand-in that misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow_helpers import SLEEP, Life, child, living, place, readlink, until

from proxy import guard
from proxy.http1 import fetch
from proxy.mlflow_server import REASONS
from proxy.mlflow_server.command import MARKER
from proxy.mlflow_server.delays import HEALTHY, Delays

__all__ = ["place"]


def test_it_is_ready_when_a_call_that_reaches_the_database_was_answered(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"status": 500}) as life:
            await until((place / "run" / "g1.sock").exists)
            await asyncio.sleep(0.7)
            assert not life.server.ready
            assert life.server.reason.startswith("MLflow is starting: loading (")
            assert life.server.checks()["mlflow"] == life.server.reason
            life.plan()
            assert await life.server.wait_ready(60)
            assert life.server.reason == ""
            assert life.server.checks() == {"mlflow": None, "database": None, "jobs": None}
            status, body = await fetch(life.server.socket, "GET", "/x", timeout=20)
            assert status == 200
            assert json.loads(body)["pid"] == life.server.pid
            assert json.loads(body)["environ"][MARKER]

    asyncio.run(run())


def test_a_database_that_goes_away_is_said_and_mlflow_is_not_restarted(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}, ready_timeout=0.5) as life:
            assert await life.server.wait_ready(60)
            life.plan(status=503)
            await until(lambda: not life.server.ready)
            assert life.server.reason.endswith("can't be reached")
            assert life.server.checks()["mlflow"] is None
            assert life.server.checks()["database"] == life.server.reason
            life.plan(slow=2)
            await until(lambda: life.server.reason.endswith("was not answered within 0.5 s"))
            life.plan()
            assert await life.server.wait_ready(60)
            assert life.server.generation == 1

    asyncio.run(run())


@pytest.mark.parametrize("code", [0, 1])
def test_an_exit_that_nobody_asked_for_is_a_failure_whatever_its_code(place: Path, code: int) -> None:
    async def run() -> None:
        async with living(place, {"exit": code, "print": ["why it failed"]}) as life:
            await until(lambda: len(life.of("restart")) == 2)
            first, second = life.of("restart")
            assert (first["delay"], second["delay"]) == (1.0, 2.0)
            assert first["reason"] == "exited"
            assert first["lines"] == ["why it failed"]
            assert life.server.restarts["exited"] == 2
            assert f"exit code {code}" in life.server.reason
            assert "started again in 2 s" in life.server.reason
            life.plan()
            assert await life.server.wait_ready(60)
        assert set(life.server.restarts) == REASONS

    asyncio.run(run())


def test_one_that_had_become_ready_is_soon_started_again_and_one_that_never_does_ever_later() -> None:
    delays = Delays()
    assert [delays.after(1.0) for _ in range(5)] == [1, 2, 4, 4, 4], "killed again and again"
    assert [delays.after(None) for _ in range(6)] == [4, 8, 16, 30, 30, 30]
    assert delays.after(0.1) == 4, "it can start after all"
    assert delays.after(HEALTHY) == 1, "that was long ago"
    assert delays.after(None) == 2


def test_mlflow_killed_again_and_again_is_waited_for_no_longer_each_time(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}) as life:
            killed: list[int] = []
            for _ in range(4):
                assert await life.server.wait_ready(60)
                killed.append(life.server.pid or 0)
                os.kill(killed[-1], signal.SIGKILL)
                await until(lambda: life.server.restarts["killed"] == len(killed))
            assert [what["delay"] for what in life.of("restart")] == [1, 2, 4, 4]

    asyncio.run(run())


def test_mlflow_killed_is_started_again_on_a_new_socket(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"jobs": True, "brood": True}) as life:
            assert await life.server.wait_ready(60)
            inode, old = life.server.socket.stat().st_ino, set(life.living())
            assert life.server.pid is not None
            os.kill(life.server.pid, signal.SIGKILL)
            await until(lambda: life.server.restarts["killed"])
            assert not life.server.socket.exists()
            assert not old & set(life.living())
            assert await life.server.wait_ready(60)
            assert life.server.socket.stat().st_ino != inode
            assert life.server.generation == 2

    asyncio.run(run())


def test_the_guard_killed_takes_everything_with_it_and_mlflow_is_started_again(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"jobs": True, "brood": True, "stubborn": True}) as life:
            assert await life.server.wait_ready(60)
            old = life.living()
            storage = next(s for pid in old if (s := guard.environment_of(pid).get(guard.JOB_STORAGE)))
            assert Path(storage).is_dir()
            os.kill((guard.stat(life.server.pid or 0) or ("", 0))[1], signal.SIGKILL)
            await until(lambda: life.server.restarts["guard_lost"])
            assert not set(old) & set(life.living())
            assert not [pid for pid in old if Path(f"/proc/{pid}").exists()], "zombies are left"
            assert not Path(storage).exists()
            assert await life.server.wait_ready(60)

    asyncio.run(run())


def test_a_lost_job_runner_restarts_mlflow_once_and_is_then_reported(place: Path) -> None:
    def job_runner(life: Life) -> int:
        return next(
            pid
            for pid in life.living()
            if b"mlflow.server.jobs._job_runner" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    async def run() -> None:
        async with living(place, {"jobs": True}) as life:
            assert await life.server.wait_ready(60)
            os.kill(job_runner(life), signal.SIGKILL)
            await until(lambda: life.server.restarts["jobs_lost"])
            assert await life.server.wait_ready(60)
            assert life.server.checks()["jobs"] is None
            os.kill(job_runner(life), signal.SIGKILL)
            await until(lambda: life.server.checks()["jobs"])
            assert life.server.ready
            assert life.server.generation == 2

    asyncio.run(run())


def test_a_start_that_takes_too_long_is_given_up_and_a_migration_is_not(place: Path) -> None:
    async def run() -> None:
        upgrade = "INFO alembic.runtime.migration: Running upgrade  -> 451aebb31d03, add metric step"
        async with living(place, {"silent": True, "print": [upgrade]}, mlflow_start_timeout=3.0) as life:
            await until(lambda: "migrating the database: 451aebb31d03" in life.server.reason)
            migrating = life.server.generation
            await asyncio.sleep(5)
            assert life.server.generation == migrating
        async with living(place, {"silent": True}, mlflow_start_timeout=0.5) as life:
            await until(lambda: life.server.restarts["start_timeout"])
            assert "PROXY_MLFLOW_START_TIMEOUT" in life.server.reason

    asyncio.run(run())


def test_its_output_arrives_line_by_line_without_the_password(place: Path) -> None:
    async def run() -> None:
        uri = "postgresql+other://me:s3cret-word@db.example.com/x"
        said = ["caf\xe9", f"cannot open {uri}", "x" * 100_000]
        async with living(place, {"exit": 1, "print": said}, backend_store_uri=uri) as life:
            await until(lambda: life.of("restart"))
            lines = [what["text"] for what in life.of("line")]
            assert lines[:2] == ["caf\\xe9", "cannot open ***"]
            assert lines[2].endswith(" ... (cut)")
            assert "s3cret-word" not in str(life.events)

    asyncio.run(run())


def test_stopping_ends_a_stubborn_mlflow_after_the_grace(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"stubborn": True, "brood": True}) as life:
            assert await life.server.wait_ready(60)
            await asyncio.wait_for(life.server.stop(0.5), 60)
            assert life.living() == []
            assert life.server.reason == "MLflow was stopped"

    asyncio.run(run())


def test_stopping_while_it_waits_to_start_again_is_at_once(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"exit": 1}) as life:
            await until(lambda: len(life.of("restart")) == 4)
            assert life.of("restart")[-1]["delay"] == 8
            began = time.monotonic()
            await life.server.stop(10)
            assert time.monotonic() - began < 7

    asyncio.run(run())


def test_a_cancelled_run_leaves_nothing(place: Path) -> None:
    async def run() -> None:
        life = Life(place, {"brood": True, "jobs": True})
        task = asyncio.create_task(life.server.run())
        assert await life.server.wait_ready(60)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert life.living() == []

    asyncio.run(run())


def test_a_descriptor_of_the_life_line_is_in_no_other_process(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"jobs": True, "brood": True}) as life:
            assert await life.server.wait_ready(60)
            main = life.server.pid or 0
            the_guard = (guard.stat(main) or ("", 0))[1]
            pipe = readlink(f"/proc/{the_guard}/fd/0")
            assert pipe.startswith("pipe:")
            other = child(SLEEP, close_fds=False)
            try:
                for pid in [other.pid, *(pid for pid in life.living() if pid != the_guard)]:
                    ends = [readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
                    assert pipe not in ends
            finally:
                other.kill()
                other.communicate()

    asyncio.run(run())


def test_what_was_left_when_both_were_killed_is_ended_by_the_next_start(place: Path) -> None:
    async def run() -> None:
        life = Life(place, {"brood": True, "jobs": True})
        task = asyncio.create_task(life.server.run())
        assert await life.server.wait_ready(60)
        noted = (place / "data" / "running.json").read_bytes()
        # The proxy's death can't be had in this process: its guard and its memory are taken away instead.
        environ = {
            **os.environ,
            MARKER: json.loads(noted)["starts"][0]["marker"],
            "FAKE_PLAN": str(life.plan_file),
        }
        left = child(SLEEP, env=environ, start_new_session=True)
        stranger = child(SLEEP, start_new_session=True)
        await life.server.stop(1)
        await task
        assert life.living() == [left.pid]
        (place / "data" / "running.json").write_bytes(noted)
        async with living(place, {}) as life:
            assert await life.server.wait_ready(60)
            assert left.wait(60) in (-signal.SIGKILL, 0)  # 0: its status was taken, as an orphan's is
            assert stranger.poll() is None
        stranger.kill()
        stranger.communicate()

    asyncio.run(run())
