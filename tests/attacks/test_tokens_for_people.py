"""A token where a person is expected: typed into the sign-in form, sent where sessions are managed."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import fake_provider
import pytest
from sign_in_service import Browser
from test_wired_sign_in import USERS, Wired, _users, by_password, raw, wired

from proxy.identity import Role

numbers = itertools.count()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    folder = tmp_path_factory.mktemp("data")
    users = _users(folder, {**USERS, "root2": Role.ADMIN})
    with fake_provider.running() as provider, wired(provider.issuer, folder, users_file=users) as running:
        yield running


def call(site: Wired, path: str, authorization: str, what: Any = None) -> tuple[int, str]:
    body = b"" if what is None else json.dumps(what).encode()
    head = f"{'GET' if what is None else 'POST'} {path} HTTP/1.1".encode()
    lines = [head, b"Host: 127.0.0.1:%d" % site.port, b"Authorization: " + authorization.encode()]
    if body:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    answer = raw(site.port, *lines, body=body)
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def token(site: Wired, user: str, **asked: Any) -> str:
    body = {"name": f"job {next(numbers)}", **asked}
    status, text = call(site, "/-/api/tokens", basic(user, f"of {user}"), body)
    assert status == 201, text
    return str(json.loads(text)["token"])


@pytest.mark.parametrize("name", ["root2", "vera", "service:ci", "x"])
def test_a_token_signs_nobody_in_by_the_form(site: Wired, name: str) -> None:
    """A session would have the owner's whole role, make tokens, and outlive the token."""
    for asked in ({"read_only": True}, {"role": "viewer"}, {}):
        browser = Browser()
        fields = {"username": name, "password": token(site, "root2", **asked), "rd": "/"}
        answer = browser.post(f"{site.url}/oauth2/sign_in", fields)
        assert answer.status == 403
        assert browser.who(site) is None  # type: ignore[arg-type]


def test_a_token_ends_no_session_and_makes_no_account(site: Wired) -> None:
    """Not even an administrator's, which everybody's sessions are shown to where a person signs in."""
    browser = by_password(site, "edda")
    (session,) = (each for each in asyncio.run(site.parts.sessions.list_all()) if each.user == "edda")
    secret = token(site, "root2")
    for path, fields in (
        ("/-/account/end", {"session": session.id}),
        ("/-/account/tokens", {"name": "x", "expiry": "7", "role": "viewer"}),
        ("/-/account/service-accounts", {"name": "x", "role": "admin"}),
    ):
        body = urlencode(fields).encode()
        answer = raw(
            site.port,
            f"POST {path} HTTP/1.1".encode(),
            b"Host: 127.0.0.1:%d" % site.port,
            b"Authorization: Bearer " + secret.encode(),
            b"Content-Type: application/x-www-form-urlencoded",
            b"Content-Length: %d" % len(body),
            body=body,
        )
        assert answer.split()[1] == b"403", path
    assert browser.who(site) is not None  # type: ignore[arg-type]
    assert session.id not in call(site, "/-/account?everyone", f"Bearer {secret}")[1]


def test_a_read_only_viewer_s_token_revokes_itself(site: Wired) -> None:
    """What it could do least can still be taken back by whoever finds it."""
    secret = token(site, "root2", read_only=True, role="viewer")
    for status in (200, 401):
        assert call(site, "/-/api/tokens/revoke", f"Bearer {secret}", {"id": "current"})[0] == status
