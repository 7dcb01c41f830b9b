"""Which headers pass, which are ours alone, and what an answer's headers become."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from forwarding import ARTIFACT, BASIC, FLASK, GATEWAY, Answer, Rig, head, response, rigged, told

SPELLINGS = [
    "X-Forwarded-User",
    "x-forwarded-user",
    "X-FORWARDED-USER",
    "X_Forwarded_User",
    "X-Forwarded_User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Access-Token",
    "X-Remote-User",
    "X_Remote_User",
    "Remote-User",
    "Remote_User",
    "REMOTE-USER",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "Cf-Access-Jwt-Assertion",
    "X-Amzn-Oidc-Data",
    "X-Goog-Iap-Jwt-Assertion",
    "X-Ms-Token-Aad-Access-Token",
    "X-Pomerium-Jwt-Assertion",
    "Tailscale-User-Login",
    "X-Authentik-Username",
    "X-Webauth-User",
    "X-Proxy-User",
    "X_Proxy_User",
    "X-Original-User",
    "X-User",
    "X-Email",
    "X-Authenticated-User",
    "X-Real-IP",
    "X-Client-IP",
    "True-Client-IP",
    "X-Cluster-Client-IP",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X_Anything",
]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def values(answer: Answer) -> str:
    return " ".join(value for _, value in answer.json()["headers"])


def test_a_forged_identity_does_not_arrive(rig: Rig) -> None:
    for path in (FLASK, ARTIFACT, GATEWAY):
        method = "POST" if path is GATEWAY else "GET"
        answer = rig.ask(method, path, *(f"{name}: mallory" for name in SPELLINGS))
        assert "mallory" not in values(answer)
        if path is not GATEWAY:
            assert answer.arrived("x-forwarded-user") == ["tester"]


def test_the_address_that_arrives_is_the_clients(rig: Rig) -> None:
    for forged in ("X-Forwarded-For: 6.6.6.6", "X_Forwarded_For: 6.6.6.6", "Forwarded: for=6.6.6.6"):
        answer = rig.ask("GET", FLASK, forged, "x-forwarded-for: 7.7.7.7")
        assert answer.arrived("x-forwarded-for") == ["127.0.0.1"]
        assert "6.6.6.6" not in values(answer)


def test_behind_a_trusted_proxy_the_address_is_the_one_it_saw() -> None:
    with rigged(trusted_proxies="127.0.0.1/32") as rig:
        answer = rig.ask("GET", FLASK, "X-Forwarded-For: 6.6.6.6, 203.0.113.7", "X-Request-Id: abc-1")
        assert answer.arrived("x-forwarded-for") == ["203.0.113.7"]
        assert answer.arrived("x-request-id") == ["abc-1"]
        assert answer.all("x-request-id") == ["abc-1"]


def test_the_callers_credential_and_origin_stay_with_us(rig: Rig) -> None:
    answer = rig.ask(
        "POST", FLASK, "Origin: http://localhost", "X-MLflow-Authorization: Basic x", "X-Request-Id: forged"
    )
    for name in ("authorization", "x-mlflow-authorization", "origin"):
        assert answer.arrived(name) == []
    assert answer.arrived("x-request-id") == [answer.header("x-request-id")]
    assert answer.arrived("host") == ["127.0.0.1:5999"]


def test_hop_by_hop_headers_do_not_pass_and_others_do(rig: Rig) -> None:
    answer = rig.ask(
        "GET",
        FLASK,
        "Connection: keep-alive, X-Hop",
        "Connection: x-other",
        "X-Hop: 1",
        "X-Other: 1",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Proxy-Authorization: Basic x",
        "Proxy-Connection: close",
        "Trailer: X-Late",
        "X-Kept: 1",
        "If-None-Match: W/abc",
        "X-MLFLOW-WORKSPACE: team",
    )
    names = [name for name, _ in answer.json()["headers"]]
    for name in [
        "connection",
        "x-hop",
        "x-other",
        "keep-alive",
        "te",
        "proxy-authorization",
        "proxy-connection",
        "trailer",
    ]:
        assert name not in names
    for name in ("x-kept", "if-none-match", "x-mlflow-workspace"):
        assert name in names


def test_repeated_headers_keep_their_order(rig: Rig) -> None:
    answer = rig.ask("GET", FLASK, "X-A: 1", "X-B: 2", "X-A: 3", "Cookie: a=1", "Cookie: b=2")
    assert answer.arrived("x-a") == ["1", "3"]
    assert answer.arrived("cookie") == ["a=1", "b=2"]
    raw = response(
        200, "set-cookie: a=1, b; Path=/", "vary: x", "set-cookie: c=2", "vary: y", "content-length: 0"
    )
    back = rig.ask("GET", told(FLASK, raw))
    assert back.all("set-cookie") == ["a=1, b; Path=/", "c=2"]
    assert back.all("vary") == ["x", "y"]


def test_our_cookies_do_not_reach_mlflow(rig: Rig) -> None:
    answer = rig.ask(
        "GET", FLASK, "Cookie: a=1; mlflow_proxy_session=s3cret; b=2; __Host-mlflow_proxy_session=s3cret"
    )
    assert answer.arrived("cookie") == ["a=1; b=2"]
    assert rig.ask("GET", FLASK, "Cookie: mlflow_proxy_session=s3cret").arrived("cookie") == []


def test_a_model_provider_learns_nothing_about_the_caller(rig: Rig) -> None:
    for path in (GATEWAY, "/gateway/proxy/anything/v1/x", "/gateway/anthropic/v1/messages"):
        answer = rig.ask("POST", path, "Cookie: session=s3cret", "User-Agent: codex_cli_rs/1.0", body=b"{}")
        names = {name for name, _ in answer.json()["headers"]}
        assert names == {"host", "user-agent", "content-length"}


def test_a_providers_key_passes_where_the_credential_came_apart(rig: Rig) -> None:
    key, own = "Authorization: Bearer providers-key", "X-MLflow-Authorization: " + BASIC.decode()
    answer = rig.ask("POST", GATEWAY, key, own, body=b"{}", login=False)
    assert answer.arrived("authorization") == ["Bearer providers-key"]
    assert answer.arrived("x-mlflow-authorization") == []
    wrong = rig.ask("POST", GATEWAY, "X-MLflow-Authorization: Basic eDp5", body=b"{}")
    assert wrong.status == 401
    elsewhere = rig.ask("POST", FLASK, key, own, body=b"{}", login=False)
    assert elsewhere.status == 401


def test_an_answers_hop_by_hop_headers_stay_with_us(rig: Rig) -> None:
    raw = response(
        200,
        "connection: x-hop",
        "x-hop: 1",
        "keep-alive: timeout=5",
        "proxy-authenticate: Basic",
        "upgrade: h2c",
        "date: Thu, 01 Jan 1970 00:00:00 GMT",
        "server: uvicorn",
        "x-kept: 1",
        "content-length: 0",
    )
    answer = rig.ask("GET", told(FLASK, raw))
    assert {name for name, _ in answer.headers} == {"date", "x-kept", "content-length", "x-request-id"}
    assert "1970" not in str(answer.header("date"))


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("http://127.0.0.1:5999/a/b?c#d", "/track/a/b?c#d"),
        ("https://127.0.0.1:5999/a", "/track/a"),
        ("http://localhost/a", "/track/a"),
        ("http://127.0.0.1:5999", "/track/"),
        ("http://127.0.0.1:5999//evil.example/a", "/track/evil.example/a"),
        ("/a", "/track/a"),
        ("//elsewhere.example/a", "//elsewhere.example/a"),
        ("https://elsewhere.example/a", "https://elsewhere.example/a"),
        ("http://127.0.0.1:59990/a", "http://127.0.0.1:59990/a"),
        ("a", "a"),
    ],
)
def test_a_redirect_names_our_address(prefixed: Rig, said: str, becomes: str) -> None:
    raw = response(308, f"location: {said}", "content-length: 0")
    assert prefixed.ask("GET", "/track" + told(FLASK, raw)).header("location") == becomes


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Rig]:
    with rigged(public_url="http://localhost/track") as rig:
        yield rig


def test_a_prefix_is_taken_off(prefixed: Rig) -> None:
    assert prefixed.ask("GET", "/track" + FLASK).json()["target"] == FLASK
    assert prefixed.ask("GET", FLASK).status == 404


def test_a_redirect_without_a_prefix_is_no_other_hosts(rig: Rig) -> None:
    raw = response(308, "location: http://127.0.0.1:5999//evil.example/a", "content-length: 0")
    assert rig.ask("GET", told(FLASK, raw)).header("location") == "/evil.example/a"


def test_a_length_that_announces_no_body_does_not_pass_with_204_and_304(rig: Rig) -> None:
    with rig.client() as client:
        for status in (204, 304):
            answer = client.ask("GET", told(FLASK, response(status, "content-length: 10", 'etag: "x"')))
            assert (answer.status, answer.header("content-length")) == (status, None)
            assert answer.header("etag") == '"x"'
            assert client.ask("GET", FLASK).status == 200


def test_a_head_request_keeps_the_length(rig: Rig) -> None:
    with rig.client() as client:
        client.send(head("HEAD", told(FLASK, response(200, "content-length: 12345"))))
        answer = client.answer("HEAD")
        assert answer.header("content-length") == "12345"
        assert client.ask("GET", FLASK).status == 200
