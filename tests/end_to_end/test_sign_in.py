"""People sign in with a real identity provider in a real browser, work as their groups allow, and sign out.

Everything here is done twice: with one service and SQLite, and with two replicas on one PostgreSQL behind a
balancer that gives each connection to the other one.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, DRIVER, Window, window
from databases import PostgreSQL, database
from identity_provider import ADMIN, EDITOR, PASSWORD, VIEWER, installed
from identity_world import REFRESH, World, world
from programs import needs
from selenium.common.exceptions import ElementClickInterceptedException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from service import PASSWORD as OWN_PASSWORD
from service import USER, clean_environment

pytestmark = [
    pytest.mark.slow,
    needs(CHROMIUM, DRIVER),
    pytest.mark.skipif(not installed(), reason="not installed: oidc-provider (npm ci)"),
]
# How long after a session has ended somewhere every replica refuses it: proxy.auth.session looks every 2 s.
ENDED_WITHIN = 5.0
EXPERIMENTS = "/#/experiments"
KINDS = [
    "one",
    pytest.param("two", marks=needs(*PostgreSQL.programs)),
]


@pytest.fixture(scope="module", params=KINDS)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        if request.param == "one":
            made = stack.enter_context(world(folder))
        else:
            uri = stack.enter_context(database(PostgreSQL)).uri()
            made = stack.enter_context(
                world(folder, replicas=2, PROXY_DATABASE_URL=uri, MLFLOW_BACKEND_STORE_URI=uri)
            )
        admin = made.service.session()
        for name in ("first", "to be deleted"):
            admin.post(
                f"{made.service.local}/api/2.0/mlflow/experiments/create", json={"name": name}, timeout=30
            ).raise_for_status()
        yield made


@pytest.fixture
def browser() -> Iterator[Window]:
    with window() as browser:
        yield browser


@pytest.fixture
def keep(here: World, kept: Path) -> Path:
    """Where pictures go, by the kind of deployment."""
    folder = kept / f"sign-in-{len(here.replicas)}"
    folder.mkdir(exist_ok=True)
    return folder


def account_button(name: str) -> str:
    return f'button[aria-label="Account menu for {name}@example.com"]'


def fill_in(browser: Window, name: str) -> None:
    """The provider's own page, where it asks."""
    browser.find("input[name=login]").send_keys(name)
    browser.find("input[name=password]").send_keys(PASSWORD)
    browser.find("button[type=submit]").click()


def sign_in(browser: Window, here: World, name: str, path: str = EXPERIMENTS) -> None:
    browser.get(here.url + path)
    browser.find("#start").click()
    fill_in(browser, name)
    browser.find(account_button(name))


def create_experiment(browser: Window, name: str) -> None:
    browser.find_text("Create").click()
    browser.find("#experimentName").send_keys(name)
    browser.find_text("Create", "[role=dialog] button").click()


def delete_experiment(browser: Window, name: str) -> None:
    def found() -> WebElement | None:
        rows = browser.find_elements(By.CSS_SELECTOR, "[role=row], tr")
        return next((row for row in rows if name in row.text), None)

    row = browser.until(found, f"a row of {name}")
    row.find_element(By.CSS_SELECTOR, "input[type=checkbox]").click()
    browser.find_text("Delete").click()
    browser.find_text("Delete", "[role=dialog] button").click()


def other_tab(browser: Window) -> str:
    """Go to the tab that was opened last; the one that was left."""
    left = browser.current_window_handle
    browser.until(lambda: len(browser.window_handles) == 2, "a second tab")
    browser.switch_to.window(next(handle for handle in browser.window_handles if handle != left))
    return left


def test_who_signs_in_lands_on_the_page_first_asked_for(here: World, browser: Window, keep: Path) -> None:
    browser.get(f"{here.url}/?from=mail#/experiments?searchFilter=first")
    browser.shows("Sign in with localhost")
    browser.pictures(keep, "sign-in")
    browser.find("#start").click()
    browser.shows("Sign-in")
    assert browser.current_url.startswith(here.provider.issuer)
    browser.picture(keep / "provider.png")
    fill_in(browser, VIEWER)
    browser.find(account_button(VIEWER))
    assert browser.current_url == f"{here.url}/?from=mail#/experiments?searchFilter=first"
    browser.shows("first")
    browser.picture(keep / "landed.png")
    cookies = {cookie["name"]: cookie for cookie in browser.get_cookies()}
    (name,) = (name for name in cookies if re.fullmatch("__Host-mlflow_proxy_[0-9a-f]{8}", name))
    cookie = cookies[name]
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        True,
        True,
        "Lax",
        "/",
    )


def test_two_tabs_sign_in_at_once(here: World, browser: Window) -> None:
    browser.get(f"{here.url}/#/experiments")
    browser.find("#start").click()
    browser.find("input[name=login]")
    browser.switch_to.new_window("tab")
    browser.get(f"{here.url}/#/prompts")
    browser.find("#start").click()
    fill_in(browser, EDITOR)
    browser.find(account_button(EDITOR))
    browser.at("/#/prompts")
    browser.switch_to.window(browser.window_handles[0])
    fill_in(browser, EDITOR)
    browser.find(account_button(EDITOR))
    browser.at("/#/experiments")


def test_a_viewer_sees_everything_and_is_told_what_a_viewer_may_not(
    here: World, browser: Window, keep: Path
) -> None:
    sign_in(browser, here, VIEWER)
    browser.shows("first")
    create_experiment(browser, "of a viewer")
    browser.shows("alice@example.com is a viewer")
    browser.shows("needs the role editor")
    browser.picture(keep / "viewer-refused.png")


def test_an_editor_works_and_is_told_what_an_editor_may_not(here: World, browser: Window, keep: Path) -> None:
    name = f"of an editor {len(here.replicas)}"
    sign_in(browser, here, EDITOR)
    create_experiment(browser, name)
    browser.until(lambda: "#/experiments/" in browser.current_url, "the new experiment's page")
    browser.shows(name)
    browser.picture(keep / "editor-created.png")
    browser.get(here.url + EXPERIMENTS)
    delete_experiment(browser, "to be deleted")
    browser.shows("needs the role admin")
    browser.picture(keep / "editor-refused.png")


def test_an_admin_deletes(here: World, browser: Window, keep: Path) -> None:
    sign_in(browser, here, ADMIN)
    delete_experiment(browser, "to be deleted")
    browser.until(
        lambda: "to be deleted" not in browser.find_element(By.TAG_NAME, "main").text, "the experiment gone"
    )
    browser.picture(keep / "admin-deleted.png")


def test_signing_out_ends_the_session_here_and_at_the_provider(
    here: World, browser: Window, keep: Path
) -> None:
    sign_in(browser, here, VIEWER)
    copied = here.person()
    for cookie in browser.get_cookies():
        copied.cookies.set(cookie["name"], cookie["value"], domain="127.0.0.1", secure=True)
    assert here.who(copied) == f"{VIEWER}@example.com"
    browser.find(account_button(VIEWER)).click()
    browser.ours("a.item")
    browser.picture(keep / "account-menu.png")
    browser.ours("button.item").click()
    browser.find_text("Yes, sign me out").click()
    browser.shows("You are signed out")
    browser.pictures(keep, "signed-out")
    time.sleep(ENDED_WITHIN)
    assert [here.who(copied, replica) for replica in here.replicas] == [None] * len(here.replicas)
    browser.find_text("Sign in again").click()
    browser.find("#start").click()
    browser.find("input[name=login]")  # the provider does not know the person any more, either


def test_the_provider_signs_somebody_out(here: World, browser: Window, keep: Path) -> None:
    sign_in(browser, here, EDITOR)
    browser.switch_to.new_window("tab")
    browser.get(f"{here.provider.issuer}/session/end")
    browser.find_text("Yes, sign me out").click()
    browser.shows("Sign-out Success")
    here.provider.said(f"back-channel logout of {EDITOR}")
    browser.close()
    browser.switch_to.window(browser.window_handles[0])
    time.sleep(ENDED_WITHIN)
    with contextlib.suppress(ElementClickInterceptedException):  # MLflow has asked for something by itself
        browser.find_text("Prompts").click()
    assert "Your session has ended. Sign in again" in browser.ours("dialog").text
    browser.picture(keep / "signed-out-by-provider.png")


def test_a_session_that_ended_under_an_open_page_goes_on_after_signing_in_again(
    here: World, browser: Window, keep: Path
) -> None:
    sign_in(browser, here, EDITOR)
    browser.find_text("Create").click()
    name = f"written before the end {len(here.replicas)}"
    browser.find("#experimentName").send_keys(name)
    command = [sys.executable, "-m", "proxy", "sessions", "end", f"{EDITOR}@example.com"]
    environment = {**clean_environment(), **here.service.environment}
    done = subprocess.run(command, cwd=here.service.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    time.sleep(ENDED_WITHIN)
    browser.find_text("Create", "[role=dialog] button").click()
    browser.ours("dialog")
    browser.picture(keep / "session-ended.png")
    browser.ours("dialog a").click()
    left = other_tab(browser)
    browser.find("#start").click()  # the provider still knows them
    # The new tab closes by itself, where the browser lets it.
    browser.until(
        lambda: len(browser.window_handles) == 1 or "You are signed in again" in browser.page_source,
        "signed in again",
    )
    browser.switch_to.window(left)
    browser.until(lambda: "#/experiments/" in browser.current_url, "the experiment made after all")
    browser.shows(name)
    browser.picture(keep / "went-on.png")


def test_a_person_ends_a_session_and_an_admin_anothers(here: World, browser: Window, keep: Path) -> None:
    elsewhere, of_viewer = here.sign_in(ADMIN), here.sign_in(VIEWER)
    sign_in(browser, here, ADMIN)
    browser.get(f"{here.url}/-/account")
    browser.shows("Your sessions")
    browser.pictures(keep, "account")
    mine = browser.find_elements(By.CSS_SELECTOR, "ul.sessions > li")
    program = next(row for row in mine if "python-requests" in row.text)
    program.find_element(By.TAG_NAME, "button").click()
    browser.shows("The session has ended.")
    browser.find_text("Show everybody's tokens and sessions").click()
    browser.shows("Everybody's sessions")
    browser.pictures(keep, "account-everybody")
    rows = browser.find_elements(By.CSS_SELECTOR, "h2#everybodys-sessions + ul > li")
    theirs = next(row for row in rows if VIEWER in row.text and "python-requests" in row.text)
    theirs.find_element(By.TAG_NAME, "button").click()
    browser.shows("The session has ended.")
    time.sleep(ENDED_WITHIN)
    assert here.who(elsewhere) is None
    assert here.who(of_viewer) is None
    browser.get(here.url + EXPERIMENTS)
    browser.find(account_button(ADMIN))


def test_a_group_taken_away_ends_what_it_allowed(here: World) -> None:
    person = here.sign_in(EDITOR)
    create = f"{here.url}/api/2.0/mlflow/experiments/create"
    name = f"with the group {len(here.replicas)}"
    assert person.post(create, json={"name": name}, timeout=30).status_code == 200
    here.provider.set_user(EDITOR, groups=["viewers"])
    try:
        deadline = time.monotonic() + REFRESH + ENDED_WITHIN
        while (answer := person.post(create, json={"name": name}, timeout=30)).status_code != 403:
            assert answer.status_code == 400, answer.text  # it is there already
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "is a viewer" in answer.json()["message"]
    finally:
        here.provider.set_user(EDITOR, groups=["editors"])


def test_an_account_that_is_gone_is_out(here: World) -> None:
    person = here.sign_in(VIEWER)
    here.provider.set_user(VIEWER, gone=True)
    try:
        deadline = time.monotonic() + REFRESH + ENDED_WITHIN
        while here.who(person) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        here.provider.set_user(VIEWER, gone=False)


def test_the_provider_is_down_and_those_who_are_in_stay(here: World, browser: Window) -> None:
    sign_in(browser, here, EDITOR)
    here.provider.set_down("/")
    try:
        time.sleep(REFRESH + 1)
        browser.refresh()
        browser.find(account_button(EDITOR))
    finally:
        here.provider.set_down("")


def test_a_sign_in_that_the_provider_does_not_complete_is_explained(
    here: World, browser: Window, keep: Path
) -> None:
    here.provider.set_down("/token")
    try:
        browser.get(here.url + EXPERIMENTS)
        browser.find("#start").click()
        fill_in(browser, VIEWER)
        browser.shows("The identity provider")
        browser.shows("For the operator: ")
        browser.shows("Request ")
        browser.pictures(keep, "provider-failed")
        assert "Traceback" not in browser.page_source
    finally:
        here.provider.set_down("")
    browser.find_text("Sign in again").click()
    browser.find("#start").click()
    browser.find(account_button(VIEWER))


def test_somebody_without_a_role_is_told_so(here: World, browser: Window, keep: Path) -> None:
    browser.get(here.url + EXPERIMENTS)
    browser.find("#start").click()
    fill_in(browser, "mallory")
    browser.shows("You have no role here")
    browser.pictures(keep, "no-role")


def test_a_password_of_ours_makes_a_session_too(here: World, browser: Window, keep: Path) -> None:
    browser.get(f"{here.url}/#/prompts")
    browser.find("#username").send_keys(USER)
    browser.find("#password").send_keys("not the word")
    browser.find_text("Sign in").click()
    browser.find("[role=alert]")
    browser.picture(keep / "wrong-password.png")
    browser.find("#password").send_keys(OWN_PASSWORD)
    browser.find_text("Sign in").click()
    browser.find(f'button[aria-label="Account menu for {USER}"]')
    assert browser.current_url.startswith(f"{here.url}/")


def test_a_script_is_told_where_to_get_a_credential_and_not_led_to_a_page(here: World) -> None:
    answer = here.person().get(f"{here.url}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=30)
    assert answer.status_code == 401
    assert answer.json()["error_code"] == "UNAUTHENTICATED"
    assert not answer.history


def test_replicas_share_the_work(here: World) -> None:
    """What the other tests rely on: the requests above went to all of them."""
    for replica in here.replicas:
        users = {line["user"] for line in replica.access_log()}
        assert f"{EDITOR}@example.com" in users
