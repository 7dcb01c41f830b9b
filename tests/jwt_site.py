"""What the tests of providers' tokens share: verifying some, one after another, as a service of one would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from identity_provider import AUDIENCE, CLIENT, OTHER_AUDIENCE

from proxy.auth import RESULTS
from proxy.auth.jwt import Jwts
from proxy.auth.oidc import Claims, Provider
from proxy.auth.refusals import Refusal
from proxy.auth.verified import Verified
from proxy.exchange import REFUSALS, Exchange
from proxy.identity import Identity, Role
from proxy.settings import Settings
from proxy.settings.jwt_issuers import JwtIssuer

__all__ = ["AUDIENCE", "OTHER_AUDIENCE", "Site", "claims_for", "exchange", "settings_for"]


def settings_for(issuer: str | None, folder: Path, **more: Any) -> Settings:
    """Of a service that takes the tokens of the provider with that issuer; None where there is none."""
    base: dict[str, Any] = {
        "oauth_issuer_url": issuer,
        "oauth_client_id": None if issuer is None else CLIENT,
        "jwt_audience": () if issuer is None else (AUDIENCE,),
        "cli_client_id": None if issuer is None else "mlflow-cli",
        "public_url": "https://mlflow.example.com",
        "viewer_groups": ("viewers",),
        "editor_groups": ("editors",),
        "admin_groups": ("admins",),
        "data_dir": folder,
    }
    return Settings(**(base | more))


def claims_for(issuer: str, **more: Any) -> dict[str, Any]:
    """A person's access token as it should be; None leaves a claim out."""
    now = int(time.time())
    claims = {
        "iss": issuer,
        "sub": "ada",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 300,
        "client_id": "mlflow-cli",
        "scope": "mlflow",
        "email": "ada@example.com",
        "email_verified": True,
        "groups": ["editors"],
    } | more
    return {name: value for name, value in claims.items() if value is not None}


def exchange() -> Exchange:
    return Exchange("GET", "/api/2.0/mlflow/experiments/search", time.perf_counter(), time.time())


async def nobody(issuer: str, subject: str) -> Claims | None:
    """Nobody has ever signed in."""
    return None


@dataclass
class Site:
    """A service that takes JWTs, and what it counted."""

    settings: Settings
    issuers: tuple[JwtIssuer, ...] = ()
    people: Callable[[str, str], Awaitable[Claims | None]] = nobody
    vouched: list[tuple[Claims, float]] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    problem: str | None = None

    def run(self, body: Callable[[Jwts], Awaitable[None]]) -> None:
        async def run() -> None:
            provider = None
            if self.settings.oauth_issuer_url:
                provider = Provider(self.settings, [b"k" * 32], lambda *_: None)
            jwts = Jwts(self.settings, provider, self.issuers, self.people, self._observe, self._vouch)
            try:
                await body(jwts)
                self.problem = jwts.problem
            finally:
                await jwts.aclose()
                if provider is not None:
                    await provider.aclose()

        asyncio.run(run())
        assert set(self.counted) <= RESULTS

    def outcomes(self, *tokens: str | Callable[[], str]) -> list[Verified | Refusal]:
        """What becomes of each; a function is called for its token when its turn comes."""
        found: list[Verified | Refusal] = []

        async def body(jwts: Jwts) -> None:
            for token in tokens:
                sent = token if isinstance(token, str) else await asyncio.to_thread(token)
                found.append(await jwts.verify(sent.encode(), exchange()))

        self.run(body)
        assert len(self.counted) == len(tokens)
        return found

    def accepted(self, token: str | Callable[[], str]) -> Identity:
        (outcome,) = self.outcomes(token)
        return identity(outcome)

    def refused(self, token: str | Callable[[], str]) -> Refusal:
        (outcome,) = self.outcomes(token)
        return refusal(outcome)

    def _observe(self, method: str, result: str) -> None:
        assert method == "jwt"
        self.counted.append(result)

    async def _vouch(self, claims: Claims, at: float) -> None:
        self.vouched.append((claims, at))


def identity(outcome: Verified | Refusal) -> Identity:
    assert isinstance(outcome, Verified), outcome
    assert outcome.identity is not None
    assert outcome.identity.role > Role.NONE
    return outcome.identity


def refusal(outcome: Verified | Refusal) -> Refusal:
    assert isinstance(outcome, Refusal), outcome
    assert outcome.reason in REFUSALS
    return outcome
