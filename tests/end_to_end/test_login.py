"""A person signs in with one command, and MLflow's client works from then on: days later, and in long runs.

The real service with its own certificate, the real provider, MLflow's client as it is; the browser is played.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from client_driver import Person
from identity_provider import (
    AUDIENCE,
    EDITOR,
    NATIVE,
    VIEWER,
    OidcProvider,
    approve,
    authorize,
    installed,
)
from identity_world import World, world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed(), reason="not installed: oidc-provider (npm ci)"),
]
ROOT = Path(__file__).parent.parent.parent
LIFETIME = 20
"""Seconds of an access token."""
RUN = 120
"""Seconds of the long run."""
PROCESSES = 4
PROGRAM = """
import mlflow
mlflow.set_experiment("of a person")
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.0)
    mlflow.log_text("hello", "a.txt")
print(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/a.txt"), run.info.user_id)
"""
LONG_PROGRAM = """
import sys, time, mlflow
from mlflow.tracking import MlflowClient
client = MlflowClient()
mlflow.set_experiment("a long run")
end, step = time.monotonic() + float(sys.argv[1]), 0
with mlflow.start_run() as run:
    while time.monotonic() < end:
        client.log_metric(run.info.run_id, "m", step, step=step)
        if step % 50 == 0:
            mlflow.log_text("x" * 100_000, f"{step}.txt")
        step += 1
        time.sleep(0.1)
print(step, len(client.get_metric_history(run.info.run_id, "m")))
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    tokens = {"PROXY_JWT_AUDIENCE": AUDIENCE, "PROXY_CLI_CLIENT_ID": NATIVE}
    with world(tmp_path_factory.mktemp("login"), ttl={"AccessToken": LIFETIME}, **tokens) as made:
        yield made


@pytest.fixture
def person(tmp_path: Path, here: World) -> Person:
    """Somebody who trusts the service's certificate and has set nothing else."""
    return somebody(tmp_path, here)


def somebody(home: Path, here: World, command: Path = Path(sys.executable).parent / "mlflow-proxy") -> Person:
    return Person(home, {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(here.service.ca)}, (str(command),))


def sign_in(person: Person, here: World, *more: str, user: str = EDITOR) -> str:
    """By the browser of the machine, played; what is printed."""

    def browser(url: str) -> None:
        requests.get(authorize(url, user), timeout=30)

    done = person.sign_in(browser, here.url, "--no-browser", *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(
    person: Person,
    here: World,
    text: str = PROGRAM,
    *arguments: str,
    python: str = sys.executable,
    **more: str,
) -> subprocess.Popen[str]:
    """MLflow's client in a process of its own, which repeats nothing that failed."""
    more = {"MLFLOW_TRACKING_URI": here.url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **more}
    return subprocess.Popen(
        [python, "-c", text, *arguments],
        cwd=person.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=person.variables(**more),
    )


def works(running: subprocess.Popen[str], patience: float = 120) -> str:
    out, err = running.communicate(timeout=patience)
    assert running.returncode == 0, err
    return out.strip().splitlines()[-1]


def fails(running: subprocess.Popen[str]) -> str:
    """What a person reads at the end of the stack."""
    began = time.monotonic()
    _, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert time.monotonic() - began < 30  # told at once, not after minutes of trying again
    return err


@pytest.mark.parametrize("way", ["--device", "--no-browser"])
def test_after_login_mlflow_works_without_a_variable_and_after_logout_no_more(
    here: World, person: Person, way: str
) -> None:
    if way == "--device":
        done = person.sign_in(lambda url: approve(url, EDITOR), here.url, way)
        assert done.returncode == 0, done.stderr
    else:
        sign_in(person, here)
    assert works(program(person, here)) == "hello bob@example.com"
    assert "bob@example.com (editor)" in person.done("whoami", MLFLOW_TRACKING_URI=here.url)
    kept = (person.folder / "credentials").read_text()
    assert "Signed out" in person.done("logout", here.url)
    assert not (person.folder / "credentials").exists()
    assert "UNAUTHENTICATED" in fails(program(person, here))
    (person.folder / "credentials").write_text(kept)  # a copy that somebody has made
    assert "revoked" in fails(program(person, here))


def test_a_viewers_login_reads_and_is_told_what_it_takes_to_write(here: World, person: Person) -> None:
    sign_in(person, here, user=VIEWER)
    reading = "import mlflow; print(len(mlflow.search_experiments()) > 0)"
    assert works(program(person, here, reading)) == "True"
    assert "needs the role editor" in fails(program(person, here))


def test_a_server_whose_certificate_is_not_trusted_gets_nothing(here: World, person: Person) -> None:
    person.environment.clear()
    said = person.refused("login", here.url, "--with-token", typed="mlfpat_secret")
    assert "is not trusted" in said
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in said


def test_who_is_not_signed_in_is_told_so_by_the_plugin(here: World, person: Person) -> None:
    said = fails(program(person, here, MLFLOW_TRACKING_AUTH="mlflow-proxy"))
    assert f"run `mlflow-proxy login {here.url}`" in said


def test_processes_log_for_minutes_with_access_tokens_of_seconds(here: World, person: Person) -> None:
    """RUN seconds from PROCESSES processes with one file: no call fails, one renewal for all of them."""
    sign_in(person, here, "--no-token")
    assert not (person.folder / "credentials").exists()
    # Two processes that make one experiment at a time are told 400 by MLflow, and its client copes.
    make = "import mlflow; print(mlflow.set_experiment('a long run').name)"
    assert works(program(person, here, make, MLFLOW_TRACKING_AUTH="mlflow-proxy")) == "a long run"
    refreshed = renewals(here.provider)
    before = len(here.service.access_log())
    running = [
        program(person, here, LONG_PROGRAM, str(RUN), MLFLOW_TRACKING_AUTH="mlflow-proxy")
        for _ in range(PROCESSES)
    ]
    for process in running:
        logged, found = map(int, works(process, RUN + 120).split())
        assert logged == found
        assert logged > RUN
    lines = [line for line in here.service.access_log()[before:] if line["user"] == "bob@example.com"]
    assert len(lines) > PROCESSES * RUN
    assert {line["status"] for line in lines} == {200}
    asked = renewals(here.provider) - refreshed
    used = len({line["credential"] for line in lines})
    # Each renewal gave one token that all used; one at the very end may not have been used any more.
    assert asked in (used - 1, used)
    # Each token is renewed when a quarter of its time is left, and not before.
    assert RUN / LIFETIME <= asked <= (RUN + 30) / (LIFETIME * 0.75) + 1
    print(f"{len(lines)} calls of {PROCESSES} processes with {used} access tokens, {asked} renewals")


def test_beside_mlflow_skinny_in_an_empty_environment(here: World, tmp_path: Path) -> None:
    """The client alone, as it is installed in a training image: its wheel, MLflow's client, and no server."""
    source = tmp_path / "client"
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, timeout=120)
    (wheel,) = tmp_path.glob("mlflow_proxy_client-*.whl")
    empty = tmp_path / "empty"
    venv.create(empty, with_pip=True)
    python = empty / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
    subprocess.run([*install, "mlflow-skinny==3.17.2"], check=True, timeout=280)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True, timeout=60
    )
    there = {one["name"] for one in json.loads(listed.stdout)}
    assert "mlflow-proxy-client" in there
    assert "mlflow-proxy" not in there

    home = tmp_path / "home"
    home.mkdir()
    person = somebody(home, here, empty / "bin" / "mlflow-proxy")
    commands = person.done("--help").partition("Commands:")[2]
    assert [line.split()[0] for line in commands.strip().splitlines()] == ["login", "logout", "whoami"]
    sign_in(person, here)
    assert works(program(person, here, python=str(python))) == "hello bob@example.com"
    (person.folder / "credentials").unlink()
    plugin = program(person, here, python=str(python), MLFLOW_TRACKING_AUTH="mlflow-proxy")
    assert works(plugin) == "hello bob@example.com"
    person.done("logout")
    assert not list(person.folder.glob("credentials"))


def renewals(provider: OidcProvider) -> int:
    return provider.token_requests().get("refresh_token", 0)
