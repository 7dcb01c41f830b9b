"""What `mlflow-proxy login` and the plugin talk to: real tokens and JWTs behind uvicorn, without MLflow."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import uvicorn
from identity_provider import AUDIENCE, CLIENT, NATIVE, SECRET

from proxy.audit import NO_AUDIT
from proxy.auth import Authenticator, Refusal
from proxy.auth.jwt import Jwts
from proxy.auth.oidc import Provider
from proxy.auth.tokens.people import People
from proxy.auth.tokens.tokens import Tokens
from proxy.exchange import Exchange, Refused
from proxy.pages import answers, errors
from proxy.pages.answers import JSON, App, Receive, Scope, Send, answer
from proxy.pages.client import Provider as Told
from proxy.pages.client import login_json, whoami
from proxy.pages.token_api import token_api
from proxy.settings import Settings
from proxy.store import Store

USER, PASSWORD = "tester", "correct horse battery"


class LoginSite:
    """One replica. Below `prefix` are the pages; any other path stands for a call of MLflow's."""

    def __init__(self, folder: Path, issuer: str | None, *, prefix: str = "", port: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.listener = socket.create_server(("127.0.0.1", port))
        self.prefix = prefix
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}{prefix}"
        sign_in = {
            "oauth_issuer_url": issuer,
            "oauth_client_id": CLIENT,
            "oauth_client_secret": SECRET,
            "jwt_audience": (AUDIENCE,),
            "cli_client_id": NATIVE,
        }
        self.settings = Settings(
            data_dir=folder,
            tls=False,
            username=USER,
            public_url=self.url,
            viewer_groups=("viewers",),
            editor_groups=("editors",),
            admin_groups=("admins",),
            **(sign_in if issuer else {}),
        )
        self.sent: list[str] = []
        """The Authorization header of every call of MLflow's, and "" where there was none."""
        self.refuse: set[str] = set()
        """Those that are answered with 401 all the same."""
        self.redirect: str | None = None
        """Where every call of MLflow's is sent."""
        self._pages: dict[str, App] = {}
        self._begun = threading.Event()
        self._server: uvicorn.Server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope["method"], scope["path"], time.perf_counter(), time.time())
        exchange.client = scope["client"][0]
        scope = {**scope, "exchange": exchange}
        try:
            await self._answer(scope, receive, send)
        except Refused as refused:
            body = errors.json_body(refused.status, refused.message)
            await answers.answer(scope, send, refused.status, body, JSON, headers=refused.headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        path = scope["path"].removeprefix(self.prefix)
        if path == "/-/login.json":
            await self._pages[path](scope, receive, send)
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if path not in self._pages:
            self.sent.append((header or b"").decode())
            if self.redirect is not None:
                await answer(scope, send, 307, b"", JSON, headers=[(b"location", self.redirect.encode())])
                return
        identity = self.authenticator.recall(header, exchange)
        if identity is None:
            outcome = await self.authenticator.verify(header, exchange)
            if isinstance(outcome, Refusal):
                raise Refused(401, outcome.message, reason="unauthenticated")
            identity = outcome
        exchange.identity = identity
        if (header or b"").decode() in self.refuse:
            raise Refused(401, "Not this one.", reason="unauthenticated")
        if path in self._pages:
            await self._pages[path](scope, receive, send)
            return
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message.get("body", b"")
        await answer(scope, send, 200, orjson.dumps({"user": identity.user, "size": len(body)}), JSON)

    async def _run(self) -> None:
        settings = self.settings
        observe = lambda *_: None  # noqa: E731
        store = Store.open(settings)
        self.authenticator = Authenticator(settings, PASSWORD, "jobs", observe)
        self.tokens = Tokens(
            settings, store, self.authenticator.users.role, observe, lambda _: None, NO_AUDIT
        )
        told, provider, jwts = None, None, None
        if settings.oauth_issuer_url:
            told = Told(settings.oauth_issuer_url, NATIVE, settings.cli_scopes, AUDIENCE)
            provider = Provider(settings, [b"k" * 32], observe)
            people = People(store, 3600)
            jwts = Jwts(settings, provider, (), people.claims, observe, people.vouch)
        self.authenticator.accept(self.tokens, jwts)
        self._pages = {
            "/-/login.json": login_json(told, passwords=True, public_url=settings.public_url),
            "/-/whoami": whoami,
            **token_api(self.tokens, settings.token_max_lifetime),
        }
        config = uvicorn.Config(self, lifespan="off", log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
        self._begun.set()
        try:
            await self._server.serve([self.listener])
        finally:
            if jwts is not None and provider is not None:
                await jwts.aclose()
                await provider.aclose()
            self.authenticator.close()
            store.close()

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        assert self._begun.wait(30)
        return thread

    def stop(self) -> None:
        self._server.should_exit = True


@contextmanager
def login_site(folder: Path, issuer: str | None = None, **more: object) -> Iterator[LoginSite]:
    """A running site; with an issuer, its access tokens count."""
    site = LoginSite(folder, issuer, **more)  # type: ignore[arg-type]
    with site.listener:
        thread = site.start()
        try:
            yield site
        finally:
            site.stop()
            thread.join()
