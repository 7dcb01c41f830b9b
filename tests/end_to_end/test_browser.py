"""A person in front of the UI: waits for it, sees what a client logged, works in it, is refused kindly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAMS, Browser, browsing
from programs import needs
from service import PASSWORD, USER, Service, running, start

from proxy.auth import passwords

pytestmark = [pytest.mark.slow, needs(*PROGRAMS)]

QUICKSTART = Path(__file__).with_name("quickstart.py")
VIEWER = "eve"
VIEWERS_PASSWORD = "seven green lamps"
REFUSED = re.compile(r"\b(401|403|421)\b|Content Security Policy|Refused to|CORS")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a viewer beside its admin."""
    folder = tmp_path_factory.mktemp("service")
    users = folder / "users"
    users.write_text(f"{VIEWER}:{passwords.hash_password(VIEWERS_PASSWORD)}:viewer\n")
    users.chmod(0o600)
    with running(folder, PROXY_USERS_FILE=str(users)) as service:
        yield service


@pytest.fixture(scope="module")
def made(service: Service) -> dict[str, Any]:
    """What MLflow's client has logged there: the quickstart."""
    result = service.folder / "result.json"
    done = subprocess.run(
        [sys.executable, str(QUICKSTART), str(result), "1000"],
        env=service.client_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(result.read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def browser(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The admin's browser, signed in."""
    with browsing(service, tmp_path_factory.mktemp("browser")) as browser:
        browser.sign_in()
        browser.open()
        browser.wait_for(USER)
        browser.messages()
        yield browser


def refused(browser: Browser) -> list[str]:
    """What the console says of requests that were refused to the page, or policies that it broke."""
    return [message for message in browser.messages() if REFUSED.search(message)]


def test_a_page_waits_while_mlflow_starts_and_turns_into_the_ui_by_itself(tmp_path: Path, kept: Path) -> None:
    service = start(tmp_path / "service", ready=False)
    try:
        with browsing(service, tmp_path / "browser") as browser:
            browser.sign_in()
            browser.open("#/experiments")
            text = browser.wait_for("MLflow is not ready yet", "MLflow is starting")
            browser.keep(kept / "browser-waiting.png")
            assert "shows MLflow by itself" in text
            browser.wait_for("Experiments", "Default", USER, patience=120)
            assert browser.chrome.current_url == f"{service.url}/#/experiments"
            assert not refused(browser)
    finally:
        service.end()


def test_the_experiments_and_who_is_signed_in(browser: Browser, made: dict[str, Any], kept: Path) -> None:
    browser.open("#/experiments")
    browser.wait_for("Experiments", "Default", "quickstart", USER)
    browser.keep(kept / "browser-experiments.png")
    assert not refused(browser)


def test_a_run_with_its_parameters_and_its_metrics_drawn(
    browser: Browser, made: dict[str, Any], kept: Path
) -> None:
    run = f"#/experiments/{made['experiment_id']}/runs/{made['run_id']}"
    browser.open(f"#/experiments/{made['experiment_id']}/runs")
    browser.wait_for("first run")
    browser.keep(kept / "browser-runs.png")
    browser.open(run)
    browser.wait_for("first run", "accuracy", "loss", "learning_rate", "0.01", "Finished")
    browser.keep(kept / "browser-run.png")
    browser.open(f"{run}/model-metrics")
    browser.wait_for("first run (accuracy)", "first run (loss)")
    browser.wait_for_one(".plot-container")
    browser.keep(kept / "browser-metrics.png")
    assert not refused(browser)


def test_the_artifacts_are_listed_and_a_text_is_shown(
    browser: Browser, made: dict[str, Any], kept: Path
) -> None:
    browser.open(f"#/experiments/{made['experiment_id']}/runs/{made['run_id']}/artifacts")
    browser.wait_for("notes.txt", "data")
    browser.click("notes.txt", "*")
    browser.wait_for("What the run has to say:", "it works")
    browser.keep(kept / "browser-artifact.png")
    assert not refused(browser)


def test_a_trace_and_a_registered_model(browser: Browser, made: dict[str, Any], kept: Path) -> None:
    browser.open(f"#/experiments/{made['experiment_id']}/traces")
    browser.wait_for("Hello, you")
    browser.keep(kept / "browser-traces.png")
    browser.open("#/models/echo")
    browser.wait_for("echo", "Version 1")
    browser.keep(kept / "browser-model.png")
    assert not refused(browser)


def test_an_experiment_is_made_in_the_ui(browser: Browser, kept: Path) -> None:
    create_experiment(browser, "made in the UI")
    browser.until(lambda: "#/experiments/" in browser.chrome.current_url, 20, "the new experiment's page")
    browser.wait_for("made in the UI")
    browser.keep(kept / "browser-created.png")
    found = browser.service.session().get(
        f"{browser.service.url}/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": "made in the UI"},
        timeout=10,
    )
    assert found.json()["experiment"]["name"] == "made in the UI"
    assert not refused(browser)


def test_a_viewer_is_told_why_not_and_the_ui_goes_on(
    service: Service, made: dict[str, Any], tmp_path: Path, kept: Path
) -> None:
    with browsing(service, tmp_path) as browser:
        browser.sign_in(VIEWER, VIEWERS_PASSWORD)
        browser.open(f"#/experiments/{made['experiment_id']}/runs/{made['run_id']}")
        browser.wait_for("first run", "accuracy", VIEWER)
        create_experiment(browser, "not for eve")
        browser.wait_for(f"{VIEWER} is a viewer", "needs the role editor")
        browser.keep(kept / "browser-viewer-refused.png")
        browser.open("#/experiments")
        text = browser.wait_for("Default", "quickstart", VIEWER)
        assert "not for eve" not in text
        browser.keep(kept / "browser-viewer-goes-on.png")


def test_a_wrong_password_shows_nothing_of_mlflow(service: Service, tmp_path: Path, kept: Path) -> None:
    with browsing(service, tmp_path) as browser:
        browser.sign_in(USER, PASSWORD[:-1])
        time.sleep(1)
        browser.keep(kept / "browser-wrong-password.png")
        assert "Experiments" not in browser.chrome.page_source
        assert "401" in " ".join(browser.messages())


def create_experiment(browser: Browser, name: str) -> None:
    """By the button and the dialogue."""
    browser.open("#/experiments")
    browser.wait_for("Default")
    browser.click("Create")
    browser.wait_for_one("#experimentName").send_keys(name)
    browser.click("Create", "[role=dialog] button")
