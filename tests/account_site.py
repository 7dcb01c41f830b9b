"""The pages below /-/account behind a real uvicorn, over real tokens in SQLite, for anybody a test says."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from chromium import Window
from sign_in_site import Row, Sessions, serving

from proxy.audit import NO_AUDIT
from proxy.auth.refusals import Refusal
from proxy.auth.tokens.tokens import Tokens
from proxy.exchange import Exchange, Refused
from proxy.identity import Credential, Identity, Role
from proxy.pages import answers, errors
from proxy.pages.account import account_pages
from proxy.pages.answers import Receive, Scope, Send
from proxy.pages.token_forms import DAY, Rules
from proxy.settings import Settings
from proxy.store import Store

ALICE = Identity("alice", Role.EDITOR, "basic", "", "alice")
BOB = Identity("bob", Role.VIEWER, "basic", "", "bob")
ROOT = Identity("root", Role.ADMIN, "basic", "", "root")
BY_TOKEN = Identity("root", Role.ADMIN, "token", "", "root", Credential("0123456789abcdef", "a job", 2e9))
ROLES = {identity.user: identity.role for identity in (ALICE, BOB, ROOT)}
LONGEST = 400 * DAY
NEW = {"name": "nightly", "expiry": str(30 * DAY), "role": "editor"}


class AccountSite:
    """`identity` is who each request comes from, `answered` every exchange."""

    def __init__(self, folder: Path, *, sessions: bool = True) -> None:
        settings = Settings(data_dir=folder, tls=False, token_max_lifetime=float(LONGEST))
        self.store = Store.open(settings)
        self.database = folder / "proxy.db"
        now = time.time()
        self.sessions = Sessions(Row("a" * 8, "alice", Role.EDITOR, now - 7300, now - 200, now + 86400))
        self.identity = ALICE
        self.answered: list[Exchange] = []
        self.tokens = Tokens(settings, self.store, ROLES.get, lambda *_: None, lambda _: None, NO_AUDIT)
        self.pages = account_pages(
            self.sessions if sessions else None,
            self.tokens,
            lambda scope: None,
            Rules(longest=LONGEST, overlap=2 * DAY),
            self.tokens.may_manage,
        )
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope["method"], scope["path"], time.perf_counter(), time.time())
        exchange.identity = self.identity
        exchange.client = "192.0.2.9"
        self.answered.append(exchange)
        scope = {**scope, "exchange": exchange}
        try:
            await self.pages[scope["path"]](scope, receive, send)
        except Refused as refused:
            body = errors.json_body(refused.status, refused.message)
            await answers.answer(scope, send, refused.status, body, answers.JSON, headers=refused.headers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, target: str, fields: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {} if fields is None else {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, target, None if fields is None else urlencode(fields), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text

    def get(self, target: str = "/-/account") -> str:
        answer, text = self.ask("GET", target)
        assert answer.status == 200, text
        return text

    def post(self, path: str, **fields: str) -> tuple[http.client.HTTPResponse, str]:
        return self.ask("POST", f"/-/account/{path}", fields)

    def who(self, secret: str) -> Identity | str:
        """Whom a program with that token is, as far as the database says; else why it is nobody."""
        exchange = Exchange("GET", "/", time.perf_counter(), time.time())
        exchange.client = "198.51.100.7"

        async def verify() -> Identity | str:
            outcome = await self.tokens.verify(secret.encode(), exchange)
            if isinstance(outcome, Refusal):
                return outcome.message
            assert outcome.identity is not None
            return outcome.identity

        return asyncio.run(verify())


@contextmanager
def account_site(folder: Path, *, sessions: bool = True) -> Iterator[AccountSite]:
    site = AccountSite(folder, sessions=sessions)
    try:
        with serving(site):
            yield site
    finally:
        site.store.close()


def copied(browser: Window, source: str) -> str:
    """What the button beside that block leaves in the clipboard."""
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    browser.find(f'button[data-copies="{source}"]').click()
    browser.until(
        lambda: browser.find(f'button[data-copies="{source}"]').text == "Copied", f"{source} copied"
    )
    return str(
        browser.execute_async_script(
            "navigator.clipboard.readText().then(arguments[0], (error) => arguments[0](String(error)))"
        )
    )


def fits(browser: Window) -> None:
    """The page is no wider than the narrowest of phones."""
    browser.screen(320, 640)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
    browser.screen(1200, 800)
