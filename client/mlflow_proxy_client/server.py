"""The server that one signs in to: what it says of itself, whoami, and its tokens' API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlflow_proxy_client.errors import Away, Problem, plain
from mlflow_proxy_client.http import Answer, ask, server_trust

CURRENT = "current"
"""What the token that a request comes with is called in it."""
PROVIDER, PASSWORD, TOKEN = "provider", "password", "token"


@dataclass(frozen=True)
class SignIn:
    """How one signs in there: GET /-/login.json."""

    methods: tuple[str, ...]
    """Of PROVIDER, PASSWORD and TOKEN."""
    issuer: str
    client_id: str
    scopes: str
    audience: str
    """What an access token has to be for; empty without a provider."""
    account: str
    """Where a person makes and revokes tokens with a browser."""


@dataclass(frozen=True)
class NewToken:
    """A token just made. `expires` is Unix time in seconds."""

    id: str
    name: str
    secret: str
    expires: float


class Server:
    """One server, by the URL that `addresses.server_url` gives. Raises Problem; Away without an answer."""

    def __init__(self, url: str) -> None:
        self.url = url

    def sign_in(self) -> SignIn:
        """How one signs in there."""
        answer = self._ask("GET", "/-/login.json")
        methods = answer.data.get("methods")
        if answer.status != 200 or not isinstance(methods, list):
            raise self._problem(
                answer, f"{self.url} has no /-/login.json ({answer.status}): it is not served by mlflow-proxy"
            )
        found = SignIn(
            tuple(str(method) for method in methods),
            *(answer.text(key) or "" for key in ("issuer", "client_id", "scopes", "audience", "account")),
        )
        if PROVIDER in found.methods and not (found.issuer and found.client_id):
            raise Problem(f"{self.url} names no issuer and client to sign in with; tell its operator")
        return found

    def whoami(self, authorization: str) -> Answer:
        """Who that credential is there; 200 and what is known, or another status and a message."""
        answer = self._ask("GET", "/-/whoami", authorization)
        if answer.status not in (200, 401, 403):
            raise self._problem(answer, f"{self.url}/-/whoami answered {answer.status}")
        return answer

    def make_token(self, authorization: str, name: str, lifetime: float | None) -> NewToken | Answer:
        """A token of the caller's, for `lifetime` seconds or the server's usual; the answer where it is 409:
        there is one of that name."""
        wanted: dict[str, Any] = {"name": name}
        if lifetime is not None:
            wanted["lifetime"] = lifetime
        answer = self._ask("POST", "/-/api/tokens", authorization, wanted)
        if answer.status == 409:
            return answer
        token_id, secret, expires = answer.text("id"), answer.text("token"), answer.data.get("expires")
        if answer.status != 201 or not (token_id and secret and isinstance(expires, (int, float))):
            raise self._problem(answer, f"{self.url} made no token ({answer.status})")
        return NewToken(token_id, answer.text("name") or name, secret, float(expires))

    def revoke_token(self, authorization: str, token_id: str) -> None:
        """That one of the caller's, CURRENT for the one that is sent; one that counts no more is as good."""
        answer = self._ask("POST", "/-/api/tokens/revoke", authorization, {"id": token_id})
        if answer.status not in (200, 204, 401, 404):
            raise self._problem(answer, f"{self.url} did not revoke the token ({answer.status})")

    def _ask(
        self,
        method: str,
        path: str,
        authorization: str | None = None,
        body: dict[str, Any] | None = None,
    ) -> Answer:
        return ask(method, self.url + path, server_trust(), authorization=authorization, body=body)

    def _problem(self, answer: Answer, otherwise: str) -> Problem:
        message = answer.text("message")
        problem = Away if answer.status >= 500 or answer.status == 429 else Problem
        return problem(f"{self.url}: {plain(message)}" if message else otherwise)
