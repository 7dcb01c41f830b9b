"""/-/login.json, /-/whoami and /-/api/tokens: what programs are told, and what bodies are taken from them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import login_site
import pytest
import requests
from login_site import PASSWORD, USER, LoginSite

from proxy.pages.paging import MOST, USUAL, Asked, asked_page

DAY = 86400
TOKENS = "/-/api/tokens"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginSite]:
    with login_site.login_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def counter() -> Iterator[int]:
    return iter(range(1000))


@pytest.fixture
def name(counter: Iterator[int]) -> str:
    """That no other token has."""
    return f"token {next(counter)}"


def ask(
    site: LoginSite, method: str, path: str, auth: Any = (USER, PASSWORD), **more: Any
) -> requests.Response:
    return requests.request(method, site.url + path, auth=auth, timeout=10, **more)


def made(site: LoginSite, name: str, **more: Any) -> dict[str, Any]:
    answer = ask(site, "POST", TOKENS, json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


def refused(answer: requests.Response, status: int) -> str:
    """The message of a refusal in MLflow's shape."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error_code", "message"}
    return str(answer.json()["message"])


def test_anybody_may_ask_how_one_signs_in(site: LoginSite) -> None:
    answer = ask(site, "GET", "/-/login.json", auth=None)
    assert answer.json() == {
        "version": 1,
        "name": "mlflow-proxy",
        "methods": ["password", "token"],
        "issuer": None,
        "client_id": None,
        "scopes": None,
        "audience": None,
        "account": f"{site.url}/-/account",
    }


def test_who_one_is_and_with_what(site: LoginSite, name: str) -> None:
    assert ask(site, "GET", "/-/whoami").json() == {
        "user": USER,
        "role": "admin",
        "method": "basic",
        "account": "password",
        "credential": None,
    }
    token = made(site, name, lifetime=3600, role="viewer", read_only=True)
    assert ask(site, "GET", "/-/whoami", auth=("any", token["token"])).json() == {
        "user": USER,
        "role": "viewer",
        "method": "token",
        "account": "password",
        "credential": {
            "id": token["id"],
            "name": name,
            "expires": pytest.approx(token["expires"]),
            "read_only": True,
        },
    }
    refused(ask(site, "GET", "/-/whoami", auth=None), 401)


def test_a_token_is_made_and_listed_without_its_secret(site: LoginSite, name: str) -> None:
    token = made(site, name, lifetime=DAY, role="editor")
    assert token["expires"] == pytest.approx(time.time() + DAY, abs=30)
    assert (token["name"], token["role"], token["read_only"]) == (name, "editor", False)
    answer = ask(site, "GET", TOKENS)
    listed = {one["id"]: one for one in answer.json()["tokens"]}
    assert listed[token["id"]]["state"] == "active"
    assert token["token"] not in answer.text


def test_tokens_are_listed_in_pages_as_github_has_them(site: LoginSite, name: str) -> None:
    for number in range(7):
        made(site, f"{name} {number}")
    url, seen = f"{site.url}{TOKENS}?per_page=3", []
    pages = 0
    while url:
        answer = requests.get(url, auth=(USER, PASSWORD), timeout=10)
        tokens = answer.json()["tokens"]
        assert len(tokens) <= 3
        seen += [token["id"] for token in tokens]
        pages += 1
        first = answer.links.get("first", {}).get("url")
        assert first == (None if pages == 1 else "?per_page=3&page=1")
        last = answer.links.get("last", answer.links.get("prev"))["url"]
        url = urljoin(answer.url, answer.links["next"]["url"]) if "next" in answer.links else ""
    assert last == f"?per_page=3&page={pages - 1}"
    assert len(seen) == len(set(seen))
    whole = ask(site, "GET", f"{TOKENS}?per_page=1000")
    assert seen == [token["id"] for token in whole.json()["tokens"]][: len(seen)]
    beyond = ask(site, "GET", f"{TOKENS}?per_page=3&page=900")
    assert beyond.json()["tokens"] == []
    assert beyond.links["prev"]["url"] == f"?per_page=3&page={pages}"


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "per_page=x", "page=1e3", "page=٣", "page=" + "9" * 5000]
)
def test_a_page_that_is_no_number_is_refused(site: LoginSite, query: str) -> None:
    refused(ask(site, "GET", f"{TOKENS}?{query}"), 400)


def test_a_page_is_never_longer_than_the_longest() -> None:
    assert asked_page(b"") == Asked(1, USUAL)
    assert asked_page(b"page=3&per_page=100") == Asked(3, MOST)
    assert asked_page(b"per_page=999999999") == Asked(1, MOST)


def test_where_nothing_is_said_it_is_the_callers_role_for_90_days(site: LoginSite, name: str) -> None:
    token = made(site, name)
    assert token["role"] == "admin"
    assert token["expires"] == pytest.approx(time.time() + 90 * DAY, abs=30)


def test_an_expiry_may_be_given_as_a_moment(site: LoginSite, name: str) -> None:
    at = time.time() + 12345
    assert made(site, name, expires=at)["expires"] == pytest.approx(at, abs=5)


def test_a_token_is_renewed_with_an_overlap(site: LoginSite, name: str) -> None:
    old = made(site, name)
    answer = ask(site, "POST", f"{TOKENS}/renew", json={"id": old["id"], "overlap": 600})
    assert answer.status_code == 201
    new = answer.json()
    assert (new["name"], new["role"]) == (name, "admin")
    assert new["token"] != old["token"]
    for secret in (old["token"], new["token"]):
        assert ask(site, "GET", "/-/whoami", auth=("any", secret)).status_code == 200
    listed = {one["id"]: one for one in ask(site, "GET", TOKENS).json()["tokens"]}
    assert listed[old["id"]]["expires"] == pytest.approx(time.time() + 600, abs=30)


@pytest.mark.parametrize("which", ["by its id", "by itself"])
def test_a_token_is_revoked(site: LoginSite, name: str, which: str) -> None:
    token = made(site, name)
    own = ("any", token["token"])
    if which == "by itself":
        answer = ask(site, "POST", f"{TOKENS}/revoke", auth=own, json={"id": "current"})
    else:
        answer = ask(site, "POST", f"{TOKENS}/revoke", json={"id": token["id"]})
    assert answer.status_code == 200
    assert "revoked" in refused(ask(site, "GET", "/-/whoami", auth=own), 401)


def test_a_token_makes_renews_and_lists_none(site: LoginSite, name: str) -> None:
    token = made(site, name)
    own = ("any", token["token"])
    refused(ask(site, "POST", TOKENS, auth=own, json={"name": "another"}), 403)
    refused(ask(site, "POST", f"{TOKENS}/renew", auth=own, json={"id": token["id"]}), 403)
    refused(ask(site, "GET", TOKENS, auth=own), 403)
    other = made(site, f"{name}, the other one")
    refused(ask(site, "POST", f"{TOKENS}/revoke", auth=own, json={"id": other["id"]}), 403)


def test_current_is_a_token_and_nothing_else(site: LoginSite) -> None:
    answer = ask(site, "POST", f"{TOKENS}/revoke", json={"id": "current"})
    assert "this one came with none" in refused(answer, 400)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "Name the token"),
        ({"name": 1}, "Name the token"),
        ({"name": ""}, "has a name"),
        ({"name": "x", "lifetime": "3600"}, "lifetime is a number"),
        ({"name": "x", "lifetime": True}, "lifetime is a number"),
        ({"name": "x", "lifetime": 0}, "in the future"),
        ({"name": "x", "lifetime": 1e300}, "at most 365 days"),
        ({"name": "x", "expires": 1}, "in the future"),
        ({"name": "x", "expires": 2e9, "lifetime": 1}, "exclude each other"),
        ({"name": "x", "role": "owner"}, "role is viewer"),
        ({"name": "x", "role": 3}, "role is viewer"),
        ({"name": "x", "role": "none"}, "opens nothing"),
        ({"name": "x", "read_only": "yes"}, "read_only is true or false"),
        ({"name": "x", "readonly": True}, "'readonly' is none of"),
    ],
)
def test_a_wish_that_is_none_is_refused_with_what_is_wrong(
    site: LoginSite, body: dict[str, Any], why: str
) -> None:
    assert why in refused(ask(site, "POST", TOKENS, json=body), 400)


@pytest.mark.parametrize("path", [TOKENS, f"{TOKENS}/renew", f"{TOKENS}/revoke"])
@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'"{}"', "application/json", 400),
        (b"", "application/json", 400),
        (b'{"name": "x"', "application/json", 400),
        (b'{"name": NaN}', "application/json", 400),
        (b'{"name": "\xff"}', "application/json", 400),
        ('{"name": "x"}'.encode("utf-16"), "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b'{"name": "x"}', "text/plain", 400),
        (b"name=x", "application/x-www-form-urlencoded", 400),
        (b'{"name": "' + b"x" * 17_000 + b'"}', "application/json", 413),
    ],
)
def test_a_body_is_one_json_object_and_small(
    site: LoginSite, path: str, body: bytes, kind: str, status: int
) -> None:
    refused(ask(site, "POST", path, data=body, headers={"Content-Type": kind}), status)


@pytest.mark.parametrize("path", [f"{TOKENS}/renew", f"{TOKENS}/revoke"])
@pytest.mark.parametrize("token_id", [None, "", 1, ["x"]])
def test_which_token_has_to_be_said(site: LoginSite, path: str, token_id: object) -> None:
    assert "Say which token" in refused(ask(site, "POST", path, json={"id": token_id}), 400)


@pytest.mark.parametrize("overlap", [-1, "1", 1e300])
def test_an_overlap_is_a_number_of_seconds(site: LoginSite, name: str, overlap: object) -> None:
    body = {"id": made(site, name)["id"], "overlap": overlap}
    refused(ask(site, "POST", f"{TOKENS}/renew", json=body), 400)


def test_a_token_that_there_is_not_is_404(site: LoginSite) -> None:
    for path in (f"{TOKENS}/renew", f"{TOKENS}/revoke"):
        assert "no token" in refused(ask(site, "POST", path, json={"id": "0123456789abcdef"}), 404)


def test_other_methods_are_405_with_those_that_are_served(site: LoginSite) -> None:
    for method, path, allow in (
        ("DELETE", TOKENS, "GET, HEAD, POST"),
        ("GET", f"{TOKENS}/renew", "POST"),
        ("PUT", f"{TOKENS}/revoke", "POST"),
    ):
        answer = ask(site, method, path)
        refused(answer, 405)
        assert answer.headers["allow"] == allow
    for path in ("/-/login.json", "/-/whoami"):
        assert ask(site, "POST", path).status_code == 405


def test_a_client_that_leaves_within_its_body_makes_no_token(site: LoginSite, name: str) -> None:
    host, port = "127.0.0.1", site.listener.getsockname()[1]
    authorization = requests.Request("POST", site.url, auth=(USER, PASSWORD)).prepare().headers
    with socket.create_connection((host, port)) as connection:
        body = f'{{"name": "{name}"}}'.encode()
        head = (
            f"POST {TOKENS} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Authorization: {authorization['Authorization']}\r\nContent-Length: {len(body) + 1}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        time.sleep(0.2)
    time.sleep(0.2)
    assert name not in ask(site, "GET", TOKENS).text
