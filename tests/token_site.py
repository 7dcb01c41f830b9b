"""What the tests of tokens share: replicas over one database, people and the events they leave behind."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from session_site import ADA, ISSUER, exchange_from

from proxy.auth.oidc.claims import Claims
from proxy.auth.refusals import Refusal
from proxy.auth.session.renewal import person
from proxy.auth.tokens import TokenInfo
from proxy.auth.tokens.tokens import Tokens
from proxy.auth.verified import Verified
from proxy.exchange import Exchange
from proxy.identity import PASSWORD_ISSUER, Identity, Role
from proxy.settings import Settings
from proxy.store import Store, people

DAY = 86400.0
BOB = Identity("bob", Role.EDITOR, "basic", PASSWORD_ISSUER, "bob")
ROOT = Identity("root", Role.ADMIN, "basic", PASSWORD_ISSUER, "root")
VERA = Identity("vera", Role.VIEWER, "basic", PASSWORD_ISSUER, "vera")
ADA_SIGNED_IN = Identity(ADA.user, Role.ADMIN, "session", ADA.issuer, ADA.subject)
GROUPS = {"viewer_groups": ("viewers",), "editor_groups": ("editors",), "admin_groups": ("admins",)}


def settings(folder: Path, **values: Any) -> Settings:
    given = {
        "data_dir": folder,
        "public_url": "https://mlflow.example.com",
        "oauth_issuer_url": ISSUER,
        "oauth_client_id": "mlflow",
        **GROUPS,
        **values,
    }
    return Settings(**given)


@dataclass
class Events:
    """Takes what the audit log would write."""

    seen: list[tuple[str, str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def record(
        self,
        event: str,
        *,
        exchange: Exchange | None = None,
        user: str = "",
        credential: str = "",
        client: str = "",
        target: Mapping[str, str] | None = None,
        outcome: str = "success",
        **details: Any,
    ) -> None:
        self.seen.append((event, user, dict(target or {}), details))

    def named(self, event: str) -> list[dict[str, str]]:
        return [target for name, _, target, _ in self.seen if name == event]


@dataclass
class Replica:
    """One of several processes' worth of tokens."""

    settings: Settings
    roles: dict[str, Role] = field(
        default_factory=lambda: {"bob": Role.EDITOR, "root": Role.ADMIN, "vera": Role.VIEWER}
    )
    """Who has a password, and may do what."""
    results: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    events: Events = field(default_factory=Events)

    def __post_init__(self) -> None:
        self.store = Store.open(self.settings)
        self.tokens = Tokens(
            self.settings,
            self.store,
            lambda name: self.roles.get(name),
            lambda method, result: self.results.append(f"{method} {result}"),
            self._ended,
            self.events,
        )

    def _ended(self, ids: Collection[str]) -> None:
        self.ended += ids

    async def make(self, owner: Identity = BOB, name: str = "job", **more: Any) -> tuple[str, TokenInfo]:
        given = {"lifetime": DAY, "role": owner.role, "read_only": False, "exchange": exchange_from(), **more}
        return await self.tokens.create(owner, name=name, **given)

    async def ask(self, secret: str, client: str = "192.0.2.1") -> Verified | Refusal:
        return await self.tokens.verify(secret.encode(), exchange_from(client))

    async def who(self, secret: str) -> Identity:
        outcome = await self.ask(secret)
        assert isinstance(outcome, Verified), outcome
        assert outcome.identity is not None
        return outcome.identity

    async def why(self, secret: str) -> str:
        """What whoever sends it is told."""
        outcome = await self.ask(secret)
        assert isinstance(outcome, Refusal), outcome
        return outcome.message

    async def vouch(self, claims: Claims, at: float, *, signed_in: bool = True) -> None:
        """As a sign-in does."""
        await self.store.run(lambda db: people.vouch(db, person(claims, at), signed_in=signed_in))

    async def listed(self, owner: Identity = BOB) -> dict[str, TokenInfo]:
        return {token.id: token for token in await self.tokens.list_for(owner)}


@contextlib.contextmanager
def replicas(*given: Settings) -> Iterator[list[Replica]]:
    """One for each settings given."""
    made = [Replica(each) for each in given]
    try:
        yield made
    finally:
        for replica in made:
            replica.store.close()
