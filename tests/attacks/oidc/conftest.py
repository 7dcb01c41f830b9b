"""One provider and one service for each file of attacks, and a browser for each test."""

from __future__ import annotations

from collections.abc import Iterator

import fake_provider
import pytest
from fake_provider import Provider
from sign_in_service import Browser, SignInService, serving, settings_for


@pytest.fixture(scope="module")
def one_provider() -> Iterator[Provider]:
    with fake_provider.running() as running:
        yield running


@pytest.fixture
def provider(one_provider: Provider) -> Provider:
    one_provider.habits()
    return one_provider


@pytest.fixture(scope="module")
def service(one_provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignInService]:
    with serving(settings_for(one_provider.issuer, tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture
def browser() -> Browser:
    return Browser()
