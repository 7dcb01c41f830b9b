"""Providers' tokens as the service's credentials: verified once, remembered, counted, then forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import identity_provider
import pytest
from identity_provider import EDITOR, OidcProvider
from jwt_site import claims_for, exchange, settings_for

from proxy.auth import Refusal
from proxy.auth.authenticator import TOKEN_FACTOR
from proxy.callers import Callers, opened
from proxy.exchange import Exchange
from proxy.identity import Identity
from proxy.metrics import Metrics
from proxy.settings import Settings

pytestmark = pytest.mark.skipif(not identity_provider.installed(), reason="needs node and `npm ci`")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    folder = tmp_path_factory.mktemp("provider")
    with identity_provider.provider(folder, "https://mlflow.example.com") as running:
        yield running


class Service:
    """All that knows who is calling, over a database of its own."""

    def __init__(self, callers: Callers, metrics: Metrics) -> None:
        self.authenticator = callers.authenticator
        self._metrics = metrics

    @property
    def queries(self) -> int:
        return int(self._metrics.database_queries())

    async def verify(self, token: str, client: str = "192.0.2.1") -> Identity | Refusal:
        return await self.authenticator.verify(f"Bearer {token}".encode(), asking(client))

    def recall(self, token: str) -> Identity | None:
        return self.authenticator.recall(f"Bearer {token}".encode(), asking("192.0.2.1"))


def asking(client: str) -> Exchange:
    asked = exchange()
    asked.client = client
    return asked


def serving(settings: Settings, body: Callable[[Service], Awaitable[None]]) -> None:
    async def run() -> None:
        metrics = Metrics(version="0", mlflow_version="0")
        async with opened(settings, "a password", "the jobs' token", metrics, lambda ids: None) as callers:
            for work in callers.background:
                work.close()
            await body(Service(callers, metrics))

    asyncio.run(run())


def test_a_token_is_verified_once_and_the_database_is_not_asked_again(
    provider: OidcProvider, tmp_path: Path
) -> None:
    async def body(service: Service) -> None:
        for token in (provider.device_tokens(EDITOR)["access_token"], provider.machine_token()):
            assert service.recall(token) is None
            found = await service.verify(token)
            assert isinstance(found, Identity)
            before = service.queries
            assert all(service.recall(token) is found for _ in range(10_000))
            assert service.queries == before

    serving(settings_for(provider.issuer, tmp_path), body)


def test_what_is_remembered_ends_with_the_token(provider: OidcProvider, tmp_path: Path) -> None:
    async def body(service: Service) -> None:
        ready = provider.machine_token()  # the provider's keys are fetched for this one
        assert isinstance(await service.verify(ready), Identity)
        ends = int(time.time()) + 8
        token = provider.sign(claims_for(provider.issuer, exp=ends))
        await service.verify(token)
        assert service.recall(token) is not None
        await asyncio.sleep(max(0.0, ends - time.time()))
        assert service.recall(token) is None
        said = await service.verify(token)
        assert isinstance(said, Refusal)
        assert "has expired on" in said.message

    serving(settings_for(provider.issuer, tmp_path), body)


def test_wrong_signatures_are_counted_and_old_tokens_are_not(provider: OidcProvider, tmp_path: Path) -> None:
    good = provider.machine_token()

    async def body(service: Service) -> None:
        for number in range(20):
            said = await service.verify(provider.sign(claims_for(provider.issuer, exp=number)))
            assert isinstance(said, Refusal)
            assert said.reason == "unauthenticated"
        for number in range(TOKEN_FACTOR):
            cut = f"{good[:-8]}AAAAAA{number:02}"
            said = await service.verify(cut)
            assert isinstance(said, Refusal)
            assert said.reason == "unauthenticated"
        said = await service.verify(good)
        assert isinstance(said, Refusal)
        assert said.reason == "locked_out"
        assert isinstance(await service.verify(good, "198.51.100.7"), Identity)

    serving(settings_for(provider.issuer, tmp_path, login_failures=1, login_window=300.0), body)


def test_what_a_token_lacks_is_known_after_a_token_that_lacks_nothing(
    provider: OidcProvider, tmp_path: Path
) -> None:
    whole = provider.sign(claims_for(provider.issuer, sub="grace", email="grace@example.com"))
    bare = provider.sign(
        claims_for(provider.issuer, sub="grace", email=None, email_verified=None, groups=None)
    )

    async def body(service: Service) -> None:
        said = await service.verify(bare)
        assert isinstance(said, Refusal)
        assert said.reason == "not_admitted"
        found = await service.verify(whole)
        again = await service.verify(bare)
        assert isinstance(found, Identity)
        assert isinstance(again, Identity)
        assert (again.user, again.role, again.subject) == (found.user, found.role, "grace")

    serving(settings_for(provider.issuer, tmp_path), body)
