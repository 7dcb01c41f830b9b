"""The pages around signing in and MLflow's real UI files behind a real uvicorn, nothing else wired up."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import mlflow
import uvicorn
from starlette.staticfiles import StaticFiles

from proxy import ui_script
from proxy.exchange import Exchange, Refused
from proxy.identity import Identity, Role
from proxy.pages import answers, current_user, errors, sign_in
from proxy.pages.account import account_pages
from proxy.pages.answers import App, Receive, Scope, Send
from proxy.pages.token_forms import DAY, Rules

BUILD = Path(mlflow.__file__).parent / "server" / "js" / "build"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"


@dataclass(frozen=True)
class Row:
    """A session as its row has it."""

    id: str
    user: str
    role: Role
    created: float
    last_seen: float
    ends: float
    client: str = "192.0.2.17"
    user_agent: str = FIREFOX
    name: str = ""
    email: str = ""


class Sessions:
    """Rows in memory."""

    def __init__(self, *rows: Row) -> None:
        self.rows = list(rows)
        self.ended: list[tuple[str, str]] = []

    async def list_for(self, identity: Identity) -> list[Row]:
        return [row for row in self.rows if row.user == identity.user]

    async def list_all(self) -> list[Row]:
        return list(self.rows)

    async def end(self, session_id: str, by: str, exchange: object = None) -> None:
        self.ended.append((session_id, by))
        self.rows = [row for row in self.rows if row.id != session_id]


class NoTokens:
    """Nobody has a token, nor makes one: tests/account_site.py has real ones."""

    def may_manage(self, identity: Identity) -> str | None:
        return None

    async def list_for(self, identity: Identity) -> list[Any]:
        return []

    async def list_all(self) -> list[Any]:
        return []

    async def list_service_accounts(self) -> list[Any]:
        return []

    async def refused(self, *_: Any, **__: Any) -> Any:
        raise Refused(403, "Nobody makes tokens here.", reason="forbidden")

    create = renew = revoke = create_service_account = remove_service_account = refused


class Site:
    """One person's view: `identity` is who each request comes from, None makes MLflow's routes answer 401."""

    def __init__(self, prefix: str = "") -> None:
        now = time.time()
        row = Row("a" * 8, "alice@example.com", Role.EDITOR, now - 7300, now - 200, now + 86400)
        self.sessions = Sessions(
            replace(row, name="Alice <i>Liddell</i>", email="alice@example.com"),
            replace(row, id="b" * 8, client="2001:db8::17", last_seen=now - 90000, user_agent="curl/8.1"),
            replace(row, id="c" * 8, user="bob@example.com", role=Role.VIEWER, last_seen=now - 10),
        )
        self.prefix = prefix
        self.identity: Identity | None = Identity("alice@example.com", Role.EDITOR, "session")
        self.current: str | None = "a" * 8
        self.ways = sign_in.Ways(f"{prefix}/oauth2/start", "idp.example.com", f"{prefix}/oauth2/sign_in")
        self.message: str | None = None
        self.status = 200
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.mlflow_answers: dict[str, tuple[int, bytes]] = {}
        tokens = NoTokens()
        self.pages: dict[str, App] = {
            "/oauth2/sign_in": self._sign_in,
            "/oauth2/sign_out": self._sign_out,
            "/problem": self._problem,
            **account_pages(
                self.sessions,
                tokens,
                lambda scope: self.current,
                Rules(longest=365 * DAY, overlap=DAY, prefix=prefix),
                tokens.may_manage,
            ),
            "/-/signed-in": sign_in.signed_in,
            ui_script.PATH: ui_script.script,
        }
        self.port = 0
        self._files = StaticFiles(directory=BUILD)
        self._ui = ui_script.adding_script(self._mlflow)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope["method"], scope["path"], time.perf_counter(), time.time())
        exchange.request_id = "4f1c22ab04d100000017"
        exchange.identity = self.identity
        path = scope["path"].removeprefix(self.prefix)
        scope = {**scope, "exchange": exchange, "path": path, "raw_path": path.encode()}
        self.requests.append((scope["method"], path))
        page = self.pages.get(path)
        try:
            if page is not None:
                await page(scope, receive, send)
            elif self.identity is None and not path.startswith("/static-files"):
                raise Refused(401, "Sign in.", reason="unauthenticated")
            else:
                await self._ui(scope, receive, send)
        except Refused as refused:
            # As the edge does, but for the challenge, which a browser's fetch must not get.
            body = errors.json_body(refused.status, refused.message)
            await answers.answer(scope, send, refused.status, body, answers.JSON, headers=refused.headers)

    async def _mlflow(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/" or path.startswith("/static-files/"):
            name = "/index.html" if path == "/" else path.removeprefix("/static-files")
            await self._files({**scope, "path": name, "root_path": ""}, receive, send)
        elif path.endswith("/users/current"):
            await current_user.current_user(scope, receive, send)
        else:
            self.bodies.append((await receive()).get("body", b""))
            status, body = self.mlflow_answers.get(path, (200, b"{}"))
            await answers.answer(scope, send, status, body, answers.JSON)

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            self.bodies.append((await receive()).get("body", b""))
        rd = unquote(scope["query_string"].decode().removeprefix("rd=")) or "/"
        await sign_in.sign_in(
            scope, send, self.ways, rd, status=self.status, message=self.message, user="carol"
        )

    async def _sign_out(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.identity = None
        await sign_in.signed_out(scope, send, f"{self.prefix}/oauth2/sign_in")

    async def _problem(self, scope: Scope, receive: Receive, send: Send) -> None:
        await sign_in.problem(
            scope,
            send,
            502,
            "Signing in did not work",
            "The identity provider did not answer in 10 s.",
            said="<script>alert(1)</script> try later",
            check="does https://idp.example.com/.well-known/openid-configuration answer from this server?",
            again=f"{self.prefix}/oauth2/sign_in",
        )

    async def not_known_elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answers.answer(scope, send, 401, b'{"error": "Incorrect API key"}', answers.JSON)

    def ask(
        self, method: str, target: str, fields: dict[str, str] | bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        body = urlencode(fields) if isinstance(fields, dict) else fields
        if body is not None:
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text


@contextmanager
def serving(site: Any) -> Iterator[None]:
    """The site on a loopback port of its own, which is then its `port`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        site.port = listener.getsockname()[1]
        config = uvicorn.Config(site, http="httptools", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()
