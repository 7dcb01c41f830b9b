"""Attacks on signing in as it is wired: the real gate, pages, sessions and forwarding, a stub for MLflow."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fake_provider
import pytest
import uvicorn
from sign_in_service import Answer, Browser, settings_for

from proxy import servers
from proxy.app import applications
from proxy.auth.passwords import hash_password
from proxy.callers import opened
from proxy.exchange import Exchange
from proxy.identity import Role
from proxy.logs.access import JsonLines, combined_line
from proxy.metrics import Metrics
from proxy.mlflow_server import MlflowServer
from proxy.settings import Settings
from proxy.watchdog import Watchdog

USER, PASSWORD = "root", "correct horse battery"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SCRIPT = {"Sec-Fetch-Mode": "cors", "Accept": "*/*"}
INDEX = b"<html><head><title>MLflow</title></head><body></body></html>"


class Stub:
    """MLflow's process as the proxy sees it, and everything that arrives there."""

    up = ready = True
    reason = ""

    def __init__(self, path: Path) -> None:
        self.socket = path
        self.arrived: list[bytes] = []
        self.headers: list[bytes] = []

    def checks(self) -> dict[str, str | None]:
        return {}

    async def wait_up(self, timeout: float) -> bool:  # noqa: ASYNC109
        return True

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                self.arrived.append(head + await reader.readexactly(length))
                page = head.startswith(b"GET / ")
                kind, body = (b"text/html", INDEX) if page else (b"application/json", b"{}")
                lines = [b"HTTP/1.1 200 OK", b"content-type: " + kind, b"content-length: %d" % len(body)]
                writer.write(b"\r\n".join([*lines, *self.headers]) + b"\r\n\r\n" + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()


class Wired:
    """One replica as proxy/serve.py puts it together: its three listeners, without a process of MLflow."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.mlflow = Stub(folder / "mlflow.sock")
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.port, self.internal, self.scraper = (each.getsockname()[1] for each in self.listeners)
        self.url = settings.public_url or f"http://127.0.0.1:{self.port}"
        self.log: list[tuple[Exchange, bytes]] = []
        self.parts: Any = None
        self._begun = threading.Event()
        self._servers: list[uvicorn.Server] = []

    def write(self, exchange: Exchange, query: bytes) -> None:
        self.log.append((exchange, query))

    async def run(self) -> None:
        settings = self.settings
        metrics = Metrics(version="0", mlflow_version="0")
        watchdog = Watchdog()
        upstream = await asyncio.start_unix_server(self.mlflow.answer, str(self.mlflow.socket))
        async with opened(
            settings, PASSWORD, "the jobs' token", metrics, watchdog.end_credentials
        ) as callers:
            self.parts = callers.sign_in
            mlflow: MlflowServer = self.mlflow  # type: ignore[assignment]
            apps = applications(
                settings,
                mlflow,
                callers,
                metrics,
                self,  # type: ignore[arg-type]
                watchdog,
                jobs_port=self.internal,
                certificate_names=(),
            )
            for app in (apps.public, apps.internal, apps.scraper):
                config = servers.config(app, settings, None)
                server = uvicorn.Server(config)
                server.capture_signals = _no_signals  # type: ignore[method-assign]
                self._servers.append(server)
            background = [asyncio.create_task(coroutine) for coroutine in callers.background]
            pairs = zip(self._servers, self.listeners, strict=True)
            serving = [asyncio.create_task(server.serve([listener])) for server, listener in pairs]
            self._begun.set()
            await asyncio.gather(*serving)
            for task in background:
                task.cancel()
            upstream.close()
            apps.ways.pool.close()

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        thread.start()
        assert self._begun.wait(30)
        return thread

    def stop(self) -> None:
        for server in self._servers:
            server.should_exit = True


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@contextmanager
def wired(issuer: str, folder: Path, **more: Any) -> Iterator[Wired]:
    base: dict[str, Any] = {
        "username": USER,
        "admin_groups": ("staff",),
        "grace_seconds": 5,
        "login_failures": 1000,
    }
    with tempfile.TemporaryDirectory() as short:
        service = Wired(settings_for(issuer, folder, **(base | more)), Path(short))
        thread = service.start()
        try:
            yield service
        finally:
            service.stop()
            thread.join()


@pytest.fixture(scope="module")
def one_provider() -> Iterator[fake_provider.Provider]:
    with fake_provider.running() as running:
        yield running


@pytest.fixture
def provider(one_provider: fake_provider.Provider) -> fake_provider.Provider:
    one_provider.habits()
    return one_provider


USERS = {"vera": Role.VIEWER, "edda": Role.EDITOR}


@pytest.fixture(scope="module")
def site(one_provider: fake_provider.Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    folder = tmp_path_factory.mktemp("data")
    with wired(one_provider.issuer, folder, users_file=_users(folder, USERS)) as running:
        yield running


def _users(folder: Path, roles: dict[str, Role]) -> Path:
    path = folder / "users"
    lines = (f"{name}:{hash_password('of ' + name)}:{role.name.lower()}\n" for name, role in roles.items())
    path.write_text("".join(lines))
    path.chmod(0o600)
    return path


def by_password(site: Wired, name: str, browser: Browser | None = None) -> Browser:
    browser = browser or Browser()
    fields = {"username": name, "password": f"of {name}", "rd": "/"}
    assert browser.post(f"{site.url}/oauth2/sign_in", fields).status == 303
    return browser


def signed_in(site: Wired) -> Browser:
    """Somebody who came by the provider."""
    browser = Browser()
    assert browser.sign_in(site).status == 303  # type: ignore[arg-type]
    return browser


def who(site: Wired, browser: Browser) -> dict[str, Any] | None:
    return browser.who(site)  # type: ignore[arg-type]


def cookie_of(site: Wired, browser: Browser) -> str:
    jar = browser.jar[urlsplit(site.url).netloc]
    return "; ".join(f"{name}={value}" for name, value in jar.items())


def raw(port: int, *lines: bytes, body: bytes = b"") -> bytes:
    """One request, as raw as it is given; the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


# ---- what MLflow and a model provider get to see ----


@pytest.mark.parametrize("path", ["/ajax-api/2.0/mlflow/experiments/search?max_results=1", "/gateway/x/y"])
@pytest.mark.parametrize("credential", ["session", "password"])
def test_no_cookie_of_ours_reaches_mlflow_or_a_model_provider(
    provider: fake_provider.Provider, site: Wired, path: str, credential: str
) -> None:
    browser = signed_in(site)
    assert browser.to_provider(site).status == 303  # type: ignore[arg-type]  # one more, under way
    mine = cookie_of(site, browser)
    name = site.parts.sessions.cookie_name
    assert f"{name}=" in mine
    assert f"{name}_s" in mine
    assert f"{name}_r=" in mine
    theirs = "theme=dark"
    for sent in (
        f"{theirs}; {mine}",
        f"{mine};{theirs}",
        f"{mine}; \t{theirs}; __Host-{name}_s00=x;__Host-mlflow_proxy_00000000=y",
    ):
        site.mlflow.arrived.clear()
        more = {"Authorization": BASIC} if credential == "password" else {}
        assert browser.get(site.url + path, SCRIPT | {"Cookie": sent} | more).status == 200
        (arrived,) = site.mlflow.arrived
        assert b"mlflow_proxy_" not in arrived
        assert (b"theme=dark" in arrived) == (not path.startswith("/gateway/"))


def test_a_cookie_header_in_two_parts_keeps_its_secret_too(
    provider: fake_provider.Provider, site: Wired
) -> None:
    mine = cookie_of(site, signed_in(site)).encode()
    site.mlflow.arrived.clear()
    lines = (b"GET /ajax-api/2.0/mlflow/experiments/search HTTP/1.1", b"Host: localhost")
    answer = raw(site.port, *lines, b"Cookie: theme=dark", b"Cookie: " + mine)
    assert answer.startswith(b"HTTP/1.1 200")
    (arrived,) = site.mlflow.arrived
    assert b"mlflow_proxy_" not in arrived


def test_the_code_the_state_and_the_password_stand_in_no_log(
    provider: fake_provider.Provider, site: Wired, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.log.clear()
    browser = Browser()
    back = browser.at_provider(site)  # type: ignore[arg-type]
    secret = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    assert set(secret) >= {"code", "state"}
    assert browser.get(back).status == 303
    assert browser.get(back).status == 400  # replayed: the way of failures
    provider.habits(answers={"token": {"status": 400, "body": '{"error": "invalid_grant"}'}})
    failed = Browser()
    later = failed.at_provider(site)  # type: ignore[arg-type]
    secret["another code"] = parse_qs(urlsplit(later).query)["code"][0]
    assert failed.get(later).status == 403
    by_password(site, "vera")
    wrong = {"username": "vera\r\n{}", "password": "not hers", "rd": "/"}
    assert Browser().post(f"{site.url}/oauth2/sign_in", wrong).status == 403
    secret |= {"password": "of vera", "wrong password": "not hers"}
    secret["session"] = browser.jar[urlsplit(site.url).netloc][site.parts.sessions.cookie_name]
    until = time.monotonic() + 30
    while len(site.log) < 7 and time.monotonic() < until:
        time.sleep(0.01)
    lines = [line for each in site.log for line in (JsonLines().line(*each), combined_line(*each))]
    assert all(line.count(b"\n") == 1 for line in lines)
    # uvicorn's own access log is shut by logs.configure, which is for a whole process.
    said = [record.getMessage() for record in caplog.records if record.name != "uvicorn.access"]
    text = b"".join(lines).decode() + "\n".join(said)
    assert "/oauth2/callback" in text
    for what, value in secret.items():
        assert value not in text, what


# ---- other sites ----


@pytest.mark.parametrize(
    "foreign",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "{url}"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "", "Origin": "null"},
        {"Sec-Fetch-Site": "", "Origin": "{url}.evil.example"},
        {"Sec-Fetch-Site": "", "Origin": "https://localhost"},
    ],
    ids=str,
)
def test_another_site_neither_signs_in_nor_out_nor_ends_a_session(
    provider: fake_provider.Provider, site: Wired, foreign: dict[str, str]
) -> None:
    browser = signed_in(site)
    before = cookie_of(site, browser)
    headers = {name: value.replace("{url}", site.url) for name, value in foreign.items()}
    (session, *_) = (each.id for each in site.parts.sessions._known)
    for path, fields in (
        ("/oauth2/sign_in", {"username": "vera", "password": "of vera", "rd": "/"}),
        ("/oauth2/sign_out", {}),
        ("/-/account/end", {"session": session}),
        ("/oauth2/backchannel_logout", {"logout_token": "x"}),
    ):
        answer = browser.post(site.url + path, fields, headers)
        assert answer.status == 403, path
        assert not answer.cookies
    assert cookie_of(site, browser) == before
    person = who(site, browser)
    assert person is not None
    assert person["user"] == "ada@example.com"


def test_a_link_or_an_image_ends_nothing(provider: fake_provider.Provider, site: Wired) -> None:
    browser = signed_in(site)
    (session, *_) = (each.id for each in site.parts.sessions._known)
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        for path in ("/oauth2/sign_out", f"/-/account/end?session={session}", "/oauth2/backchannel_logout"):
            answer = browser.ask(method, site.url + path)
            assert answer.status in (303, 405), (method, path)
            assert not answer.cookies
    assert who(site, browser) is not None


def test_fixation_through_the_password_form(provider: fake_provider.Provider, site: Wired) -> None:
    mallory = by_password(site, "vera")
    planted = dict(mallory.jar[urlsplit(site.url).netloc])
    victim = Browser({urlsplit(site.url).netloc: dict(planted)})
    by_password(site, "edda", victim)
    assert victim.jar[urlsplit(site.url).netloc] != planted
    assert who(site, mallory) is None
    person = who(site, victim)
    assert person is not None
    assert (person["user"], person["role"]) == ("edda", "editor")


def test_the_pages_are_shown_in_no_frame_kept_by_no_cache_and_run_nothing_foreign(
    provider: fake_provider.Provider, site: Wired
) -> None:
    browser = signed_in(site)
    for path in (
        "/-/account",
        "/-/account?everyone",
        "/-/signed-in",
        "/oauth2/sign_in",
        "/oauth2/sign_out",
        "/oauth2/callback?state=x",
        "/oauth2/userinfo",
        "/oauth2/nothing?%0d%0ax",
    ):
        answer = (Browser() if "nothing" in path else browser).get(site.url + path)
        assert answer.header("cache-control") == "no-store", path
        assert answer.header("x-frame-options") == "DENY"
        assert answer.header("x-content-type-options") == "nosniff"
        policy = answer.header("content-security-policy") or ""
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


# ---- by other paths and other doors ----

VARIANTS = [
    "/oauth2%2Fstart",
    "/oauth2%2Fuserinfo",
    "//oauth2/start",
    "/oauth2//start",
    "/oauth2/./start",
    "/x/../oauth2/start",
    "/oauth2/start/",
    "/oauth2/start;x",
    "/OAUTH2/start",
    "/oauth2\\start",
    "/%252d/account",
    "/-%2Faccount",
    "/-/account/",
    "/-//account",
    "/-/account%00",
    "/metrics/",
    "//metrics",
    "/metrics;x",
    "/metrics%2F",
    "/-/ui.js/",
]


@pytest.mark.parametrize("path", VARIANTS)
def test_another_spelling_of_a_page_is_no_page_and_opens_nothing(site: Wired, path: str) -> None:
    site.mlflow.arrived.clear()
    answer = raw(site.port, b"GET %s HTTP/1.1" % path.encode(), b"Host: localhost")
    assert answer.split(b" ", 2)[1] in (b"400", b"401"), answer
    assert not site.mlflow.arrived


def test_an_encoded_letter_of_a_page_means_that_page_and_who_may_see_it(
    provider: fake_provider.Provider, site: Wired
) -> None:
    assert Browser().get(f"{site.url}/%6fauth2/st%61rt").location.startswith(provider.issuer)
    assert Browser().get(f"{site.url}/%2d/%61ccount", SCRIPT).status == 401
    assert Browser().get(f"{site.url}/m%65trics", SCRIPT).status == 401
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert signed_in(site).post(f"{site.url}/%2d/account/%65nd", {}, foreign).status == 403


@pytest.mark.parametrize(
    "target",
    [
        b"/x?\r",
        b"/x%0d%0aSet-Cookie:%20a=b",
        b"/ajax-api/x?rd=%0d%0aSet-Cookie:%20a=b",
        b"/ajax-api/x?\xc3\xa9",
        b"/ajax-api/%C3%A9%F0%9F%8D%AA?%FF",
        b"/ajax-api/x?" + b"a" * 5000,
        b"/%5cevil.example/",
        b"/evil.example//",
        b"/@evil.example/%2e%2e",
    ],
)
def test_the_way_to_the_sign_in_page_is_neither_split_nor_led_away(site: Wired, target: bytes) -> None:
    navigation = (b"Host: localhost", b"Sec-Fetch-Mode: navigate", b"Accept: text/html")
    answer = raw(site.port, b"GET %s HTTP/1.1" % target, *navigation)
    status = answer.split(b" ", 2)[1]
    assert status in (b"302", b"400"), answer
    assert b"\r\nset-cookie" not in answer.lower()
    if status == b"302":
        (location,) = (line[10:] for line in answer.split(b"\r\n") if line.startswith(b"location: "))
        assert location.startswith(b"/oauth2/sign_in?rd=%2F")
        assert b"evil" not in location or b"rd=%2Fevil.example%2F&" in location + b"&"


def test_a_session_is_worth_nothing_at_the_doors_of_jobs_and_scraper(
    provider: fake_provider.Provider, site: Wired
) -> None:
    cookie = {"Cookie": cookie_of(site, signed_in(site))}
    for path in ("start", "sign_in", "callback?state=x&code=x", "sign_out", "userinfo", "backchannel_logout"):
        for port in (site.internal, site.scraper):
            answer = Browser().get(f"http://127.0.0.1:{port}/oauth2/{path}", cookie)
            assert answer.status in (401, 404, 405), path
            assert not answer.cookies
            assert not answer.location
    for path in ("/", "/-/account", "/-/account/end", "/version"):
        assert Browser().get(f"http://127.0.0.1:{site.scraper}{path}", cookie).status == 404
    for path in ("/", "/-/account", "/-/account?everyone", "/metrics", "/oauth2/userinfo"):
        assert Browser().get(f"http://127.0.0.1:{site.internal}{path}", cookie).status == 401
    fields = {"username": USER, "password": PASSWORD, "rd": "/"}
    answer = Browser().post(f"http://127.0.0.1:{site.internal}/oauth2/sign_in", fields)
    assert (answer.status, answer.cookies) == (404, [])


def test_an_open_page_gets_its_files_when_its_session_is_over_and_nothing_else(
    provider: fake_provider.Provider, site: Wired
) -> None:
    """What it loads late it can still show, so that it can offer to sign in again."""
    browser = signed_in(site)
    over = SCRIPT | {"Cookie": cookie_of(site, browser)}
    assert browser.post(f"{site.url}/oauth2/sign_out", {}).status in (200, 302, 303)
    file = f"{site.url}/static-files/static/js/late.js"
    site.mlflow.arrived.clear()
    for method in ("GET", "HEAD"):
        assert Browser().ask(method, file, over).status == 200
    assert len(site.mlflow.arrived) == 2
    for arrived in site.mlflow.arrived:
        assert b"x-forwarded-user" not in arrived.lower()
        assert b"mlflow_proxy_" not in arrived.lower()
    site.mlflow.arrived.clear()
    for method, path in (
        ("POST", "/static-files/static/js/late.js"),
        ("DELETE", "/static-files/static/js/late.js"),
        ("GET", "/static-files"),
        ("GET", "/"),
        ("GET", "/ajax-api/2.0/mlflow/experiments/search"),
        ("GET", "/get-artifact?path=x&run_uuid=y"),
        ("GET", "/-/account"),
        ("GET", "/oauth2/userinfo"),
    ):
        assert Browser().ask(method, site.url + path, over).status == 401, (method, path)
    forged = {"Cookie": f"{site.parts.sessions.cookie_name}={'A' * 120}"}
    for headers in (SCRIPT, SCRIPT | forged):
        assert Browser().get(file, headers).status == 401
    assert not site.mlflow.arrived


# ---- two credentials, or none ----


@pytest.mark.parametrize(
    "authorization",
    ["Basic eDp5", "Basic", "Bearer x", "Bearer the jobs' token", "Digest x", "x", "Basic Og=="],
)
def test_a_wrong_credential_is_not_mended_by_a_good_cookie(
    provider: fake_provider.Provider, site: Wired, authorization: str
) -> None:
    browser = signed_in(site)
    site.mlflow.arrived.clear()
    for path in ("/ajax-api/2.0/mlflow/experiments/search", "/-/account", "/metrics", "/oauth2/userinfo"):
        assert browser.get(site.url + path, {"Authorization": authorization}).status == 401
    answer = browser.get(f"{site.url}/gateway/x/y", SCRIPT | {"X-MLflow-Authorization": authorization})
    assert answer.status == 401
    assert not site.mlflow.arrived


def test_the_weaker_of_two_credentials_is_not_raised_by_the_stronger(
    provider: fake_provider.Provider, site: Wired
) -> None:
    """A viewer's password with an admin's cookie: it is the viewer who asks."""
    browser = signed_in(site)
    vera = {"Authorization": "Basic " + base64.b64encode(b"vera:of vera").decode()}
    answer = browser.get(f"{site.url}/oauth2/userinfo", SCRIPT | vera)
    assert b'"vera"' in answer.body
    assert b"viewer" in answer.body
    assert browser.get(f"{site.url}/metrics", SCRIPT | vera).status == 403
    assert "Everybody" not in browser.get(f"{site.url}/-/account?everyone", vera).text


def test_a_script_is_challenged_for_no_password_and_a_program_is(site: Wired) -> None:
    where = f"{site.url}/ajax-api/2.0/mlflow/experiments/search"
    for headers, challenged in ((SCRIPT, False), ({"Sec-Fetch-Mode": "", "Accept": "*/*"}, True)):
        answer = Browser().get(where, headers)
        assert answer.status == 401
        assert (answer.header("www-authenticate") is not None) is challenged
        assert b"MLFLOW_TRACKING_TOKEN" in answer.body
    answer = Browser().get(where)
    assert (answer.status, answer.header("www-authenticate")) == (302, None)


def test_where_passwords_are_off_none_counts_by_any_way(
    provider: fake_provider.Provider, tmp_path: Path
) -> None:
    with wired(provider.issuer, tmp_path, basic_auth=False) as site:
        for path, name in (
            ("/", "Authorization"),
            ("/ajax-api/2.0/mlflow/experiments/search", "Authorization"),
            ("/metrics", "Authorization"),
            ("/-/account", "Authorization"),
            ("/oauth2/userinfo", "Authorization"),
            ("/gateway/x/y", "Authorization"),
            ("/gateway/x/y", "X-MLflow-Authorization"),
        ):
            for _ in range(2):  # also what would have been remembered
                answer = Browser().get(site.url + path, SCRIPT | {name: BASIC})
                assert answer.status == 401, path
        for port in (site.port, site.internal):
            fields = {"username": USER, "password": PASSWORD, "rd": "/"}
            answer = Browser().post(f"http://127.0.0.1:{port}/oauth2/sign_in", fields)
            assert answer.status in (403, 404)
            assert not answer.cookies
        assert 'type="password"' not in Browser().get(f"{site.url}/oauth2/sign_in").text
        assert not site.mlflow.arrived
        answer = Browser().get(f"{site.url}/-/account", SCRIPT)
        assert (answer.status, answer.header("www-authenticate")) == (401, None)


# ---- what is taken away ----


def test_who_is_taken_out_of_the_users_or_gets_another_password_is_out(
    provider: fake_provider.Provider, tmp_path: Path
) -> None:
    users = _users(tmp_path, USERS | {"otto": Role.EDITOR})
    with wired(provider.issuer, tmp_path, users_file=users, session_refresh=2) as site:
        vera, edda, otto = (by_password(site, name) for name in ("vera", "edda", "otto"))
        kept = [line for line in users.read_text().splitlines(keepends=True) if not line.startswith("otto")]
        changed = [line.replace(":editor", ":viewer") if line.startswith("edda") else line for line in kept]
        changed = [
            f"vera:{hash_password('of vera')}:viewer\n" if "vera" in line else line for line in changed
        ]
        users.write_text("".join(changed))
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = [who(site, browser) for browser in (vera, edda, otto)]
            if found[0] is None and found[2] is None and found[1] and found[1]["role"] == "viewer":
                break
            time.sleep(0.1)
        assert found[0] is None  # the same password even: the line is another one
        assert found[1] is not None
        assert found[1]["role"] == "viewer"
        assert found[2] is None


def test_who_ends_sessions_reaches_their_own_alone(provider: fake_provider.Provider, site: Wired) -> None:
    ada, vera = signed_in(site), by_password(site, "vera")
    ids = [each.id for each in site.parts.sessions._known]
    assert len(ids) >= 2
    page = vera.get(f"{site.url}/-/account?everyone").text
    mine = [each for each in ids if each in page]
    for other in {*ids} - {*mine} | {"", "x", "' or 1=1 --"}:
        assert vera.post(f"{site.url}/-/account/end", {"session": other, "everyone": ""}).status == 303
    assert "ada@example.com" not in page
    assert who(site, ada) is not None
    assert who(site, vera) is not None


# ---- what a stranger has written ----

SCRIPTED = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_what_strangers_have_written_is_text_on_the_account_page(
    provider: fake_provider.Provider, site: Wired
) -> None:
    provider.habits(claims={"name": SCRIPTED})
    browser = Browser()
    back = browser.at_provider(site)  # type: ignore[arg-type]
    assert browser.get(back, {"User-Agent": f"{SCRIPTED} Mozilla/5.0"}).status == 303
    for path in ("/-/account", "/-/account?everyone"):
        text = browser.get(site.url + path).text
        assert "&lt;script&gt;" in text
        assert "<script>" not in text
        assert "<img src=x" not in text


def test_what_was_typed_is_text_on_the_sign_in_page(site: Wired) -> None:
    wrong = {"username": SCRIPTED, "password": "x", "rd": SCRIPTED}
    answer = Browser().post(f"{site.url}/oauth2/sign_in", wrong)
    assert answer.status in (403, 429)
    assert "alert(1)&lt;/script&gt;" in answer.text
    assert "<script>alert" not in answer.text
    assert "<img src=x" not in answer.text


@pytest.mark.parametrize("path", ["/oauth2/sign_in", "/-/account/end", "/oauth2/backchannel_logout"])
def test_a_form_that_is_too_large_or_no_form_is_refused_and_not_a_crash(
    provider: fake_provider.Provider, site: Wired, path: str
) -> None:
    browser = signed_in(site)
    for body, kind, status in (
        (b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a%d=" % n for n in range(60)), "application/x-www-form-urlencoded", 400),
        (b"session=a&session=b", "application/x-www-form-urlencoded", 400),
        (b"a=%FF", "application/x-www-form-urlencoded", 400),
        (b"\xff", "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 400),
        (b"a=b", "text/plain", 400),
        (b"x", "multipart/form-data; boundary=x", 400),
    ):
        answer = browser.ask("POST", site.url + path, {"Content-Type": kind}, body)
        assert answer.status == status, (body[:20], kind)


# ---- caches ----


def test_no_cookie_is_handed_out_with_what_a_cache_may_keep_for_others(
    provider: fake_provider.Provider, tmp_path: Path
) -> None:
    with wired(provider.issuer, tmp_path, session_refresh=1) as site:
        browser = signed_in(site)
        old = cookie_of(site, browser)
        site.mlflow.headers = [b"cache-control: PUBLIC, max-age=2419200"]
        where = f"{site.url}/ajax-api/2.0/mlflow/experiments/search"
        until = time.monotonic() + 1.8
        while time.monotonic() < until:
            assert not browser.get(where, SCRIPT | {"Cookie": old}).cookies
            assert not browser.get(f"{site.url}/-/ui.js", {"Cookie": old}).cookies
            time.sleep(0.1)
        site.mlflow.headers = []
        (cookie,) = browser.get(where, SCRIPT | {"Cookie": old}).cookies
        assert "HttpOnly" in cookie


def test_the_page_with_our_script_is_the_same_for_everybody(
    provider: fake_provider.Provider, site: Wired
) -> None:
    answers: list[Answer] = []
    for browser in (signed_in(site), by_password(site, "vera")):
        answers.append(browser.get(f"{site.url}/"))
    assert answers[0].body == answers[1].body
    assert answers[0].header("etag") == answers[1].header("etag")
    assert b"ada" not in answers[0].body
    assert b"/-/ui.js" in answers[0].body.replace(b'"-/', b'"/-/')
    assert b"data-sessions" not in answers[0].body
    asked = {"If-None-Match": answers[0].header("etag") or ""}
    assert Browser().get(f"{site.url}/", SCRIPT | asked).status == 401  # it tells nobody that he has it


def test_where_nobody_signs_in_the_page_offers_no_signing_out(
    provider: fake_provider.Provider, tmp_path: Path
) -> None:
    nothing = {"oauth_issuer_url": None, "oauth_client_id": None, "oauth_client_secret": None}
    with wired(provider.issuer, tmp_path, **nothing) as site:
        page = Browser().get(f"{site.url}/", {"Authorization": BASIC})
        assert page.status == 200
        assert b" data-sessions=no " in page.body


def test_a_link_to_sign_out_leads_to_the_button_and_claims_nothing(
    provider: fake_provider.Provider, site: Wired
) -> None:
    browser = signed_in(site)
    assert browser.ask("GET", site.url + "/oauth2/sign_out").location == "/-/account"
    stranger = Browser()
    assert "signed out" in stranger.ask("GET", site.url + "/oauth2/sign_out").text


def test_no_shared_cache_keeps_what_a_session_was_shown(
    provider: fake_provider.Provider, site: Wired
) -> None:
    browser = signed_in(site)
    answer = browser.ask("GET", site.url + "/ajax-api/2.0/mlflow/users/current")
    assert answer.status == 200
    said = answer.header("cache-control") or ""
    assert "private" in said or "no-store" in said
    answer = browser.ask("GET", site.url + "/get-artifact?path=x&run_uuid=y")
    assert answer.header("cache-control") == "private"


def test_the_way_back_is_no_way_to_an_act(provider: fake_provider.Provider, site: Wired) -> None:
    act = "/ajax-api/3.0/mlflow/assistant/providers/x/models?base_url=https://evil.example"
    fields = {"username": "edda", "password": "of edda", "rd": act}
    assert Browser().post(f"{site.url}/oauth2/sign_in", fields).location == "/"
    fields["rd"] = "/#/experiments/7"
    assert Browser().post(f"{site.url}/oauth2/sign_in", fields).location == "/#/experiments/7"
