"""The identity provider: its endpoints, and what its token endpoint gives, renews and takes back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_proxy_client.addresses import is_safe
from mlflow_proxy_client.errors import Away, Ended, Problem, plain
from mlflow_proxy_client.http import Answer, ask, provider_trust
from mlflow_proxy_client.server import SignIn

_DAY = 86400.0


@dataclass(frozen=True)
class Client:
    """The public client that this program is at the provider (RFC 8252), and the provider's endpoints."""

    issuer: str
    client_id: str
    scopes: str
    audience: str
    """Which server an access token is for, as the provider names it."""
    token_endpoint: str
    revocation_endpoint: str = ""
    authorization_endpoint: str = ""
    device_endpoint: str = ""
    names_itself: bool = False
    """Whether its answers by way of the browser say who they are from (RFC 9207)."""

    def target(self) -> dict[str, str]:
        """The parameters that ask for an access token for the server: RFC 8707's, which has to be a URL, and
        the older one that some providers know instead; a provider ignores what it doesn't know."""
        if not self.audience:
            return {}
        is_url = self.audience.startswith(("https://", "http://"))
        return {"audience": self.audience} | ({"resource": self.audience} if is_url else {})


@dataclass(frozen=True)
class Tokens:
    """What a sign-in or a renewal gave. Times are Unix seconds of this machine's clock."""

    access: str
    refresh: str | None
    obtained: float
    expires: float | None
    """None where the provider did not say."""


def discover(sign_in: SignIn) -> Client:
    """The provider's endpoints (OpenID Connect Discovery 1.0, section 4)."""
    issuer = sign_in.issuer
    answer = ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration", provider_trust())
    if answer.status != 200 or answer.data.get("issuer") != issuer:
        raise Problem(
            f"{plain(issuer)} does not answer as that OpenID provider (status {answer.status}, issuer "
            f"{plain(answer.data.get('issuer'))!r})"
        )

    def endpoint(name: str) -> str:
        url = answer.text(name) or ""
        if url and not is_safe(url):
            raise Problem(f"the provider's {name} {plain(url)} is not encrypted")
        return url

    token_endpoint = endpoint("token_endpoint")
    if not token_endpoint:
        raise Problem(f"the provider {plain(issuer)} names no token endpoint")
    return Client(
        issuer,
        sign_in.client_id,
        sign_in.scopes,
        sign_in.audience,
        token_endpoint,
        endpoint("revocation_endpoint"),
        endpoint("authorization_endpoint"),
        endpoint("device_authorization_endpoint"),
        answer.data.get("authorization_response_iss_parameter_supported") is True,
    )


def request_tokens(client: Client, fields: Mapping[str, str]) -> tuple[Answer, float]:
    """One request of a public client to the token endpoint, and when it was made: the tokens' time counts
    from before the answer."""
    asked = time.time()
    form = {**fields, "client_id": client.client_id, **client.target()}
    return ask("POST", client.token_endpoint, provider_trust(), form=form), asked


def tokens_of(answer: Answer, asked: float) -> Tokens:
    """The tokens in a token endpoint's good answer (RFC 6749, section 5.1)."""
    access = answer.text("access_token")
    if answer.status != 200 or access is None or (answer.text("token_type") or "").lower() != "bearer":
        raise Problem(f"the provider gave no bearer token (status {answer.status})")
    if not access.isascii() or not access.isprintable() or " " in access:
        raise Problem("the provider's access token can't be sent in a header")
    return Tokens(access, answer.text("refresh_token"), asked, _expiry(answer.data, asked))


def refresh(client: Client, tokens: Tokens) -> Tokens:
    """Newer tokens (RFC 6749, section 6); the refresh token is the old one where no newer one came.

    Raises Ended where the provider refuses, Away where it gave no answer that settles it.
    """
    if tokens.refresh is None:
        raise Ended(
            "the provider gave no refresh token; the operator adds offline_access to PROXY_CLI_SCOPES"
        )
    fields = {"grant_type": "refresh_token", "refresh_token": tokens.refresh}
    answer, asked = request_tokens(client, fields)
    if answer.status in (400, 401, 403) and answer.text("error") not in (None, "temporarily_unavailable"):
        raise Ended(f"the provider renews the sign-in no more ({said(answer)})")
    if answer.status != 200:
        raise Away(f"{client.issuer} answered {answer.status}")
    newer = tokens_of(answer, asked)
    return Tokens(newer.access, newer.refresh or tokens.refresh, newer.obtained, newer.expires)


def revoke(client: Client, tokens: Tokens) -> bool:
    """Take the sign-in back (RFC 7009); False where the provider has no way to."""
    if not client.revocation_endpoint:
        return False
    token, kind = (
        (tokens.refresh, "refresh_token") if tokens.refresh is not None else (tokens.access, "access_token")
    )
    form = {"token": token, "token_type_hint": kind, "client_id": client.client_id}
    answer = ask("POST", client.revocation_endpoint, provider_trust(), form=form)
    if answer.status != 200:
        raise Problem(f"the provider did not take the sign-in back: {said(answer)}")
    return True


def said(answer: Answer) -> str:
    """A provider's refusal in its own words (RFC 6749, section 5.2)."""
    error = plain(answer.text("error") or f"status {answer.status}")
    description = answer.text("error_description")
    return f"{error}: {plain(description)}" if description else error


def _expiry(data: Mapping[str, Any], asked: float) -> float | None:
    try:
        seconds = float(data["expires_in"])  # some send a string
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return asked + seconds if 0 < seconds < 3650 * _DAY else None
