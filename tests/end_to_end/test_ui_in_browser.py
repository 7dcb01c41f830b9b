"""A person opens MLflow's UI through the proxy: it loads without a complaint, also while MLflow restarts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAMS, Browser, browsing
from programs import needs
from service import USER, Service, running

pytestmark = [pytest.mark.slow, needs(*PROGRAMS)]

# What each page shows once it is there.
PAGES = {
    "": ("Experiments",),
    "#/experiments": ("Default", "seen in a browser"),
    "#/experiments/{experiment}/runs": ("a run to look at",),
    "#/experiments/{experiment}/runs/{run}": ("a run to look at", "accuracy"),
    "#/models": ("Registered Models", "Create model"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as service:
        deadline = time.monotonic() + 120
        while not list((service.data / "ui").iterdir()):
            assert time.monotonic() < deadline, service.log()
            time.sleep(0.2)
        yield service


@pytest.fixture(scope="module")
def made(service: Service) -> dict[str, str]:
    """An experiment with a run."""

    def post(path: str, **what: Any) -> Any:
        answer = service.session().post(f"{service.url}/api/2.0/mlflow/{path}", json=what, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    experiment = post("experiments/create", name="seen in a browser")["experiment_id"]
    now = int(time.time() * 1000)
    run = post("runs/create", experiment_id=experiment, run_name="a run to look at", start_time=now)
    run_id = run["run"]["info"]["run_id"]
    post("runs/log-metric", run_id=run_id, key="accuracy", value=0.9, timestamp=now)
    return {"experiment": experiment, "run": run_id}


@pytest.fixture(scope="module")
def browser(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(service, tmp_path_factory.mktemp("browser")) as browser:
        browser.sign_in()
        browser.open()
        browser.wait_for(USER, patience=120)
        browser.messages()
        yield browser


def codings(browser: Browser) -> dict[str, int]:
    """By what was sent and what came of it: how many of the page's own files came smaller than they are."""
    script = """
        const all = performance.getEntriesByType("resource");
        const files = all.filter((e) => e.name.includes("/static-files/"));
        return files.map((e) => [e.name, e.encodedBodySize, e.decodedBodySize, e.transferSize]);
    """
    files = browser.chrome.execute_script(script)
    large = [file for file in files if file[2] > 20_000 and file[0].endswith((".js", ".css"))]
    return {"large": len(large), "packed": sum(file[1] < file[2] / 2 for file in large)}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_without_a_complaint(
    browser: Browser, made: dict[str, str], kept: Path, page: str
) -> None:
    browser.messages()
    browser.open(page.format(**made))
    browser.wait_for(*PAGES[page], USER, patience=120)
    name = page.partition("{")[0].strip("#/").replace("/", "-") + ("-run" if "{run}" in page else "")
    browser.keep(kept / f"ui-{name or 'home'}.png")
    assert not [message for message in browser.messages() if "favicon" not in message]
    found = codings(browser)
    assert found["large"]
    assert found["packed"] == found["large"], found


def test_a_second_visit_asks_for_no_file_of_the_ui(browser: Browser, made: dict[str, str]) -> None:
    page = "#/experiments/{experiment}/runs".format(**made)
    browser.open(page)
    browser.wait_for("a run to look at", patience=120)
    since = len(browser.service.access_log())
    browser.open(page)
    browser.wait_for("a run to look at", patience=120)
    asked = [line for line in browser.service.access_log()[since:] if line["operation"] == "ui"]
    assert asked, "the page itself is looked at again"
    assert {line["path"] for line in asked if line["status"] != 304} <= {"/"}
    assert not [line for line in asked if "/static/" in line["path"]]


def test_the_ui_opens_while_mlflow_restarts_and_shows_what_it_has_then(
    browser: Browser, service: Service, made: dict[str, str], kept: Path
) -> None:
    os.kill(guard(service), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while service.anonymous().get(f"{service.url}/health", timeout=20).status_code == 200:
        assert time.monotonic() < deadline, "MLflow is still there"
        time.sleep(0.05)
    browser.open("#/experiments")
    browser.until(lambda: browser.chrome.find_elements("css selector", "#root > *"), 120, "MLflow's UI")
    browser.keep(kept / "ui-while-mlflow-is-away.png")
    text = browser.text()
    assert "MLflow is not ready" not in text
    browser.wait_for("seen in a browser", USER, patience=240)
    browser.keep(kept / "ui-when-mlflow-is-back.png")


def guard(service: Service) -> int:
    """The process that MLflow is under; when it ends, MLflow does."""
    own = service.process.pid
    for child in Path(f"/proc/{own}/task/{own}/children").read_text().split():
        if b"guard.py" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError(json.dumps({"no guard of": own}))
