"""The real MLflow's UI through the real service: the same files as MLflow's own, also while it is away."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from service import PASSWORD, USER, Service, running
from wire import ask, basic

from proxy.ui.files import folder, scan

WHO = basic(USER, PASSWORD)
BROWSER = (
    ("Sec-Fetch-Mode", "navigate"),
    ("Accept", "text/html"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
)
ROOT = folder()
assert ROOT is not None
FILES = scan(ROOT).by_name
PAGE = (ROOT / "index.html").read_bytes()
OURS = re.compile(rb"<script [^>]*/ui\.js[^>]*></script>")
"""What we add to the page (proxy/ui_script.py)."""
MAIN = next(
    f"/static-files/{name}" for name in FILES if name.startswith("static/js/main.") and name.endswith(".js")
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as running_service:
        deadline = time.monotonic() + 120
        while not list((running_service.data / "ui").glob("*.quick")):
            assert time.monotonic() < deadline, running_service.log()
            time.sleep(0.1)
        yield running_service


class ToMlflow(http.client.HTTPConnection):
    """MLflow itself, past the proxy: we are the same user, and may."""

    def __init__(self, service: Service) -> None:
        super().__init__("127.0.0.1", timeout=60)
        self._service = service

    def connect(self) -> None:
        lock = json.loads((self._service.data / "lock").read_text())
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(Path(lock["control"]).with_name("mlflow.sock")))


def kind(content_type: str | None) -> str:
    """The media type, as much of it as a browser acts upon."""
    return (content_type or "").partition(";")[0].replace("application/javascript", "text/javascript")


def test_every_file_is_what_mlflow_itself_serves(service: Service) -> None:
    direct, session = ToMlflow(service), service.session()
    for name, file in FILES.items():
        direct.request("GET", f"/static-files/{name}")
        theirs = direct.getresponse()
        body = theirs.read()
        ours = session.get(
            f"{service.url}/static-files/{name}", headers={"Accept-Encoding": "br"}, timeout=60
        )
        assert (ours.status_code, theirs.status) == (200, 200), name
        assert hashlib.sha256(body).hexdigest() == file.digest == hashlib.sha256(ours.content).hexdigest(), (
            name
        )
        for header in ("x-content-type-options", "x-frame-options"):
            assert ours.headers.get(header) == theirs.getheader(header), name
        if kind(theirs.getheader("content-type")) != "application/octet-stream":
            assert kind(ours.headers["content-type"]) == kind(theirs.getheader("content-type")), name
        if file.compressible and file.size > 10_000:
            assert ours.headers["content-encoding"] == "br", name
    assert len(FILES) > 300


def test_the_page_is_mlflows(service: Service) -> None:
    direct = ToMlflow(service)
    direct.request("GET", "/")
    theirs = direct.getresponse()
    ours = ask(service, "GET", "/", WHO)
    assert OURS.sub(b"", ours.body) == theirs.read() == PAGE
    (added,) = OURS.findall(ours.body)
    assert b" data-sessions=no " in added, "nobody signs in here"
    for header in ("cache-control", "content-type", "x-frame-options", "x-content-type-options"):
        assert ours.headers[header] == theirs.getheader(header)


@pytest.mark.parametrize("path", ["/", MAIN, MAIN.replace("static-files", "build"), "/static-files/none.js"])
def test_nobody_gets_them_without_a_credential(service: Service, path: str) -> None:
    for headers in ((), (basic(USER, PASSWORD + "x"),), (("If-None-Match", "*"),), (("Range", "bytes=0-9"),)):
        answer = ask(service, "GET", path, *headers)
        assert answer.status == 401
        assert len(answer.body) < 1000


@pytest.mark.parametrize(
    "path",
    ["/static-files/../__init__.py", "/static-files/%2e%2e/__init__.py", "/static-files/..%2f__init__.py",
     "/static-files/static/%2e%2e/%2e%2e/%2e%2e/__init__.py", "/static-files//etc/passwd",
     "/build/../../package.json", "/static-files/%2fetc/passwd", "/static-files/static/js",
     "/static-files/..\\__init__.py"],
)  # fmt: skip
def test_no_path_leads_out_of_them(service: Service, path: str) -> None:
    answer = ask(service, "GET", path, WHO)
    assert answer.status in (400, 403, 404)
    assert b"import" not in answer.body


def test_they_are_logged_and_counted_as_they_were(service: Service) -> None:
    before = service.metric("mlflow_proxy_requests_total", operation="ui", method="GET", status="200")
    answer = ask(service, "GET", MAIN, WHO, ("Accept-Encoding", "gzip"))
    line = service.logged(answer.request_id)
    assert (line["operation"], line["user"], line["status"], line["path"]) == ("ui", USER, 200, MAIN)
    assert line["bytes_out"] == len(answer.body) == int(answer.headers["content-length"])
    assert line["mlflow_ms"] is None
    after = service.metric("mlflow_proxy_requests_total", operation="ui", method="GET", status="200")
    assert after == before + 1


def test_mlflows_frame_options_are_said(tmp_path: Path) -> None:
    with running(tmp_path, MLFLOW_SERVER_X_FRAME_OPTIONS="deny", PROXY_COMPRESSION="off") as other:
        for path in ("/", MAIN):
            answer = ask(other, "GET", path, WHO, ("Accept-Encoding", "gzip"))
            assert answer.headers["x-frame-options"] == "DENY"
            assert "content-encoding" not in answer.headers
        assert not (other.data / "ui").exists()


def test_under_a_path_they_are_below_it(tmp_path: Path) -> None:
    port_free = {"PROXY_PUBLIC_URL": "https://localhost/ml"}
    with running(tmp_path, **port_free) as other:
        for path, status in (("/ml/", 200), (f"/ml{MAIN}", 200), ("/", 404), (MAIN, 404), ("/ml", 308)):
            assert ask(other, "GET", path, WHO, host="localhost").status == status, path
        assert (
            ask(other, "GET", f"/ml{MAIN}", WHO, host="localhost").body
            == FILES[MAIN.removeprefix("/static-files/")].source.read_bytes()
        )


def guard(service: Service) -> int:
    """The process that MLflow is under; when it ends, MLflow does."""
    own = service.process.pid
    for child in Path(f"/proc/{own}/task/{own}/children").read_text().split():
        if b"guard.py" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("no guard")


def test_the_ui_is_there_while_mlflow_is_not(service: Service) -> None:
    for path in ("/", MAIN):
        assert ask(service, "GET", path, WHO, *BROWSER).status == 200
    os.kill(guard(service), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while ask(service, "GET", "/health").status == 200:
        assert time.monotonic() < deadline, "MLflow is still there"
        time.sleep(0.05)
    page, script = ask(service, "GET", "/", WHO, *BROWSER), ask(service, "GET", MAIN, WHO)
    assert ask(service, "GET", "/health").status == 503, "MLflow is there again already"
    assert OURS.sub(b"", page.body) == PAGE
    assert script.status == 200
    service.wait_ready(240)
