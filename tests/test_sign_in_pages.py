"""The pages around signing in, and the script in MLflow's UI: a real browser over MLflow's real UI files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, DRIVER, Window, window
from programs import needs
from selenium.common.exceptions import NoSuchWindowException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from sign_in_site import BUILD, FIREFOX, Site, serving

from proxy import ui_script
from proxy.errors import UserError
from proxy.identity import Identity, Role
from proxy.pages import answers, brand, templating, wording
from proxy.pages.answers import Receive, Scope, Send

HOST_CLASS = "return document.querySelector('#mlflow-proxy').className"
chromium = needs(CHROMIUM, DRIVER)
ADMIN = Identity("alice@example.com", Role.ADMIN, "session")
PAGES = ("/oauth2/sign_in", "/problem", "/-/account", "/-/signed-in")
# What a test calls as MLflow's UI does, and answers as MLflow does.
SEARCH = "/ajax-api/2.0/mlflow/runs/search"
GET_BY_NAME = "/ajax-api/2.0/mlflow/experiments/get-by-name"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with serving(site):
        yield site


@pytest.fixture
def browser() -> Iterator[Window]:
    with window() as browser:
        yield browser


@pytest.fixture
def ui(site: Site, browser: Window) -> Window:
    """MLflow's UI, as alice sees it; its own account button is there."""
    browser.get(f"http://127.0.0.1:{site.port}/#/experiments")
    browser.find('button[aria-label="Account menu for alice@example.com"]')
    browser.until(lambda: browser.find_elements(By.ID, "mlflow-proxy"), "our script at work")
    return browser


def called(browser: Window, path: str = SEARCH) -> None:
    """Call MLflow as its UI does, and keep what becomes of it in the window's `outcome`."""
    browser.execute_script(
        "window.outcome = null;"
        "fetch(arguments[0], {method: 'POST', body: JSON.stringify({max_results: 7}),"
        " headers: {'Content-Type': 'application/json'}})"
        ".then(async (answer) => { window.outcome = [answer.status, await answer.text()]; },"
        " (error) => { window.outcome = [error.name]; });",
        path.removeprefix("/"),
    )


def outcome(browser: Window) -> list[object] | None:
    found = browser.execute_script("return window.outcome")
    assert found is None or isinstance(found, list)
    return found


# The pages.


@pytest.mark.parametrize("path", PAGES)
def test_a_page_lets_nothing_in_but_its_own_style_and_script(site: Site, path: str) -> None:
    answer, text = site.ask("GET", path)
    policy = dict(part.split(" ", 1) for part in str(answer.getheader("content-security-policy")).split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["form-action"] == ("'self'" if "<form" in text else "'none'")
    for kind in ("style", "script"):
        inside = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in inside]
        assert [f"'sha256-{digest}'" for digest in digests] == ([policy[f"{kind}-src"]] if inside else [])
    assert not re.search(r"\son\w+=|\sstyle=|(src|href|action)=\"(https?:)?//", text)
    assert answer.getheader("cache-control") == "no-store"
    assert '<html lang="en">' in text
    assert text.count("<h1>") == 1


def test_what_others_have_said_is_shown_as_text(site: Site) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt; try later" in site.ask("GET", "/problem")[1]
    assert "Alice &lt;i&gt;Liddell&lt;/i&gt;" in site.ask("GET", "/-/account")[1]
    sign_in = site.ask("GET", '/oauth2/sign_in?rd=/"><script>x</script>')[1]
    assert "<script>x" not in sign_in


def test_a_failed_sign_in_says_what_to_check_and_has_the_request_id(site: Site) -> None:
    answer, text = site.ask("GET", "/problem")
    assert answer.status == 502
    assert "did not answer in 10 s" in text
    assert "For the operator: does https://idp.example.com" in text
    assert "<code>4f1c22ab04d100000017</code>" in text
    assert 'href="/oauth2/sign_in"' in text


def test_only_the_ways_in_that_are_on_are_offered(site: Site) -> None:
    text = site.ask("GET", "/oauth2/sign_in?rd=/x")[1]
    assert 'href="/oauth2/start?rd=/x"' in text
    assert 'type="password"' in text
    assert "or with a password" in text
    site.ways = replace(site.ways, form=None)
    text = site.ask("GET", "/oauth2/sign_in")[1]
    assert "Sign in with idp.example.com" in text
    assert not re.search("password", text, re.IGNORECASE)
    site.ways = replace(site.ways, start=None)
    assert "No way of signing in is switched on" in site.ask("GET", "/oauth2/sign_in")[1]


def test_a_wrong_password_is_said_where_a_screen_reader_says_it(site: Site) -> None:
    site.status, site.message = 401, "The user name or password is wrong."
    answer, text = site.ask("POST", "/oauth2/sign_in", {"username": "carol", "password": "x", "rd": "/"})
    assert answer.status == 401
    assert '<p class="notice message" role="alert">The user name or password is wrong.</p>' in text
    assert 'value="carol"' in text
    assert text.count('aria-invalid="true"') == 2


def test_the_account_page_lists_ones_own_sessions_and_no_others(site: Site) -> None:
    text = site.ask("GET", "/-/account?everyone")[1]
    assert "Firefox on Linux" in text
    assert "last used 3 minutes ago" in re.sub("<[^>]+>", "", text)
    assert "2001:db8::17" in text
    assert "bob@example.com" not in text
    assert "everyone" not in text


def test_a_session_is_ended_by_its_owner_or_an_admin_alone(site: Site) -> None:
    end = "/-/account/end"
    answer, _ = site.ask("POST", end, {"session": "b" * 8})
    assert (answer.status, answer.getheader("location")) == (303, "/-/account?ended")
    site.ask("POST", end, {"session": "c" * 8})
    assert site.sessions.ended == [("b" * 8, "alice@example.com")]
    site.identity = ADMIN
    assert "bob@example.com" in site.ask("GET", "/-/account?everyone")[1]
    answer, _ = site.ask("POST", end, {"session": "c" * 8, "everyone": ""})
    assert answer.getheader("location") == "/-/account?ended&everyone"
    assert site.sessions.ended[1:] == [("c" * 8, "alice@example.com")]
    assert site.ask("PUT", end)[0].status == 405
    answer, _ = site.ask("GET", end)
    assert (answer.status, answer.getheader("location")) == (303, "/-/account")
    assert len(site.sessions.ended) == 2


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"session=a&session=b", {}, 400),
        (b"session=%ff", {}, 400),
        (b"session=" + b"a" * 70000, {}, 413),
        (b'{"session": "a"}', {"Content-Type": "application/json"}, 400),
        (b"&".join(b"f%d=" % n for n in range(60)), {}, 400),
    ],
)
def test_a_form_that_is_not_ours_is_refused(
    site: Site, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer, _ = site.ask("POST", "/-/account/end", body, **headers)
    assert answer.status == status
    assert site.sessions.ended == []


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/141.0 Safari/537.36 Edg/141.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; like Mac OS X) Version/18.1 Safari/604.1", "Safari on iPhone"),
        ("Mozilla/5.0 (Linux; Android 15) Chrome/141.0 Safari/537.36", "Chrome on Android"),
        ("python-requests/2.32", "python-requests/2.32"),
        ("", "an unnamed program"),
        ("x" * 500, "x" * 60),
    ],
)  # fmt: skip
def test_a_browser_is_called_by_a_name_that_a_person_knows(user_agent: str, words: str) -> None:
    assert wording.device(user_agent) == words


def test_name_and_logo_stand_on_every_page(site: Site, tmp_path: Path) -> None:
    logo = tmp_path / "logo.svg"
    logo.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    templating.show(brand.load("Wonderland's <runs>", logo))
    try:
        for path in PAGES:
            text = site.ask("GET", path)[1]
            assert "· Wonderland&#39;s &lt;runs&gt;</title>" in text
            assert '<img src="data:image/svg+xml;base64,PHN2' in text
    finally:
        templating.show(brand.Brand())


def test_a_logo_that_is_none_is_refused_at_start(tmp_path: Path) -> None:
    for content, words in (
        (b"hello", "is no PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(300_000), "is over 256 KiB"),
    ):
        path = tmp_path / "logo"
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"PROXY_LOGO_FILE: .*logo {words}"):
            brand.load(None, path)
    with pytest.raises(UserError, match="can't be read: No such file"):
        brand.load(None, tmp_path / "away.png")


# The script in MLflow's index.html.


def test_only_one_tag_is_added_to_mlflows_index(site: Site) -> None:
    index = (BUILD / "index.html").read_bytes()
    answer, text = site.ask("GET", "/")
    before, tag, after = text.partition(
        f'<script defer="defer" src="-/ui.js?v={hashlib.sha256(ui_script.SCRIPT).hexdigest()[:16]}"></script>'
    )
    assert tag
    assert (before + after).encode() == index
    assert after.startswith("</head>")
    assert int(str(answer.getheader("content-length"))) == len(text)


def test_a_page_without_a_head_or_with_the_tag_stays_as_it_is() -> None:
    once = ui_script.with_script(b"<html><HEAD></HEAD><body></body></html>")
    assert once.count(b"<script") == 1
    assert ui_script.with_script(once) == once
    assert ui_script.with_script(b"no page") == b"no page"
    alone = ui_script.with_script(b"<head></head>", sessions=False)
    assert b" data-sessions=no " in alone
    assert ui_script.with_script(alone, sessions=False) == alone


def test_a_kept_index_is_confirmed_by_our_own_tag_and_never_by_mlflows(site: Site) -> None:
    answer, text = site.ask("GET", "/")
    tag = str(answer.getheader("etag"))
    again, nothing = site.ask("GET", "/", **{"If-None-Match": f'"x", W/{tag}', "Accept-Encoding": "gzip"})
    assert (again.status, nothing, again.getheader("etag")) == (304, "", tag)
    since = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT", "Range": "bytes=0-9"}
    assert site.ask("GET", "/", **since)[1] == text
    head, nothing = site.ask("HEAD", "/")
    assert (head.status, nothing, head.getheader("etag")) == (200, "", tag)
    assert head.getheader("content-length") == str(len(text))


def test_what_is_no_page_passes_through_unchanged(site: Site) -> None:
    manifest = (BUILD / "manifest.json").read_text()
    assert site.ask("GET", "/static-files/manifest.json")[1] == manifest
    site.identity = None
    assert json.loads(site.ask("GET", "/")[1])["error_code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("status", "kind", "size"),
    [
        (200, b"text/html", (1 << 20) + 70_000),  # no index of MLflow's is as large
        (503, b"text/html", 300),
        (200, b"application/json", 300),
        (304, b"text/html", 0),
    ],
)
def test_another_answer_for_the_index_is_handed_on_as_it_comes(
    method: str, status: int, kind: bytes, size: int
) -> None:
    whole = b"<html><head></head>" + bytes(size)
    length = (b"content-length", b"%d" % len(whole))

    async def mlflow(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", kind), (b"etag", b'"theirs"'), length]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for begin in range(0, len(whole), 65536):
            piece = whole[begin : begin + 65536]
            more = begin + 65536 < len(whole)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    async def nothing() -> Any:
        raise AssertionError("the body was asked for")

    scope = {"method": method, "path": "/", "headers": [(b"if-none-match", b'"theirs"')]}
    asyncio.run(ui_script.adding_script(mlflow)(scope, nothing, keep))
    assert sent[0]["status"] == status
    assert (b"etag", b'"theirs"') in sent[0]["headers"]
    assert b"".join(message["body"] for message in sent[1:]) == (whole if method == "GET" else b"")
    assert [message.get("more_body", False) for message in sent[1:]][-1] is False


def test_the_script_is_kept_by_the_browser_until_it_changes(site: Site) -> None:
    answer, text = site.ask("GET", ui_script.PATH)
    assert text.encode() == ui_script.SCRIPT
    assert "immutable" in str(answer.getheader("cache-control"))
    assert len(ui_script.SCRIPT) < 16384


# In the browser.


@pytest.mark.slow
@chromium
def test_every_page_in_light_dark_and_on_a_phone(site: Site, browser: Window, kept: Path) -> None:
    site.identity = ADMIN
    for path, name in (
        ("/oauth2/sign_in?rd=/", "sign-in"),
        ("/problem", "sign-in-failed"),
        ("/-/account?everyone&ended", "account"),
        ("/-/signed-in", "signed-in"),
    ):
        browser.get(f"http://127.0.0.1:{site.port}{path}")
        browser.pictures(kept, f"page-{name}")
        browser.screen(320, 640)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 320, path
        browser.screen(1200, 800)
        said = [
            entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]
        ]
        assert not said


@pytest.mark.slow
@chromium
def test_the_fragment_goes_along_with_either_way_of_signing_in(site: Site, browser: Window) -> None:
    browser.get(f"http://127.0.0.1:{site.port}/oauth2/sign_in?rd=/%3Fo=1#/experiments/1?a=b&c=d")
    start = browser.find("#start").get_attribute("href")
    assert str(start).endswith("/oauth2/start?rd=%2F%3Fo%3D1%23%2Fexperiments%2F1%3Fa%3Db%26c%3Dd")
    browser.find("#username").send_keys(Keys.TAB, "secret words", Keys.ENTER)
    browser.until(lambda: site.bodies, "the form sent")
    assert site.bodies == [
        b"rd=%2F%3Fo%3D1%23%2Fexperiments%2F1%3Fa%3Db%26c%3Dd&username=carol&password=secret+words"
    ]


@pytest.mark.slow
@chromium
def test_mlflows_account_button_opens_our_menu(site: Site, ui: Window, kept: Path) -> None:
    button = ui.find('button[aria-label^="Account menu for "]')
    button.click()
    menu = ui.ours("[popover]")
    ui.until(lambda: "Signed in as alice@example.com" in menu.text, "the name")
    ui.picture(kept / "ui-account-menu.png")
    assert not ui.find_elements(By.CSS_SELECTOR, "[role=menu]"), "MLflow's menu is open, too"
    assert ui.has_ours("a.item")
    button.click()
    ui.until(lambda: not ui.has_ours("[popover]"), "the menu closed by a second click")
    # By keyboard: open, go down the items, close, and be back at the button.
    time.sleep(0.3)
    button.send_keys(Keys.ENTER)
    ui.ours("[popover]")
    ui.switch_to.active_element.send_keys(Keys.TAB)
    inner = "return document.querySelector('#mlflow-proxy').shadowRoot.activeElement.textContent"
    assert ui.execute_script(inner) == "Sign out"
    ui.switch_to.active_element.send_keys(Keys.ESCAPE)
    ui.until(lambda: not ui.has_ours("[popover]"), "the menu closed by Escape")
    assert ui.switch_to.active_element == button


@pytest.mark.slow
@chromium
def test_the_account_page_and_signing_out_are_reached_from_the_ui(site: Site, ui: Window, kept: Path) -> None:
    ui.find('button[aria-label^="Account menu for "]').click()
    ui.ours("a.item").click()
    ui.shows("Your sessions")
    ui.find_text("Back to MLflow").click()
    ui.find('button[aria-label^="Account menu for "]').click()
    ui.ours("button.item").click()
    ui.shows("You are signed out")
    ui.pictures(kept, "page-signed-out")
    assert ("POST", "/oauth2/sign_out") in site.requests


@pytest.mark.slow
@chromium
def test_a_session_that_ends_under_the_page_is_taken_up_again_without_losing_it(
    site: Site, ui: Window, kept: Path
) -> None:
    ui.execute_script("window.notes = 'typed and not yet saved'")
    site.mlflow_answers[SEARCH] = (200, b'{"runs": ["found"]}')
    site.mlflow_answers[GET_BY_NAME] = (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}')
    # A dialogue of MLflow's own is open, and what was typed in it is sent too late.
    ui.find_text("Create experiment").click()
    ui.find("#experimentName").send_keys("typed before the end")
    alice, site.identity = site.identity, None
    ui.find_text("Create", "[role=dialog] button").click()
    dialog = ui.ours("dialog")
    called(ui)
    assert "Your session has ended. Sign in again" in dialog.text
    ui.picture(kept / "ui-session-ended.png")
    ui.execute_script("document.body.classList.add('dark-mode')")
    ui.until(lambda: ui.execute_script(HOST_CLASS) == "dark", "our dialogue dark, too")
    ui.picture(kept / "ui-session-ended-dark.png")
    ui.execute_script("document.body.classList.remove('dark-mode')")
    assert outcome(ui) is None, "the call waits for the person"
    first = ui.current_window_handle
    ui.ours("dialog a").click()
    ui.until(lambda: len(ui.window_handles) == 2, "a tab to sign in")
    ui.switch_to.window(next(handle for handle in ui.window_handles if handle != first))
    ui.at("/oauth2/sign_in?rd=%2F-%2Fsigned-in")
    site.identity = alice
    with contextlib.suppress(NoSuchWindowException):  # the tab closes itself, maybe at once
        ui.get(f"http://127.0.0.1:{site.port}/-/signed-in")
    ui.until(lambda: ui.window_handles == [first], "the tab closed by itself")
    ui.switch_to.window(first)
    ui.until(lambda: outcome(ui), "the call made again")
    assert outcome(ui) == [200, '{"runs": ["found"]}']
    assert b'{"max_results":7}' in site.bodies
    ui.until(lambda: any(b"typed before the end" in body for body in site.bodies), "the experiment made")
    assert not ui.has_ours("dialog")
    assert ui.execute_script("return window.notes") == "typed and not yet saved"


@pytest.mark.slow
@chromium
def test_not_now_leaves_mlflows_own_dialogue_and_what_was_typed(site: Site, ui: Window) -> None:
    ui.find_text("Create experiment").click()
    ui.find("#experimentName").send_keys("typed before the end")
    for way_out in ("click", "escape"):
        alice, site.identity = site.identity, None
        called(ui)
        button = ui.ours("dialog button")
        if way_out == "click":
            button.click()
        else:
            button.send_keys(Keys.ESCAPE)
        ui.until(lambda: not ui.has_ours("dialog"), "our dialogue closed")
        assert ui.find("#experimentName").get_attribute("value") == "typed before the end"
        site.identity = alice
        ui.until(lambda: not ui.has_ours(".corner"), "the corner empty")


@pytest.mark.slow
@chromium
def test_somebody_else_who_signs_in_gets_a_page_of_their_own(site: Site, ui: Window) -> None:
    ui.execute_script("window.notes = 'alice wrote this'")
    site.identity = None
    called(ui)
    ui.ours("dialog")
    bodies = len(site.bodies)
    site.identity = Identity("bob@example.com", Role.EDITOR, "session")
    ui.find('button[aria-label="Account menu for bob@example.com"]')
    assert ui.execute_script("return window.notes || null") is None
    assert b'{"max_results":7}' not in site.bodies[bodies:], "alice's call was made as bob"


@pytest.mark.slow
@chromium
def test_who_does_not_want_to_sign_in_now_is_asked_once_and_can_later(
    site: Site, ui: Window, kept: Path
) -> None:
    alice, site.identity = site.identity, None
    called(ui)
    ui.ours("dialog")
    assert outcome(ui) is None
    ui.switch_to.active_element.send_keys(Keys.ESCAPE)
    ui.until(lambda: outcome(ui), "the refusal handed on")
    assert (outcome(ui) or [])[0] == 401
    called(ui)
    ui.until(lambda: outcome(ui), "the next refusal handed on at once", 5)
    assert not ui.has_ours("dialog")
    corner = ui.ours(".corner")
    assert corner.text == "Signed out: sign in again"
    ui.picture(kept / "ui-signed-out-corner.png")
    corner.click()
    ui.ours("dialog")
    site.identity = alice
    ui.until(lambda: not ui.has_ours("dialog"), "the dialog closed by itself")
    ui.until(lambda: not ui.has_ours(".corner"), "the corner empty")


@pytest.mark.slow
@chromium
def test_a_refusal_of_anothers_does_not_ask_to_sign_in(site: Site, ui: Window) -> None:
    """A model provider's 401 comes through the gateway as it is; whoever is signed in stays so."""
    site.pages["/gateway/mlflow/v1/models"] = site.not_known_elsewhere
    called(ui, "/gateway/mlflow/v1/models")
    ui.until(lambda: outcome(ui), "the refusal handed on")
    assert (outcome(ui) or [])[0] == 401
    assert not ui.has_ours("dialog")


@pytest.mark.slow
@chromium
def test_where_mlflow_has_no_account_button_ours_stands_in_the_corner(site: Site, browser: Window) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        body = ui_script.with_script(b"<!doctype html><head><title>x</title></head><body>Another UI</body>")
        await answers.answer(scope, send, 200, body, answers.HTML, policy="default-src 'self'")

    site.pages["/"] = page
    browser.get(f"http://127.0.0.1:{site.port}/")
    corner = browser.ours(".corner")
    browser.until(lambda: corner.text == "alice@example.com", "the name")
    corner.click()
    browser.ours("a.item").click()
    browser.shows("Your sessions")


@pytest.mark.slow
@chromium
def test_without_sessions_the_menu_leads_to_the_account_page_alone(site: Site, browser: Window) -> None:
    """A password comes with each request: nothing can be signed out of, and nothing ends."""

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        html = b"<!doctype html><head><title>x</title></head><body>Another UI</body>"
        body = ui_script.with_script(html, sessions=False)
        await answers.answer(scope, send, 200, body, answers.HTML, policy="default-src 'self'")

    site.pages["/"] = page
    browser.get(f"http://127.0.0.1:{site.port}/")
    corner = browser.ours(".corner")
    browser.until(lambda: corner.text == "alice@example.com", "the name")
    corner.click()
    link = browser.ours("a.item")
    assert link.text == "Account and tokens"
    assert not browser.has_ours("form")
    site.identity = None
    called(browser, "/ajax-api/2.0/mlflow/experiments/search")
    browser.until(lambda: outcome(browser), "the refusal handed on")
    assert not browser.has_ours("dialog")
    site.identity = Identity("alice@example.com", Role.EDITOR, "session")
    link.click()
    browser.shows("Your account")


@pytest.mark.slow
@chromium
def test_all_of_it_works_below_a_path(browser: Window) -> None:
    site = Site("/ml/flow")
    with serving(site):
        browser.get(f"http://127.0.0.1:{site.port}/ml/flow/#/experiments")
        browser.find('button[aria-label^="Account menu for "]').click()
        browser.ours("a.item").click()
        browser.shows("Your sessions")
        browser.find_text("End the session: curl/8.1 from 2001:db8::17, last used 1 day ago").click()
        browser.shows("The session has ended.")
        browser.find_text("Back to MLflow").click()
        browser.find('button[aria-label^="Account menu for "]')
        site.identity = None
        called(browser)
        assert str(browser.ours("dialog a").get_attribute("href")).endswith(
            "/ml/flow/oauth2/sign_in?rd=%2Fml%2Fflow%2F-%2Fsigned-in"
        )
