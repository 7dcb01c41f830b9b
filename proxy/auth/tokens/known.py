"""What one replica knows of the tokens in use: found without a database, kept while they are used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.auth.verified import Verified
from proxy.identity import Role
from proxy.store import TokenRow

MOST = 10_000
"""Tokens known at once; the one that has been known longest gives way and is looked up again."""
IDLE_SECONDS = 86400.0
"""After which a token that is not used is forgotten: later than any upload that came with it has ended."""
_ENDED_SECONDS = 60.0


@dataclass(slots=True)
class Known:
    """One token. Times are Unix seconds."""

    row: TokenRow
    verified: Verified
    confirmed: float
    """When the database last said that it counts."""
    noted: float
    """The time of use that the database has."""
    ends: float = 0.0
    """When it ends by itself, as far as is known: it expires, or its owner has to sign in again."""
    owner_role: Role = Role.NONE
    """What its owner may."""


class KnownTokens:
    """Tokens by id and by their digests."""

    def __init__(self) -> None:
        self._by_id: dict[str, Known] = {}
        self._by_hash: dict[str, Known] = {}
        self._ended: dict[str, float] = {}

    def __iter__(self) -> Iterator[Known]:
        return iter(list(self._by_id.values()))

    def get(self, token_id: str) -> Known | None:
        return self._by_id.get(token_id)

    def find(self, digest: str) -> Known | None:
        return self._by_hash.get(digest)

    def add(self, token: Known) -> None:
        self._by_id[token.row.id] = self._by_hash[token.row.hash] = token
        if len(self._by_id) > MOST:
            self.forget(next(iter(self._by_id)))

    def forget(self, token_id: str) -> None:
        """It may count all the same: whoever sends it is looked up again."""
        if (token := self._by_id.pop(token_id, None)) is not None:
            del self._by_hash[token.row.hash]
            token.verified.until = 0.0

    def forget_idle(self, now: float) -> None:
        for token in self:
            if now >= token.verified.used + IDLE_SECONDS:
                self.forget(token.row.id)

    def over(self, token_id: str) -> None:
        """It counts no more."""
        if (token := self._by_id.get(token_id)) is not None:
            token.verified.identity = None
            self.forget(token_id)

    def revoked(self, token_id: str) -> None:
        """It counts no more, whatever a query says that was begun before this moment."""
        now = time.time()
        self.over(token_id)
        self._ended[token_id] = now
        for old in [which for which, when in self._ended.items() if when < now - _ENDED_SECONDS]:
            del self._ended[old]

    def was_revoked(self, token_id: str) -> bool:
        """Whether it was revoked here lately."""
        return token_id in self._ended
