"""MLflow's command line, environment and life: with a stand-in that misbehaves, and with the real one."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
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
from proxy.http1 import fetch
from proxy.mlflow_server import REASONS, MlflowServer, command, environment
from proxy.mlflow_server.command import MARKER
from proxy.mlflow_server.keys import VARIABLE as KEK
from proxy.mlflow_server.keys import gateway_passphrase
from proxy.mlflow_server.output import LONGEST_LINE, Lines, Progress, masking, place_of, secrets_of
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


# The command and the environment


def test_mlflow_gets_a_socket_and_the_jobs_address_and_no_port_of_its_own(place: Path) -> None:
    arguments = command(settings_for(place, mlflow_workers=3), Path("/run/x/g1.sock"), 5123)
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert arguments[arguments.index("--port") + 1] == "5123"
    assert arguments[arguments.index("--workers") + 1] == "3"
    uvicorn = shlex.split(arguments[arguments.index("--uvicorn-opts") + 1])
    assert uvicorn[uvicorn.index("--uds") + 1] == "/run/x/g1.sock"
    assert int(uvicorn[uvicorn.index("--timeout-keep-alive") + 1]) > 60
    assert uvicorn[uvicorn.index("--timeout-graceful-shutdown") + 1] == "1"
    assert "--no-proxy-headers" in uvicorn


def test_a_bucket_is_served_through_mlflow(place: Path) -> None:
    arguments = command(settings_for(place, artifact_root="s3://bucket/path"), Path("/s"), 1)
    assert "--serve-artifacts" in arguments
    assert arguments[arguments.index("--artifacts-destination") + 1] == "s3://bucket/path"
    assert "--default-artifact-root" not in arguments


def test_further_options_do_not_come_after_ours(place: Path) -> None:
    arguments = command(settings_for(place, mlflow_args=("--x-frame-options", "DENY")), Path("/s"), 1)
    assert arguments.index("--x-frame-options") < arguments.index("--host")


def test_no_secret_of_the_database_is_in_the_arguments(place: Path) -> None:
    settings = settings_for(place, backend_store_uri="postgresql+other://u:topsecret@db/x")
    assert "topsecret" not in " ".join(command(settings, Path("/s"), 1))
    assert environment(settings, {}, {}, TOKEN)["MLFLOW_BACKEND_STORE_URI"].endswith("u:topsecret@db/x")


def test_what_is_ours_or_a_clients_or_uvicorns_does_not_reach_mlflow(place: Path) -> None:
    dropped = {
        "UVICORN_PORT": "9",
        "FORWARDED_ALLOW_IPS": "*",
        "WEB_CONCURRENCY": "9",
        "PROXY_METRICS_TOKEN": "x",
        "MLFLOW_UI_OAUTH_CLIENT_SECRET": "x",
        "MLFLOW_TRACKING_URI": "x",
        "MLFLOW_TRACKING_INSECURE_TLS": "x",
        "MLFLOW_TRACKING_PASSWORD_FILE": "x",
        "MLFLOW_BACKEND_STORE_URI_FILE": "x",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://x",
        "MLFLOW_WORKSPACE": "x",
        "_MLFLOW_SERVER_FILE_STORE": "x",
        "_MLFLOW_IN_JOB_EXECUTOR": "true",
        "MLFLOW_HOST": "x",
        "MLFLOW_PORT": "tcp://10.0.0.1:5000",
        "MLFLOW_UVICORN_OPTS": "x",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "x",
        "AWS_SECRET_ACCESS_KEY_FILE": "x",
        "NOTIFY_SOCKET": "x",
        "MLFLOW_EMPTY": "",
        "AWS_ACCESS_KEY_ID": "",
    }
    kept = {"PATH": "/bin", "AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "MLFLOW_LOGGING_LEVEL": "DEBUG", "EMPTY": ""}
    result = environment(settings_for(place), dropped, {**dropped, **kept}, TOKEN)
    assert not set(dropped) & set(result)
    assert result == {**result, **kept}


def test_the_environment_is_stronger_than_files_and_an_empty_value_is_not(place: Path) -> None:
    files = {"MLFLOW_S3_ENDPOINT_URL": "file", "AWS_ACCESS_KEY_ID": "file"}
    environ = {"MLFLOW_S3_ENDPOINT_URL": "environment", "AWS_ACCESS_KEY_ID": ""}
    result = environment(settings_for(place), files, environ, TOKEN)
    assert result["MLFLOW_S3_ENDPOINT_URL"] == "environment"
    assert result["AWS_ACCESS_KEY_ID"] == "file"


def test_jobs_get_their_own_credential_alone(place: Path) -> None:
    ours = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "admins-own"}
    result = environment(settings_for(place), ours, ours, TOKEN)
    assert "admins-own" not in result.values()
    assert result["MLFLOW_TRACKING_TOKEN"] == result["MLFLOW_TRACKING_PASSWORD"] == TOKEN
    assert result["MLFLOW_TRACKING_USERNAME"] == "mlflow-jobs"


def test_nothing_leaves_the_machine_unless_somebody_says_so(place: Path) -> None:
    result = environment(settings_for(place), {}, {}, TOKEN)
    assert result["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert result["MLFLOW_MODEL_CATALOG_URI"] == ""
    said = {"MLFLOW_DISABLE_TELEMETRY": "false", "MLFLOW_MODEL_CATALOG_URI": "https://mirror"}
    assert environment(settings_for(place), {}, said, TOKEN).items() >= said.items()


def test_jobs_do_not_reach_our_listener_through_an_outgoing_proxy(place: Path) -> None:
    given = {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "internal"}
    result = environment(settings_for(place), {}, given, TOKEN)
    assert result["NO_PROXY"] == result["no_proxy"] == "internal,127.0.0.1,localhost"
    assert "NO_PROXY" not in environment(settings_for(place), {}, {}, TOKEN)


# The key of the gateway's secrets


def test_a_new_data_directory_gets_a_key_of_its_own_and_keeps_it(place: Path) -> None:
    settings = settings_for(place)
    settings.data_dir.mkdir()
    first = gateway_passphrase(settings, {})
    (settings.data_dir / "mlflow.db").write_text("")
    assert len(first[KEK]) >= 32
    assert gateway_passphrase(settings, {}) == first
    assert (settings.data_dir / "gateway-secrets.passphrase").stat().st_mode & 0o777 == 0o600


def test_a_database_that_may_hold_secrets_under_another_key_gets_none(place: Path) -> None:
    settings = settings_for(place)
    settings.data_dir.mkdir()
    (settings.data_dir / "mlflow.db").write_text("")
    assert gateway_passphrase(settings, {}) == {}
    shared = settings_for(place, backend_store_uri="postgresql+other://db/x")
    assert gateway_passphrase(shared, {}) == {}
    assert gateway_passphrase(settings, {KEK: "a person's"}) == {}


# Its output


def read(*pieces: bytes) -> list[str]:
    async def run() -> list[str]:
        lines: list[str] = []
        protocol = Lines(lines.append)
        for piece in pieces:
            protocol.data_received(piece)
        protocol.connection_lost(None)
        return lines

    return asyncio.run(run())


def test_lines_are_whole_however_they_arrive() -> None:
    assert read(b"on", b"e\ntwo\r\n\nthr", b"ee") == ["one", "two", "", "three"]


def test_bytes_that_are_not_text_are_shown() -> None:
    assert read(b"a\xff\xfeb\n", "é\n".encode()) == ["a\\xff\\xfeb", "é"]


def test_a_line_without_end_is_cut_and_costs_no_memory() -> None:
    first, second = read(*[b"x" * 65536] * 100, b"\nnext\n")
    assert first == "x" * LONGEST_LINE + " ... (cut)"
    assert second == "next"


def test_a_password_is_taken_out_of_mlflows_output() -> None:
    uri = "postgresql://me:p%40ss%2Fword@db.example.com:5432/mlflow"
    mask = masking([*secrets_of(uri), uri])
    assert mask(f"can't open {uri}") == "can't open ***"
    assert mask("as p@ss/word and as p%40ss%2Fword") == "as *** and as ***"
    assert place_of(uri) == "the database at db.example.com:5432"
    assert place_of("sqlite:////data/mlflow.db") == "the database /data/mlflow.db"


def test_a_migration_and_an_unreachable_database_are_recognized() -> None:
    progress = Progress("the database at db:5432")
    progress.read(
        "2026/01/01 00:00:00 WARNING mlflow.store.db.utils: SQLAlchemy engine could not be created. The"
    )
    assert progress.step == "the database at db:5432 can't be reached; MLflow goes on trying"
    progress.read("INFO alembic.runtime.migration: Running upgrade  -> 451aebb31d03, add metric step")
    progress.read("... Running upgrade 451aebb31d03 -> 90e64c465722, migrate user column to tags")
    assert progress.migrating
    assert progress.step == "migrating the database: 90e64c465722, migrate user column to tags (step 2)"
    progress.read("INFO:     Started server process [7]")
    assert not progress.migrating
    assert progress.step is None


# Its life, with a stand-in


class Life:
    """A MlflowServer over the stand-in, and what it observed."""

    def __init__(self, place: Path, plan: dict[str, Any], **settings: Any) -> None:
        self.place = place
        self.plan_file = place / "plan"
        self.plan(**plan)
        self.events: list[tuple[str, dict[str, Any]]] = []
        (place / "run").mkdir(exist_ok=True)
        (place / "data").mkdir(exist_ok=True)
        given = {"PYTHONPATH": str(HERE / "fake_mlflow"), "FAKE_PLAN": str(self.plan_file)}
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


def test_it_is_ready_when_a_call_that_reaches_the_database_was_answered(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"status": 500}) as life:
            await until((place / "run" / "g1.sock").exists)
            await asyncio.sleep(0.7)
            assert not life.server.ready
            assert life.server.reason.startswith("MLflow is starting: loading (")
            assert life.server.checks()["mlflow"] == life.server.reason
            life.plan()
            assert await life.server.wait_ready(10)
            assert life.server.reason == ""
            assert life.server.checks() == {"mlflow": None, "database": None, "jobs": None}
            status, body = await fetch(life.server.socket, "GET", "/x", timeout=5)
            assert status == 200
            assert json.loads(body)["pid"] == life.server.pid
            assert json.loads(body)["environ"][MARKER]

    asyncio.run(run())


def test_a_database_that_goes_away_is_said_and_mlflow_is_not_restarted(place: Path) -> None:
    async def run() -> None:
        async with living(place, {}, ready_timeout=0.5) as life:
            assert await life.server.wait_ready(10)
            life.plan(status=503)
            await until(lambda: not life.server.ready)
            assert life.server.reason.endswith("can't be reached")
            assert life.server.checks()["mlflow"] is None
            assert life.server.checks()["database"] == life.server.reason
            life.plan(slow=2)
            await until(lambda: life.server.reason.endswith("was not answered within 0.5 s"))
            life.plan()
            assert await life.server.wait_ready(10)
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
            assert await life.server.wait_ready(10)
        assert set(life.server.restarts) == REASONS

    asyncio.run(run())


def test_mlflow_killed_is_started_again_on_a_new_socket(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"jobs": True, "brood": True}) as life:
            assert await life.server.wait_ready(10)
            inode, old = life.server.socket.stat().st_ino, set(life.living())
            assert life.server.pid is not None
            os.kill(life.server.pid, signal.SIGKILL)
            await until(lambda: life.server.restarts["killed"])
            assert not life.server.socket.exists()
            assert not old & set(life.living())
            assert await life.server.wait_ready(10)
            assert life.server.socket.stat().st_ino != inode
            assert life.server.generation == 2

    asyncio.run(run())


def test_the_guard_killed_takes_everything_with_it_and_mlflow_is_started_again(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"jobs": True, "brood": True, "stubborn": True}) as life:
            assert await life.server.wait_ready(10)
            old = life.living()
            storage = next(s for pid in old if (s := guard.environment_of(pid).get(guard.JOB_STORAGE)))
            assert Path(storage).is_dir()
            os.kill((guard.stat(life.server.pid or 0) or ("", 0))[1], signal.SIGKILL)
            await until(lambda: life.server.restarts["guard_lost"], 5)
            assert not set(old) & set(life.living())
            assert not [pid for pid in old if Path(f"/proc/{pid}").exists()], "zombies are left"
            assert not Path(storage).exists()
            assert await life.server.wait_ready(10)

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
            assert await life.server.wait_ready(10)
            os.kill(job_runner(life), signal.SIGKILL)
            await until(lambda: life.server.restarts["jobs_lost"])
            assert await life.server.wait_ready(10)
            assert life.server.checks()["jobs"] is None
            os.kill(job_runner(life), signal.SIGKILL)
            await until(lambda: life.server.checks()["jobs"])
            assert life.server.ready
            assert life.server.generation == 2

    asyncio.run(run())


def test_a_start_that_takes_too_long_is_given_up_and_a_migration_is_not(place: Path) -> None:
    async def run() -> None:
        upgrade = "INFO alembic.runtime.migration: Running upgrade  -> 451aebb31d03, add metric step"
        async with living(place, {"silent": True, "print": [upgrade]}, mlflow_start_timeout=0.5) as life:
            await until(lambda: "migrating the database: 451aebb31d03" in life.server.reason)
            await asyncio.sleep(2)
            assert life.server.generation == 1
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
            assert await life.server.wait_ready(10)
            began = time.monotonic()
            await life.server.stop(0.5)
            assert time.monotonic() - began < 4
            assert life.living() == []
            assert life.server.reason == "MLflow was stopped"

    asyncio.run(run())


def test_stopping_while_it_waits_to_start_again_is_at_once(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"exit": 1}) as life:
            await until(lambda: len(life.of("restart")) == 2)
            began = time.monotonic()
            await life.server.stop(10)
            assert time.monotonic() - began < 1

    asyncio.run(run())


def test_a_cancelled_run_leaves_nothing(place: Path) -> None:
    async def run() -> None:
        life = Life(place, {"brood": True, "jobs": True})
        task = asyncio.create_task(life.server.run())
        assert await life.server.wait_ready(10)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert life.living() == []

    asyncio.run(run())


def test_a_descriptor_of_the_life_line_is_in_no_other_process(place: Path) -> None:
    async def run() -> None:
        async with living(place, {"jobs": True, "brood": True}) as life:
            assert await life.server.wait_ready(10)
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
        assert await life.server.wait_ready(10)
        noted = (place / "data" / "running.json").read_bytes()
        # The proxy's death can't be had in this process: its guard and its memory are taken away instead.
        environ = {**os.environ, MARKER: json.loads(noted)["marker"], "FAKE_PLAN": str(life.plan_file)}
        left = child(SLEEP, env=environ, start_new_session=True)
        stranger = child(SLEEP, start_new_session=True)
        await life.server.stop(1)
        await task
        assert life.living() == [left.pid]
        (place / "data" / "running.json").write_bytes(noted)
        async with living(place, {}) as life:
            assert await life.server.wait_ready(10)
            assert left.wait(5) in (-signal.SIGKILL, 0)  # 0: its status was taken, as an orphan's is
            assert stranger.poll() is None
        stranger.kill()
        stranger.communicate()

    asyncio.run(run())


# Its life, with the real MLflow


class Real:
    """The real MLflow under a driver, which can be killed like the proxy that it stands for."""

    def __init__(self, place: Path, *given: str) -> None:
        (place / "data").mkdir()
        (place / "run").mkdir(mode=0o700)
        self.place = place
        self.output = place / "output"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        with self.output.open("wb") as file:
            arguments = [
                str(place / "data"),
                str(place / "run"),
                str(self.port),
                f"REAL_PLACE={place}",
                *given,
            ]
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "mlflow_driver.py"), *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            )

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def wait_for(self, event: str, count: int, seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while len(found := self.events(event)) < count:
            assert time.monotonic() < deadline, self.output.read_text()
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)
        return found[count - 1]

    def living(self) -> dict[int, str]:
        """The command lines of MLflow's processes by pid, the driver's not among them."""
        return {
            pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            for pid in marked(str(self.place))
            if pid != self.process.pid
        }

    def one(self, part: str, parent: str = "") -> int:
        """The first process with that in its command line, and that in its parent's."""
        living = self.living()
        for pid, line in living.items():
            known = guard.stat(pid)
            if part in line and "guard.py" not in line and known and parent in living.get(known[1], ""):
                return pid
        raise AssertionError(f"no {part} in {living}")

    def guard(self) -> int:
        return next(pid for pid, line in self.living().items() if "guard.py" in line)

    def kill_and_see_it_back(self, pid: int) -> str:
        """Kill a process; the reason for which MLflow was started again, once it is ready again."""
        restarts, readies = len(self.events("restart")), len(self.events("ready"))
        before = set(self.living())
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        reason = str(self.wait_for("restart", restarts + 1, 6)["reason"])
        assert not before & set(self.living())
        assert time.monotonic() - killed < 5
        self.wait_for("ready", readies + 1)
        return reason

    def python(self, code: str, *arguments: str) -> Any:
        """Run this with a client of MLflow; the JSON that it prints last."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}",
                "GIT_PYTHON_REFRESH": "quiet",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    with tempfile.TemporaryDirectory(prefix="mp-") as path:
        one = Real(
            Path(path),
            "PROXY_MLFLOW_WORKERS=2",
            "PROXY_GRACE_SECONDS=5",
            "MLFLOW_TRACKING_PASSWORD=a password for a test 1",
            "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS=true",
        )
        try:
            one.wait_for("ready", 1)
            yield one
        finally:
            one.process.send_signal(signal.SIGTERM)
            try:
                one.process.wait(30)
            finally:
                one.process.kill()
                one.process.wait()
                for pid in one.living():
                    os.kill(pid, signal.SIGKILL)


JOB = """
import json, os, sys, time, mlflow, requests
experiment = mlflow.set_experiment("jobs").experiment_id
@mlflow.trace
def answer(question): return "an answer"
answer("?")
mlflow.flush_trace_async_logging()
trace = mlflow.get_last_active_trace_id()
scorer = {
    "name": "sleeper", "aggregations": None, "mlflow_version": mlflow.__version__, "serialization_version": 1,
    "call_source": "import time\\ntime.sleep(600)\\nreturn True", "call_signature": "(outputs)",
    "original_func_name": "sleeper",
}
jobs = os.environ["MLFLOW_TRACKING_URI"] + "/ajax-api/3.0/jobs/"
params = {"experiment_id": experiment, "serialized_scorer": json.dumps(scorer), "trace_ids": [trace]}
job = requests.post(jobs, json={"job_name": "invoke_scorer", "params": params}).json()
while job["status"] == "PENDING":
    time.sleep(0.2)
    job = requests.get(jobs + job["job_id"]).json()
print(json.dumps(job))
"""


def test_the_real_mlflow_opens_no_port_and_shows_no_database(real: Real) -> None:
    listening = {
        line.split()[9]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    living = real.living()
    assert len(living) > 8
    for pid, line in living.items():
        assert "sqlite:" not in line
        descriptors = [readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()]
        assert not {f"socket:[{inode}]" for inode in listening} & set(descriptors), line


def test_a_migration_of_the_real_mlflow_is_heard(real: Real) -> None:
    assert [line for line in real.events("line") if "Running upgrade" in line["text"]]


def test_a_real_worker_and_a_consumer_and_a_job_come_back_or_go_and_nothing_else_does(real: Real) -> None:
    job = real.python(JOB)
    assert job["status"] == "RUNNING", job
    deadline = time.monotonic() + 30
    while not any("_job_subproc_entry" in line for line in real.living().values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running = real.one("_job_subproc_entry")

    def workers() -> set[int]:
        return {pid for pid, line in real.living().items() if "spawn_main" in line}

    def idle_consumers() -> set[int]:
        consumers = {pid for pid, line in real.living().items() if "_huey_consumer.huey_instance" in line}
        return consumers - {(guard.stat(running) or ("", 0))[1]}

    before = workers(), idle_consumers()
    killed = {running, min(before[0]), min(before[1])}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while killed & set(real.living()) or len(workers()) < 2 or len(idle_consumers()) < len(before[1]):
        assert time.monotonic() < deadline, real.living()
        time.sleep(0.1)
    assert not real.events("restart")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("job runner", "jobs_lost"),
        ("guard", "guard_lost"),
        ("mlflow server", "killed"),
        ("uvicorn", "exited"),
    ],
)
def test_the_real_mlflow_is_supervised_again_when_one_is_killed(real: Real, victim: str, reason: str) -> None:
    if victim == "guard":
        assert real.python(JOB)["status"] == "RUNNING"
    pid = {
        "job runner": lambda: real.one("_job_runner"),
        "guard": real.guard,
        "mlflow server": lambda: real.one("launch.py"),
        "uvicorn": lambda: real.one("-m uvicorn"),
    }[victim]()
    assert real.kill_and_see_it_back(pid) == reason


def test_nothing_of_the_real_mlflow_outlives_the_proxy(real: Real) -> None:
    assert real.python(JOB)["status"] == "RUNNING"
    storage = {value for pid in real.living() if (value := guard.environment_of(pid).get(guard.JOB_STORAGE))}
    assert len(storage) == 1
    real.process.kill()
    real.process.wait()
    deadline = time.monotonic() + 5
    while living := real.living():
        assert time.monotonic() < deadline, living
        time.sleep(0.05)
    assert not Path(storage.pop()).exists()
