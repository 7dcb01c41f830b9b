"""What the tests of sessions share: replicas over one database, a browser, and a provider that obeys."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from proxy.auth import Refusal
from proxy.auth.oidc.claims import Claims, Tokens
from proxy.auth.oidc.failures import ProviderRefused, ProviderUnavailable
from proxy.auth.session import Sessions, cookie_secrets
from proxy.exchange import Exchange
from proxy.identity import Identity, Role
from proxy.settings import Settings
from proxy.store import Store

ISSUER = "https://id.example.com/"
ROLES = {"viewers": Role.VIEWER, "editors": Role.EDITOR, "admins": Role.ADMIN}
ADA = Claims(
    issuer=ISSUER,
    subject="248289761001",
    email="ada@example.com",
    email_verified=True,
    name="Ada Lovelace",
    groups=("admins", "viewers"),
    raw={"sid": "provider-session-1"},
    user="ada@example.com",
)
TOKENS = Tokens(refresh_token="refresh-1", id_token="id.token.1", access_token="access-1")


class ObedientProvider:
    """A provider's refresh: it counts how often it is asked, and does what it was told to."""

    def __init__(self) -> None:
        self.asked: list[Tokens] = []
        self.claims: Claims | None = ADA
        self.seconds = 0.0
        self.mode = "answers"

    async def refresh(self, kept: Tokens, subject: str | None = None) -> tuple[Claims | None, Tokens]:
        self.asked.append(kept)
        number = len(self.asked) + 1
        await asyncio.sleep(self.seconds)
        match self.mode:
            case "refuses":
                raise ProviderRefused("denied", "invalid_grant")
            case "is down":
                raise ProviderUnavailable("unavailable", "It does not answer.")
            case "says nothing new":
                return None, kept
            case "crashes":
                raise RuntimeError("a defect")
        return self.claims, replace(kept, refresh_token=f"refresh-{number}", id_token=f"id.token.{number}")


def roles(claims: Claims) -> Role | None:
    """Members of "outsiders" don't get in at all."""
    if "outsiders" in claims.groups:
        return None
    return max((ROLES.get(group, Role.NONE) for group in claims.groups), default=Role.NONE)


def settings(folder: Path, **values: Any) -> Settings:
    given = {
        "data_dir": folder,
        "public_url": "https://mlflow.example.com",
        "oauth_issuer_url": ISSUER,
        "oauth_client_id": "mlflow",
        **values,
    }
    return Settings(**given)


@dataclass
class Replica:
    """One of several processes' worth of sessions."""

    settings: Settings
    provider: ObedientProvider | None = None
    results: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store.open(self.settings)
        self.sessions = Sessions(
            self.settings,
            self.store,
            self.provider,
            roles,
            lambda method, result: self.results.append(f"{method} {result}"),
            cookie_secrets(self.settings),
        )

    async def ask(self, cookie: bytes | None, browser: Browser | None = None) -> Identity | Refusal:
        """As the gate does: recall what is known, else verify."""
        exchange = exchange_from()
        identity = self.sessions.recall(cookie, exchange) or await self.sessions.verify(cookie, exchange)
        if browser is not None and (header := exchange.set_cookie) is not None:
            browser.take(header)
        return identity


class Browser:
    """A cookie jar."""

    def __init__(self) -> None:
        self.header: bytes | None = None

    def take(self, set_cookie: bytes) -> bytes:
        """Take up a Set-Cookie header; returns the Cookie header from now on."""
        self.header = set_cookie.partition(b";")[0]
        return self.header

    async def sign_in(self, replica: Replica, claims: Claims = ADA, tokens: Tokens = TOKENS) -> bytes:
        previous = self.header
        return self.take(await replica.sessions.create(claims, tokens, exchange_from(), previous=previous))

    async def ask(self, replica: Replica) -> Identity | Refusal:
        return await replica.ask(self.header, self)


def exchange_from(client: str = "192.0.2.1", agent: str = "Firefox") -> Exchange:
    exchange = Exchange("GET", "/", time.perf_counter(), time.time())
    exchange.client, exchange.user_agent = client, agent
    return exchange


@contextlib.contextmanager
def replicas(*given: Settings, provider: ObedientProvider | None = None) -> Iterator[list[Replica]]:
    """One for each settings given."""
    made = [Replica(each, provider) for each in given]
    try:
        yield made
    finally:
        for replica in made:
            replica.store.close()


def is_refused(outcome: Identity | Refusal, reason: str = "unauthenticated") -> bool:
    return isinstance(outcome, Refusal) and outcome.reason == reason


def role_of(outcome: Identity | Refusal) -> Role:
    assert isinstance(outcome, Identity), outcome
    return outcome.role
