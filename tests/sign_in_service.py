"""Signing in for real: the pages under /oauth2, real sessions in SQLite, behind the real edge and uvicorn."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import orjson
import uvicorn
from fake_provider import CLIENT_ID, CLIENT_SECRET

from proxy.audit.log import open_audit
from proxy.auth import Authenticator, admission
from proxy.auth.oidc import Claims, Provider
from proxy.auth.session import Sessions, cookie_secrets
from proxy.edge import Edge
from proxy.exchange import Exchange
from proxy.hosts import LOOPBACK, Hosts
from proxy.identity import Identity, Role
from proxy.oauth2 import routes
from proxy.oauth2.cookies import header
from proxy.pages.answers import JSON, App, Receive, Scope, Send, answer
from proxy.protocol import ProxyProtocol
from proxy.settings import Settings
from proxy.store import Store

NAVIGATION = {
    "Accept": "text/html",
    "User-Agent": "Mozilla/5.0",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}
PASSWORD = "correct horse battery"


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    url: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def location(self) -> str:
        return self.header("location") or ""

    @property
    def cookies(self) -> list[str]:
        return [value for key, value in self.headers if key.lower() == "set-cookie"]


@dataclass
class Browser:
    """Cookies by host, and as many hands as a test needs to do what a browser would not."""

    jar: dict[str, dict[str, str]] = field(default_factory=dict)

    def get(self, url: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", url, headers)

    def post(self, url: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", url, kind | (headers or {}), urlencode(fields).encode())

    def ask(self, method: str, url: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        parts = urlsplit(url)
        jar = self.jar.setdefault(parts.netloc, {})
        sent = NAVIGATION | ({"Cookie": "; ".join(f"{k}={v}" for k, v in jar.items())} if jar else {})
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        wanted = {name: value for name, value in (sent | (headers or {})).items() if value}
        connection.request(method, target, body or None, wanted)
        got = connection.getresponse()
        answered = Answer(got.status, got.getheaders(), got.read(), url)
        connection.close()
        for value in answered.cookies:
            for name, morsel in SimpleCookie(value).items():
                if morsel["max-age"] == "0":
                    jar.pop(name, None)
                else:
                    jar[name] = morsel.value
        return answered

    def to_provider(self, service: SignInService, rd: str = "/") -> Answer:
        """Begin: the answer of /oauth2/start, which leads to the provider."""
        return self.get(f"{service.url}/oauth2/start?{urlencode({'rd': rd})}")

    def at_provider(self, service: SignInService, rd: str = "/") -> str:
        """Begin and sign in at the provider: the address that it sends the browser back to."""
        started = self.to_provider(service, rd)
        assert started.status == 303, started.text
        return self.get(started.location).location

    def sign_in(self, service: SignInService, rd: str = "/") -> Answer:
        """All of it: the answer of /oauth2/callback."""
        return self.get(self.at_provider(service, rd))

    def who(self, service: SignInService) -> dict[str, Any] | None:
        """Who /oauth2/userinfo says is signed in."""
        answered = self.get(f"{service.url}/oauth2/userinfo", {"Sec-Fetch-Mode": "cors"})
        return orjson.loads(answered.body) if answered.status == 200 else None


class SignInService:
    """One replica, as the lead puts it together, without MLflow."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.port = listener.getsockname()[1]
        self.url = settings.public_url or f"http://127.0.0.1:{self.port}"
        self.observed: list[tuple[str, str]] = []
        self.exchanges: list[Exchange] = []
        self.provider: Provider
        self.sessions: Sessions
        self.loop: asyncio.AbstractEventLoop
        self._begun = threading.Event()
        self._server: uvicorn.Server

    def results(self) -> list[str]:
        """What was counted of the provider."""
        return [result for method, result in self.observed if method == "oidc"]

    def refusal(self, path: str) -> str | None:
        """Why the last request to that path was refused; it is known a moment after its answer."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = [exchange for exchange in self.exchanges if exchange.path == path]
            if found:
                return found[-1].refusal
            time.sleep(0.01)
        raise AssertionError(f"no request to {path}")

    def observe_(self, method: str, result: str) -> None:
        self.observed.append((method, result))

    # What the edge tells its metrics and its log.
    def begin(self) -> None: ...
    def end(self) -> None: ...
    def observe(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def write(self, exchange: Exchange, query: bytes) -> None: ...

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        settings = self.settings
        self.loop = asyncio.get_running_loop()
        secrets = cookie_secrets(settings)
        keys = [secret.encode() for secret in secrets]
        store = Store.open(settings)
        authenticator = Authenticator(settings, PASSWORD, "jobs", self.observe_)
        self.provider = Provider(settings, keys, self.observe_)

        def role(claims: Claims) -> Role | None:
            return Role.ADMIN if claims.issuer == "" else admission.role(claims, settings)

        audit = await open_audit(settings, store)
        self.sessions = Sessions(settings, store, self.provider, role, self.observe_, secrets, audit)
        hosts = Hosts((*LOOPBACK, *settings.allowed_hosts), settings.public_url)
        pages = routes(
            settings,
            self.provider,
            self.sessions,
            authenticator if settings.basic_auth else None,
            hosts,
            keys,
            self.observe_,
            audit,
        )
        prefix = urlsplit(settings.public_url or "").path

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            exchange: Exchange = scope["exchange"]
            cookie = header(scope)
            identity = self.sessions.recall(cookie, exchange)
            if identity is None:
                outcome = await self.sessions.verify(cookie, exchange)
                identity = outcome if isinstance(outcome, Identity) else None
            exchange.identity = identity
            page: App | None = pages.get(scope["path"].removeprefix(prefix))
            if page is not None:
                await page(scope, receive, send)
                return
            exchange.status = 200
            await answer(scope, send, 200, orjson.dumps(None if identity is None else identity.user), JSON)

        config = uvicorn.Config(
            Edge(app, self, self, audit, ()),
            http=ProxyProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
        watch = asyncio.create_task(self.sessions.watch())
        self._begun.set()
        try:
            await self._server.serve([self.listener])
        finally:
            watch.cancel()
            await audit.aclose()
            await self.provider.aclose()
            authenticator.close()
            store.close()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine where the service runs."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.run)
        thread.start()
        assert self._begun.wait(30)
        return thread

    def stop(self) -> None:
        self._server.should_exit = True


def settings_for(issuer: str, directory: Path, **more: Any) -> Settings:
    base: dict[str, Any] = {
        "oauth_issuer_url": issuer,
        "oauth_client_id": CLIENT_ID,
        "oauth_client_secret": CLIENT_SECRET,
        "default_role": Role.VIEWER,
        "editor_groups": ("ml",),
        "data_dir": directory,
        "tls": False,
    }
    return Settings(**(base | more))


@contextmanager
def serving(settings: Settings) -> Iterator[SignInService]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        service = SignInService(settings, listener)
        thread = service.start()
        try:
            yield service
        finally:
            service.stop()
            thread.join()


def absolute(service: SignInService, location: str) -> str:
    return urljoin(f"{service.url}/", location)
