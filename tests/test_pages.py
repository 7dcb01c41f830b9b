"""Our own answers: MLflow's client understands the refusals, a person can read them, no site misuses them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import itertools
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.rest_utils import MlflowHostCreds, http_request, verify_rest_response

from proxy.exchange import REFUSALS, Exchange
from proxy.metrics import Metrics
from proxy.operations import operation_of
from proxy.pages import errors, health, waiting
from proxy.pages.answers import App, Receive, Scope, Send
from proxy.pages.metrics import metrics as metrics_page

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
NAVIGATION = {
    "Accept": "text/html,application/xhtml+xml",
    "User-Agent": FIREFOX,
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}
STATUSES = (400, 401, 403, 404, 405, 408, 413, 414, 421, 429, 431, 500, 501, 502, 503, 504)


class Mlflow:
    """What a supervised MLflow shows of itself."""

    def __init__(self) -> None:
        self.ready = False
        self.reason = "MLflow is starting: loading (7 s)"
        self.problems: dict[str, str | None] = {"mlflow": None, "database": None}

    def checks(self) -> dict[str, str | None]:
        return self.problems


class Site:
    """All our pages behind a real uvicorn, with the exchanges they were asked for."""

    def __init__(self) -> None:
        self.mlflow = Mlflow()
        self.probes: dict[str, str | None] = {}
        self.notes: dict[str, str] = {}
        self.exchanges: list[Exchange] = []
        self.pages: dict[str, App] = {
            "/livez": health.livez,
            "/readyz": health.readyz(self.mlflow, lambda: self.probes, lambda: self.notes),
            "/metrics": metrics_page(Metrics(version="1", mlflow_version="3")),
            "/": waiting.waiting(self.mlflow, ""),
            "/below/ml/": waiting.waiting(self.mlflow, "/below/ml"),
        }
        self.message = 'Do <b>this</b> & "that": it\'s free.\nThen go on.'
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope["method"], scope["path"], time.perf_counter(), time.time())
        exchange.request_id = "4f1c22ab04d100000017"
        scope["exchange"] = exchange
        self.exchanges.append(exchange)
        to_client = send

        async def send(message: MutableMapping[str, Any]) -> None:
            exchange.bytes_out += len(message.get("body", b""))
            await to_client(message)

        if (page := self.pages.get(scope["path"])) is not None:
            await page(scope, receive, send)
        else:
            # The status is the path's last part, wherever the client puts it.
            status = int(scope["path"].rsplit("/", 1)[1])
            retry_after = 17 if status in (429, 503) else None
            await errors.refuse(
                scope,
                send,
                status,
                self.message,
                reason="forbidden",
                retry_after=retry_after,
                headers=((b"x-more", b"1"),),
            )

    def ask(
        self, target: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, target, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body


@contextmanager
def serving(app: Any) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


class Current:
    """Lets the tests share one server, each with a site of its own."""

    def __init__(self) -> None:
        self.site = Site()
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.site(scope, receive, send)


@pytest.fixture(scope="module")
def current() -> Iterator[Current]:
    made = Current()
    with serving(made) as made.port:
        yield made


@pytest.fixture
def site(current: Current) -> Site:
    current.site = Site()
    current.site.port = current.port
    return current.site


@pytest.mark.parametrize("status", STATUSES)
def test_mlflows_own_client_raises_every_refusal_with_its_code_and_message(site: Site, status: int) -> None:
    creds = MlflowHostCreds(f"http://127.0.0.1:{site.port}")
    answer = http_request(creds, f"/api/2.0/{status}", "POST", json={}, max_retries=0, raise_on_status=False)
    with pytest.raises(RestException) as raised:
        verify_rest_response(answer, f"/api/2.0/{status}")
    code = errors.CODES[status]
    assert raised.value.message == f"{code}: {site.message}"
    assert raised.value.error_code == code
    assert answer.status_code == status


def test_every_code_is_one_that_the_client_knows_and_none_says_that_a_run_is_missing() -> None:
    for status, code in errors.CODES.items():
        assert code in ErrorCode.keys()  # noqa: SIM118 - an enum of protobuf is no mapping
        assert code != "RESOURCE_DOES_NOT_EXIST"
        kind = MlflowException("", ErrorCode.Value(code)).get_http_status_code()
        assert kind // 100 == status // 100 or code == "RESOURCE_LIMIT_EXCEEDED" or status == 408


def test_a_status_without_a_code_of_its_own_is_still_mlflows_shape(site: Site) -> None:
    for status, code in ((418, "BAD_REQUEST"), (507, "INTERNAL_ERROR")):
        answer, body = site.ask(f"/{status}")
        assert (answer.status, orjson.loads(body)["error_code"]) == (status, code)


def test_a_browser_that_navigates_gets_a_page_of_the_same_status(site: Site) -> None:
    for status in STATUSES:
        answer, body = site.ask(f"/{status}", NAVIGATION)
        assert answer.status == status
        assert answer.getheader("content-type") == "text/html; charset=utf-8"
        text = body.decode()
        assert "Do &lt;b&gt;this&lt;/b&gt; &amp; &#34;that&#34;: it&#39;s free." in text
        assert "4f1c22ab04d100000017" in text
        assert f"{status} {http.HTTPStatus(status).phrase}" in text


@pytest.mark.parametrize(
    ("method", "headers", "page"),
    [
        ("GET", NAVIGATION, True),
        ("HEAD", NAVIGATION, True),
        ("POST", NAVIGATION, False),
        ("POST", {**NAVIGATION, **FORM}, True),
        ("POST", {"Accept": "text/html", "User-Agent": FIREFOX, **FORM}, True),
        ("POST", {**NAVIGATION, **FORM, "Sec-Fetch-Mode": "cors"}, False),
        ("POST", {"Accept": "*/*", "User-Agent": "curl/8", **FORM}, False),
        ("PUT", {**NAVIGATION, **FORM}, False),
        ("GET", {**NAVIGATION, "Sec-Fetch-Mode": "cors"}, False),
        ("GET", {**NAVIGATION, "Sec-Fetch-Mode": "no-cors"}, False),
        ("GET", {"Accept": "text/html", "User-Agent": FIREFOX}, True),
        ("GET", {"Accept": "application/json", "User-Agent": FIREFOX}, False),
        ("GET", {"Accept": "text/html", "User-Agent": "curl/8"}, False),
        ("GET", {"Accept": "*/*", "User-Agent": "mlflow-python-client/3.17.2"}, False),
        ("GET", {}, False),
    ],
)
def test_only_a_navigation_gets_a_page(site: Site, method: str, headers: dict[str, str], page: bool) -> None:
    answer, _ = site.ask("/403", headers, method)
    assert answer.status == 403
    assert (answer.getheader("content-type") == "text/html; charset=utf-8") is page


@pytest.mark.parametrize("headers", [{}, NAVIGATION])
def test_a_refusal_says_how_to_sign_in_and_when_to_come_back(site: Site, headers: dict[str, str]) -> None:
    challenge = 'Basic realm="MLflow", charset="UTF-8"'
    for status in STATUSES:
        answer, _ = site.ask(f"/{status}", headers)
        assert answer.getheader("www-authenticate") == (challenge if status == 401 else None)
        assert answer.getheader("retry-after") == ("17" if status in (429, 503) else None)
        assert answer.getheader("x-more") == "1"


def test_a_refusal_is_noted_in_the_exchange(site: Site) -> None:
    site.ask("/403")
    site.ask("/livez", method="DELETE")
    site.ask("/", NAVIGATION)
    noted = [(exchange.status, exchange.refusal) for exchange in site.exchanges]
    assert noted == [(403, "forbidden"), (405, "bad_request"), (503, "not_ready")]
    assert {reason for _, reason in noted} <= REFUSALS


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/readyz?verbose", "/metrics", "/", "/403", "/502"])
@pytest.mark.parametrize("headers", [{}, NAVIGATION])
def test_no_answer_of_ours_is_kept_framed_or_taken_for_something_else(
    site: Site, target: str, headers: dict[str, str]
) -> None:
    answer, body = site.ask(target, headers)
    assert_closed(answer)
    assert int(answer.headers["content-length"]) == len(body)


def assert_closed(answer: http.client.HTTPResponse) -> None:
    assert answer.getheader("cache-control") == "no-store"
    assert answer.getheader("x-content-type-options") == "nosniff"
    assert answer.getheader("referrer-policy") == "same-origin"
    assert answer.getheader("x-frame-options") == "DENY"
    assert answer.getheader("cross-origin-opener-policy") == "same-origin"
    assert answer.getheader("cross-origin-resource-policy") == "same-origin"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= {
        *policy
    }
    assert "unsafe" not in answer.headers["content-security-policy"]
    for name in ("content-type", "content-length", "cache-control", "content-security-policy"):
        assert len(answer.headers.get_all(name, [])) == 1


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics", "/", "/403"])
def test_head_has_the_headers_of_get_and_no_body(site: Site, target: str) -> None:
    got, _ = site.ask(target, NAVIGATION)
    asked, body = site.ask(target, NAVIGATION, "HEAD")
    assert body == b""
    assert site.exchanges[-1].bytes_out == 0  # what the log counts; uvicorn would send none anyway
    assert asked.status == got.status
    if target != "/metrics":  # where the numbers have moved on
        assert asked.getheader("content-length") == got.getheader("content-length")


def test_livez_is_green_while_mlflow_is_away_and_readyz_says_why(site: Site) -> None:
    answer, body = site.ask("/livez")
    assert (answer.status, body) == (200, b"ok\n")
    answer, body = site.ask("/readyz")
    assert (answer.status, body) == (503, b"MLflow is starting: loading (7 s)\n")
    assert int(answer.headers["retry-after"]) > 0
    site.mlflow.ready = True
    answer, body = site.ask("/readyz")
    assert (answer.status, body) == (200, b"ok\n")
    assert answer.getheader("retry-after") is None


def test_verbose_lists_each_check_as_kubernetes_does(site: Site) -> None:
    site.mlflow.problems["database"] = "no answer within 5 s\n[+]forged ok"
    for query in ("?verbose", "?verbose=", "?a=b&verbose=1"):
        answer, body = site.ask("/readyz" + query)
        assert answer.status == 503
        assert body.decode() == (
            "[+]mlflow ok\n[-]database failed: no answer within 5 s [+]forged ok\nreadyz check failed\n"
        )
    site.mlflow.ready = True
    site.mlflow.problems["database"] = None
    assert site.ask("/readyz?verbose")[1] == b"[+]mlflow ok\n[+]database ok\nreadyz check passed\n"
    site.probes = {"probe-disk": None, "probe-storage": "no answer"}
    site.notes = {"probe-disk": "took 0.01 s, 3 s ago", "probe-none": "?"}
    lines = site.ask("/readyz?verbose")[1].decode().splitlines()
    assert lines[2:] == [
        "[+]probe-disk ok (took 0.01 s, 3 s ago)",
        "[-]probe-storage failed: no answer",
        "readyz check passed",
    ]
    assert site.ask("/readyz?notverbose")[1] == b"ok\n"
    assert site.ask("/livez?verbose")[1] == b"[+]ping ok\nlivez check passed\n"


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_health_and_metrics_are_read_and_nothing_else(site: Site, target: str, method: str) -> None:
    answer, body = site.ask(target, method=method)
    assert (answer.status, answer.getheader("allow")) == (405, "GET, HEAD")
    assert orjson.loads(body)["error_code"] == "BAD_REQUEST"


def test_metrics_come_in_the_format_that_was_asked_for(site: Site) -> None:
    answer, body = site.ask(
        "/metrics", {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.3"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0;")
    assert body.endswith(b"# EOF\n")
    answer, body = site.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4;")
    assert b"mlflow_proxy_build_info" in body


@pytest.mark.parametrize("target", ["/", "/403"])
def test_a_page_runs_its_own_style_and_script_only_and_fetches_nothing_elsewhere(
    site: Site, target: str
) -> None:
    site.mlflow.reason = "<script>alert(1)</script>"
    answer, body = site.ask(target, NAVIGATION)
    text = body.decode()
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    for kind in ("style", "script"):
        inside = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.S)
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in inside]
        assert [f"'sha256-{digest}'" for digest in digests] == ([policy[f"{kind}-src"]] if inside else [])
    assert ("script-src" in policy) is (target == "/")
    assert not re.search(r"""(src|href|url|@import|action)\s*[=(]\s*["']?(https?:|//)""", text)
    assert not re.search(r"\son\w+=|style=", text)
    assert text.count("<script>") == (target == "/")


def test_a_page_is_fit_for_a_phone_the_dark_and_a_screen_reader(site: Site) -> None:
    for target in ("/", "/403"):
        text = site.ask(target, NAVIGATION)[1].decode()
        assert '<html lang="en">' in text
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
        assert "prefers-color-scheme: dark" in text
        assert re.search(r"<title>[^<]+ · MLflow</title>", text)
        assert text.count("<h1>") == 1
    assert 'role="status"' in site.ask("/", NAVIGATION)[1].decode()


def test_the_waiting_page_says_why_and_waits_without_a_script_too(site: Site) -> None:
    answer, body = site.ask("/", NAVIGATION)
    assert (answer.status, answer.getheader("retry-after")) == (503, "2")
    text = body.decode()
    assert "MLflow is starting: loading (7 s)" in text
    assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in text
    assert 'data-ready="/readyz"' in text
    assert 'data-ready="/below/ml/readyz"' in site.ask("/below/ml/", NAVIGATION)[1].decode()


def test_the_answer_to_what_is_no_request_is_a_whole_http_answer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(errors.raw_refusal(400, "This is not a valid \udc80 request.", "4f1c22ab04d1"))
        ours.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(theirs)
        answer.begin()
        body = answer.read()
        assert (answer.status, answer.reason) == (400, "Bad Request")
        assert orjson.loads(body) == {
            "error_code": "BAD_REQUEST",
            "message": "This is not a valid ? request.",
        }
        assert answer.getheader("connection") == "close"
        assert answer.getheader("x-request-id") == "4f1c22ab04d1"
        assert_closed(answer)


def test_the_metrics_page_counts_what_was_observed(site: Site) -> None:
    counted = Metrics(version="1", mlflow_version="3")
    exchange = Exchange("GET", "/version", 1.0, time.time())
    exchange.operation = operation_of("GET", "/version")
    exchange.ended = 1.5
    counted.observe(exchange)
    site.pages["/metrics"] = metrics_page(counted)
    text = site.ask("/metrics")[1].decode()
    name = exchange.operation.name
    assert f'mlflow_proxy_requests_total{{method="GET",operation="{name}",status="500"}} 1.0' in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_waits_and_then_shows_the_page_it_was_sent_for(site: Site, tmp_path: Path) -> None:
    """The page reports why it waits, and comes back to the whole address, fragment included."""
    wait = site.pages["/"]
    arrived = threading.Event()
    polls: list[float] = []

    async def ready(scope: Scope, receive: Receive, send: Send) -> None:
        polls.append(time.monotonic())
        site.mlflow.ready = len(polls) > 3
        await health.readyz(site.mlflow)(scope, receive, send)

    async def ui(scope: Scope, receive: Receive, send: Send) -> None:
        if not site.mlflow.ready:
            await wait(scope, receive, send)
            return
        script = b"<script>fetch('/arrived' + location.search + '&hash=' + location.hash.slice(1))</script>"
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
        )
        await send(
            {"type": "http.response.body", "body": b"<!doctype html><link rel=icon href=data:,>" + script}
        )

    async def arrival(scope: Scope, receive: Receive, send: Send) -> None:
        site.message = scope["query_string"].decode()
        arrived.set()
        await health.livez({**scope, "query_string": b""}, receive, send)

    site.pages |= {"/readyz": ready, "/": ui, "/arrived": arrival}
    browser = subprocess.Popen(
        [
            "chromium",
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--remote-debugging-port=0", f"--user-data-dir={tmp_path}"),
            f"http://127.0.0.1:{site.port}/?o=1#/experiments",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert arrived.wait(60)
    finally:
        browser.terminate()
        browser.wait(30)
    assert site.message == "o=1&hash=/experiments"
    assert len(polls) == 4
    assert min(later - earlier for earlier, later in itertools.pairwise(polls)) > 0.8
