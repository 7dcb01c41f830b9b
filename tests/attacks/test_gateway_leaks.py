"""What a model provider sees of us: MLflow hands it every header of a gateway's request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import wire
from attacked import PASSWORDS, Target
from provider import KEY, Provider, provider_behind

MESSAGES = [{"role": "user", "content": "hello"}]
ROUTES = [
    ("openai", "/gateway/openai/v1/chat/completions"),
    ("openai", "/gateway/openai/v1/embeddings"),
    ("openai", "/gateway/openai/v1/responses"),
    ("openai", "/gateway/openai/v1/responses/compact"),
    ("openai", "/gateway/proxy/openai/chat/completions"),
    ("openai", "/gateway/mlflow/v1/chat/completions"),
    ("openai", "/gateway/openai/mlflow/invocations"),
    ("anthropic", "/gateway/anthropic/v1/messages"),
    ("anthropic", "/gateway/proxy/anthropic/messages"),
]
# MLflow lets these agents' own credentials through to the provider.
AGENTS = ["codex_cli_rs/1.0", "claude-cli/1.0 (external, cli)", "GeminiCLI/1.0", "curl/8"]
PERSONAL = [
    ("Cookie", "session=S3CRET; mlflow_proxy_session=S3CRET"),
    ("X-Forwarded-User", "S3CRET"),
    ("X-Forwarded-For", "198.51.100.77"),
    ("X-Forwarded-Access-Token", "S3CRET"),
    ("X-Auth-Request-Access-Token", "S3CRET"),
    ("X-Remote-User", "S3CRET"),
    ("X_Forwarded_User", "S3CRET"),
    ("X-Proxy-Secret", "S3CRET"),
    ("X-Real-IP", "198.51.100.77"),
    ("Proxy-Authorization", "Basic S3CRET"),
    ("X-Request-Id", "S3CRET"),
    ("Forwarded", "for=198.51.100.77"),
]


@pytest.fixture(scope="module")
def providers(target: Target) -> Iterator[dict[str, Provider]]:
    with provider_behind(target, "openai") as openai, provider_behind(target, "anthropic") as anthropic:
        yield {"openai": openai, "anthropic": anthropic}


def sent(
    target: Target, provider: Provider, kind: str, route: str, *headers: tuple[str, str]
) -> list[tuple[str, str]]:
    """The headers that the provider got, once MLflow has answered."""
    before = len(provider.asked)
    body = {"messages": MESSAGES, "input": "hello", "max_tokens": 5}
    if not route.endswith("/invocations"):
        body["model"] = kind
    answer = wire.post(target.service, route, body, *headers)
    assert len(provider.asked) == before + 1, answer
    return provider.asked[-1][1]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(("kind", "route"), ROUTES)
def test_nothing_of_the_caller_s_reaches_the_provider(
    target: Target, providers: dict[str, Provider], kind: str, route: str, agent: str
) -> None:
    credential = wire.basic("edda", PASSWORDS["edda"])
    got = sent(target, providers[kind], kind, route, credential, *PERSONAL, ("User-Agent", agent))
    everything = "\n".join(f"{name}: {value}" for name, value in got)
    assert "S3CRET" not in everything
    assert credential[1].split()[1] not in everything
    assert "edda" not in everything
    assert "127.0.0.1" not in everything.replace(providers[kind].url.removeprefix("http://"), "")
    assert "198.51.100.77" not in everything
    names = {name for name, _ in got}
    assert not {
        name for name in names if name.startswith(("x-forwarded", "x-request", "cookie", "x-mlflow-a"))
    }
    assert KEY in everything


def test_a_coding_agent_s_own_key_reaches_the_provider_and_its_password_for_us_does_not(
    target: Target, providers: dict[str, Provider]
) -> None:
    ours = ("X-MLflow-Authorization", wire.basic("edda", PASSWORDS["edda"])[1])
    theirs = ("Authorization", "Bearer key-of-the-agent")
    for kind, route in (ROUTES[0], ROUTES[2], ROUTES[4]):
        got = dict(sent(target, providers[kind], kind, route, ours, theirs, ("User-Agent", AGENTS[0])))
        assert got["authorization"] == "Bearer key-of-the-agent"
        assert "x-mlflow-authorization" not in got


@pytest.mark.parametrize("agent", AGENTS)
def test_a_password_sent_in_both_places_stays_here(
    target: Target, providers: dict[str, Provider], agent: str
) -> None:
    password = wire.basic("edda", PASSWORDS["edda"])[1]
    for first in (password, password.replace("Basic ", "basic  "), wire.basic("ada", PASSWORDS["ada"])[1]):
        headers = (("Authorization", first), ("X-MLflow-Authorization", password), ("User-Agent", agent))
        got = sent(target, providers["openai"], "openai", ROUTES[0][1], *headers)
        assert not [value for name, value in got if "basic" in value.lower()]


def test_a_key_for_the_provider_opens_nothing_here(target: Target, providers: dict[str, Provider]) -> None:
    theirs = ("Authorization", "Bearer key-of-the-agent")
    before = len(providers["openai"].asked)
    for headers in (
        (theirs,),
        (theirs, ("X-MLflow-Authorization", "Bearer key-of-the-agent")),
        (theirs, ("X-MLflow-Authorization", "")),
        (theirs, ("X_MLflow_Authorization", wire.basic("edda", PASSWORDS["edda"])[1])),
    ):
        answer = wire.post(target.service, ROUTES[0][1], {"model": "openai", "messages": MESSAGES}, *headers)
        assert answer.status == 401
    # A viewer spends no money, in whichever header the password comes.
    password = wire.basic("vera", PASSWORDS["vera"])[1]
    for name in ("Authorization", "X-MLflow-Authorization"):
        answer = wire.post(
            target.service, ROUTES[0][1], {"model": "openai", "messages": MESSAGES}, (name, password)
        )
        assert answer.status == 403
    # And the second header is for the gateway's routes alone.
    search = "/api/2.0/mlflow/experiments/search"
    for path in (search, "/ajax-api/2.0/mlflow/gateway-proxy", "/gatewayx/openai", "/metrics"):
        answer = wire.ask(target.service, "GET", path, ("X-MLflow-Authorization", password))
        assert answer.status == 401
    assert len(providers["openai"].asked) == before


def test_the_server_s_key_is_shown_to_nobody(target: Target, providers: dict[str, Provider]) -> None:
    for path in ("secrets/list", "endpoints/list", "model-definitions/list", "endpoints/get?name=openai"):
        answer = target.ask("ada", "GET", f"/api/3.0/mlflow/gateway/{path}")
        assert answer.status == 200
        assert KEY not in answer.text
    assert KEY not in target.service.log()
