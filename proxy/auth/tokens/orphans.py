"""Tokens of people who had a password and are gone: ended for good, a new user of the name revives none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.auth.tokens.info import target_of
from proxy.identity import PASSWORD_ISSUER
from proxy.store import Connection, Store, TokenRow
from proxy.store import tokens as rows

if TYPE_CHECKING:
    from proxy.audit import Audit
    from proxy.auth.tokens.judging import Judge

GONE_SECONDS = 3600.0
"""For which a user has to be missing from the users file, as one running service sees it, before the tokens
are revoked. Until then a file that was put in place by mistake can be put right without a loss."""
_BY = "the users file"


class Orphans:
    """Who is missing, and since when; one replica's."""

    def __init__(self, store: Store, judge: Judge, audit: Audit) -> None:
        self._store = store
        self._judge = judge
        self._audit = audit
        self._missing: dict[str, float] = {}

    async def look(self, now: float) -> list[str]:
        """Revoke what is due at ``now`` (Unix seconds); the ids of what was. Raises StoreUnavailable."""
        if not self._judge.passwords_count:
            self._missing.clear()
            return []
        names = await self._store.run(lambda db: rows.subjects(db, PASSWORD_ISSUER, now))
        self._missing = {
            name: self._missing.get(name, now) for name in names if not self._judge.has_password(name)
        }
        due = [name for name, since in self._missing.items() if now >= since + GONE_SECONDS]
        if not due:
            return []

        def end(db: Connection) -> list[TokenRow]:
            found = [row for name in due for row in rows.of_subject(db, PASSWORD_ISSUER, name, now)]
            ended = rows.revoke(db, [row.id for row in found], now, _BY)
            return list(rows.read_many(db, ended).values())

        ended = await self._store.run(end)
        for row in ended:
            self._audit.record("token_revoked", user=_BY, target=target_of(self._judge.info(row, now)))
        return [row.id for row in ended]
