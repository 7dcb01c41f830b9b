"""What the identity provider last said of people, for access tokens that say less than a sign-in does."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from proxy.auth.session.renewal import person
from proxy.auth.tokens.judging import claims_of
from proxy.store import Store, StoreUnavailable, people

if TYPE_CHECKING:
    from proxy.auth.oidc.claims import Claims


class People:
    """The people who have signed in here, on any replica."""

    def __init__(self, store: Store, within: float) -> None:
        """``within`` is PROXY_TOKEN_SIGN_IN_WITHIN, in seconds."""
        self._store = store
        self._within = within

    async def claims(self, issuer: str, subject: str) -> Claims | None:
        """What the provider said at the last sign-in or refresh; None of a stranger, of somebody who is
        suspended, and where that was too long ago. Raises StoreUnavailable.
        """
        found = await self._store.run(lambda db: people.read(db, issuer, subject))
        if found is None or found.suspended is not None or found.vouched < time.time() - self._within:
            return None
        return claims_of(found)

    async def vouch(self, claims: Claims, at: float) -> None:
        """Note what an access token says that was made at that Unix time (its ``iat``), so that its owner can
        make tokens of ours without a browser. Only for claims as whole as a sign-in's: they take its place,
        unless what is there is newer. Where the database does not answer, nothing is noted.
        """
        with contextlib.suppress(StoreUnavailable):
            await self._store.run(lambda db: people.vouch(db, person(claims, at)))
