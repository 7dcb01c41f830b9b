"""The gate by itself: in which order it asks, and that nothing gets behind it unasked."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import MutableMapping
from typing import Any

import pytest
from wire import basic

from proxy.auth import Authenticator
from proxy.exchange import Exchange, Refused
from proxy.gate import Gate, Page, pages_alone
from proxy.headers import Asked
from proxy.hosts import LOOPBACK, Hosts
from proxy.identity import Role
from proxy.operations import OWN
from proxy.settings import Settings

PASSWORD = "correct-horse-battery"
ADMIN = (b"authorization", basic("admin", PASSWORD)[1].encode())
HOST = (b"host", b"localhost:8443")
SEARCH = "/api/2.0/mlflow/experiments/search"

Reached = list[tuple[str, MutableMapping[str, Any]]]


@functools.cache
def authenticator() -> Authenticator:
    return Authenticator(Settings(), PASSWORD, "jobs-token", lambda *_: None)


def through(
    method: str,
    path: str,
    *headers: tuple[bytes, bytes],
    raw: bytes | None = None,
    hidden: str | None = None,
    prefix: str = "",
    internal: bool = False,
) -> tuple[str, MutableMapping[str, Any]]:
    """Which application a request reaches, and with which scope. Raises Refused where it reaches none."""
    reached: Reached = []

    def app(name: str) -> Any:
        async def noted(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            reached.append((name, scope))

        return noted

    async def go() -> None:
        pages = {
            path: Page(OWN[path[1:]], app(path), anywhere=True) for path in ("/livez", "/readyz", "/metrics")
        }
        gate = Gate(
            pages,
            {"current-user": app("current-user")},
            app("mlflow"),
            authenticator(),
            Hosts(LOOPBACK, "https://mlflow.example.com" + prefix),
            prefix=prefix,
            delete_role=Role.ADMIN,
            direct_artifacts=False,
        )
        exchange = Exchange(method, path, time.perf_counter(), time.time())
        exchange.internal = internal
        exchange.scheme = "https"
        exchange.client = "203.0.113.7"
        scope = {
            "method": method,
            "path": path,
            "raw_path": raw if raw is not None else path.encode(),
            "headers": list(headers),
            "asked": Asked(list(headers)),
            "hidden": hidden,
            "exchange": exchange,
        }
        try:
            await gate(scope, None, None)  # type: ignore[arg-type]
        except Refused:
            assert not reached
            raise

    asyncio.run(go())
    [only] = reached
    return only


def refusal(*arguments: Any, **more: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        through(*arguments, **more)
    return refused.value.status, refused.value.reason


def test_a_request_of_a_user_reaches_mlflow_by_its_one_path() -> None:
    name, scope = through("GET", SEARCH, HOST, ADMIN, raw=SEARCH.replace("api", "%61pi", 1).encode())
    assert name == "mlflow"
    assert scope["path"] == SEARCH
    assert scope["raw_path"] == SEARCH.encode()
    assert scope["exchange"].operation.name == "search-experiments"
    assert scope["exchange"].identity.user == "admin"


def test_each_guard_stands_before_the_next() -> None:
    """The path before the name, the name before the origin, the origin before the password."""
    evil = (b"origin", b"https://evil.example")
    foreign = (b"host", b"evil.example")
    assert refusal("POST", SEARCH, foreign, evil, hidden="it is hidden") == (400, "unparsed")
    assert refusal("POST", SEARCH, foreign, evil, raw=b"//x") == (400, "bad_path")
    assert refusal("POST", SEARCH, foreign, evil) == (421, "misdirected")
    assert refusal("POST", SEARCH, HOST, evil) == (403, "cross_origin")
    assert refusal("POST", SEARCH, HOST) == (401, "unauthenticated")
    presigned = "/api/2.0/mlflow-artifacts/presigned/0/x"
    assert refusal("GET", presigned, HOST, ADMIN) == (501, "not_served")


@pytest.mark.parametrize("page", ["/livez", "/readyz", "/metrics"])
def test_a_page_of_ours_answers_under_any_name_and_at_the_root_too(page: str) -> None:
    for prefix, path in (("", page), ("/ml", page), ("/ml", f"/ml{page}")):
        foreign = (b"host", b"10.0.0.1") if path == page else HOST
        assert through("GET", path, foreign, ADMIN, prefix=prefix)[0] == page
    assert refusal("GET", page, HOST, ADMIN, hidden="absolute form") == (400, "unparsed")


def test_the_open_pages_ask_for_nothing_and_the_metrics_do() -> None:
    for path, reached in (
        ("/livez", "/livez"),
        ("/readyz", "/readyz"),
        ("/health", "mlflow"),
        ("/version", "mlflow"),
    ):
        assert through("GET", path, HOST)[0] == reached
    assert refusal("GET", "/metrics", HOST) == (401, "unauthenticated")
    assert refusal("POST", "/health", HOST) == (401, "unauthenticated")
    # MLflow's are under our names alone, and another site may ask for them as for any other read.
    assert refusal("GET", "/health", (b"host", b"evil.example")) == (421, "misdirected")
    assert through("GET", "/health", HOST, (b"sec-fetch-site", b"cross-site"))[0] == "mlflow"


def test_our_answers_in_mlflow_s_place_are_guarded_as_it_is() -> None:
    path = "/ajax-api/2.0/mlflow/users/current"
    assert through("GET", path, HOST, ADMIN)[0] == "current-user"
    assert refusal("GET", path, HOST) == (401, "unauthenticated")
    assert refusal("GET", path, (b"host", b"evil.example"), ADMIN) == (421, "misdirected")


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [(b"host", b"")],
    ],
)
def test_a_request_without_a_name_is_for_nobody(hosts: list[tuple[bytes, bytes]]) -> None:
    assert refusal("GET", SEARCH, *hosts, ADMIN) == (421, "misdirected")


def test_a_request_with_two_names_is_for_nobody_either() -> None:
    for second in (HOST, (b"host", b"evil.example")):
        assert refusal("GET", SEARCH, HOST, second, ADMIN) == (400, "bad_request")
        assert refusal("GET", SEARCH, second, HOST, ADMIN) == (400, "bad_request")


def test_the_jobs_door_takes_the_jobs_credential_alone_and_loopback_s_names() -> None:
    jobs = (b"authorization", b"Bearer jobs-token")
    assert through("GET", SEARCH, (b"host", b"127.0.0.1:4711"), jobs, internal=True)[0] == "mlflow"
    assert refusal("GET", SEARCH, (b"host", b"evil.example"), jobs, internal=True) == (421, "misdirected")
    assert refusal("GET", SEARCH, HOST, ADMIN, internal=True) == (401, "unauthenticated")
    assert refusal("GET", SEARCH, HOST, jobs) == (401, "unauthenticated")
    assert refusal("GET", "/metrics", HOST, jobs, internal=True) == (403, "forbidden")


def test_an_agent_s_own_key_is_told_from_a_password_of_ours() -> None:
    route = "/gateway/openai/v1/chat/completions"
    ours = (b"x-mlflow-authorization", ADMIN[1])
    for authorization, passes in (
        (b"Bearer key", True),
        (ADMIN[1], False),
        (b"basic whatever", False),
        (b" Basic whatever", False),
    ):
        _, scope = through("POST", route, HOST, (b"authorization", authorization), ours)
        assert scope["provider_key"] is passes
    assert through("POST", route, HOST, ours)[1]["provider_key"] is False
    assert "provider_key" not in through("POST", route, HOST, ADMIN)[1]
    # Anywhere else the second header is no credential, and takes nothing away from the first.
    assert refusal("POST", SEARCH, HOST, ours) == (401, "unauthenticated")
    assert refusal("POST", "/gateway", HOST, ours) == (401, "unauthenticated")
    assert "provider_key" not in through("POST", SEARCH, HOST, ADMIN, ours)[1]


def test_everything_is_below_the_public_url_s_path() -> None:
    assert through("GET", f"/ml{SEARCH}", HOST, ADMIN, prefix="/ml")[1]["path"] == SEARCH
    assert refusal("GET", SEARCH, HOST, ADMIN, prefix="/ml") == (404, "bad_path")
    assert refusal("GET", "/mlx", HOST, ADMIN, prefix="/ml") == (404, "bad_path")
    with pytest.raises(Refused) as moved:
        through("GET", "/ml", HOST, prefix="/ml")
    assert moved.value.status == 308
    assert moved.value.headers == ((b"location", b"/ml/"),)


def test_the_scraper_s_listener_has_its_pages_and_nothing_else() -> None:
    reached: list[str] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    alone = pages_alone({"/metrics": Page(OWN["metrics"], page)})

    def ask(path: str) -> None:
        exchange = Exchange("GET", path, 0.0, 0.0)
        asyncio.run(alone({"path": path, "exchange": exchange}, None, None))  # type: ignore[arg-type]

    ask("/metrics")
    for path in ("/", SEARCH, "/metrics/", "//metrics"):
        with pytest.raises(Refused) as refused:
            ask(path)
        assert refused.value.status == 404
    assert reached == ["/metrics"]
