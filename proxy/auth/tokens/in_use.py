"""Tokens in use on one replica: looked up once, recalled for each request, ended everywhere in seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from proxy.auth.refusals import Refusal
from proxy.auth.tokens.format import checked, digest
from proxy.auth.tokens.judging import Judge, Standing
from proxy.auth.tokens.known import Known, KnownTokens
from proxy.auth.tokens.orphans import Orphans
from proxy.auth.tokens.words import NO_DATABASE, Words
from proxy.auth.verified import Verified, Wrong
from proxy.identity import PASSWORD_ISSUER, Role
from proxy.store import Store, StoreUnavailable, TokenRow, people
from proxy.store import tokens as rows

if TYPE_CHECKING:
    from proxy.audit import Audit
    from proxy.exchange import Exchange
    from proxy.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""How often a replica looks for what has become of the tokens in use: one that was revoked elsewhere is
refused that long after it, and a query's time, at the latest."""
BELIEVED_SECONDS = 60.0
"""For which a token is believed without the database, should nobody look after it."""
KEPT_SECONDS = 90 * 86400.0
"""For which a token is kept after it has ended, so that whoever sends it is told when and why."""
REFUSED_SECONDS = 2.0
"""For which a token that was refused is not looked up again."""
_REFUSALS = 10_000
_AT_A_TIME = 500
_AGAIN_SECONDS = 2.0  # for which one is believed while the database is away, before it is asked again
_FLUSH_SECONDS = 30.0
_PURGE_SECONDS = 600.0


class TokensInUse:
    """The tokens that were sent here lately."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        judge: Judge,
        observe: Callable[[str, str], None],
        ended: Callable[[Collection[str]], None],
        audit: Audit,
    ) -> None:
        self._settings = settings
        self._store = store
        self._judge = judge
        self._observe = observe
        self._ended = ended
        self._audit = audit
        self._words = Words(settings)
        self._grace = settings.session_grace
        self._known = KnownTokens()
        self._orphans = Orphans(store, judge, audit)
        self._asking: dict[str, asyncio.Task[Verified | tuple[Refusal, str]]] = {}
        self._refused: OrderedDict[str, tuple[float, Refusal, str]] = OrderedDict()

    def knows(self, token: bytes) -> bool:
        """As Tokens.knows."""
        text = checked(token)
        return text is not None and self._known.find(digest(text)) is not None

    async def verify(self, token: bytes, exchange: Exchange) -> Verified | Refusal:
        """As Tokens.verify."""
        text = checked(token)
        if text is None:
            self._observe("token", "wrong")
            return Wrong("unauthenticated", self._words.not_whole, None)
        which, now = digest(text), time.time()
        known = self._known.find(which)
        if known is not None and now < known.verified.until:
            return self._sent(known.verified, exchange, now)
        lately = self._refused.get(which)
        if lately is not None and now < lately[0]:
            self._observe("token", lately[2])
            return lately[1]
        # Shielded: a client that leaves takes nothing from the others who wait for the same answer.
        outcome = await asyncio.shield(self._ask(which, exchange.client))
        if isinstance(outcome, Verified):
            return self._sent(outcome, exchange, now)
        self._observe("token", outcome[1])
        return outcome[0]

    def _sent(self, verified: Verified, exchange: Exchange, now: float) -> Verified:
        verified.used, verified.client = now, exchange.client
        self._observe("token", "success")
        return verified

    def _ask(self, which: str, client: str) -> asyncio.Task[Verified | tuple[Refusal, str]]:
        """Once for all requests that want to know at the same time."""
        task = self._asking.get(which)
        if task is None:
            task = self._asking[which] = asyncio.create_task(self._look_up(which, client))
            task.add_done_callback(lambda _: self._asking.pop(which, None))
        return task

    async def _look_up(self, which: str, client: str) -> Verified | tuple[Refusal, str]:
        known = self._known.find(which)
        if known is not None and self._store.problem is not None and (found := self._in_grace(known)):
            return found  # it need not wait to hear once more that the database is away
        try:
            row = await self._store.run(lambda db: rows.by_hash(db, which))
            if row is not None and self._known.was_revoked(row.id):
                # Read again: the answer may be from just before that.
                row = await self._store.run(lambda db: rows.by_hash(db, which))
        except StoreUnavailable:
            if known is not None and (found := self._in_grace(known)):
                return found
            return Refusal("no_database", NO_DATABASE, 5), "unavailable"
        if row is None:
            return self._refuse(which, Wrong("unauthenticated", self._words.unknown, None), "wrong")
        now = time.time()
        standing = self._judge.standing(row, now)
        if standing.identity is None:
            self._known.over(row.id)
            refusal = Refusal("unauthenticated", self._words.refusal(row, standing), None)
            return self._refuse(which, refusal, "expired" if standing.state == "expired" else "revoked")
        known = self._known.get(row.id)
        if known is None:
            known = Known(row, Verified(None, 0.0, now, client), now, now)
            self._known.add(known)
        self._take_up(known, row, standing, now)
        # From here on it is known, so that a revocation meanwhile finds it.
        if row.last_used is None:
            await self._first_used(row, standing, now, client)
        return known.verified

    async def _first_used(self, row: TokenRow, standing: Standing, now: float, client: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            if await self._store.run(lambda db: rows.first_used(db, row.id, now, client)):
                self._audit.record(
                    "token_first_used",
                    user=standing.owner.user,
                    credential=row.id,
                    client=client,
                    target={"token": row.id, "token_name": row.name, "user": standing.owner.user},
                )

    def _refuse(self, which: str, refusal: Refusal, result: str) -> tuple[Refusal, str]:
        self._refused[which] = (time.time() + REFUSED_SECONDS, refusal, result)
        self._refused.move_to_end(which)
        if len(self._refused) > _REFUSALS:
            self._refused.popitem(last=False)
        return refusal, result

    def _in_grace(self, known: Known) -> Verified | None:
        """A token that was in use here when the database went away goes on for a while."""
        now = time.time()
        standing = self._judge.standing(known.row, now)
        if standing.identity is None or now >= known.confirmed + self._grace:
            return None
        self._take_up(known, known.row, standing, known.confirmed)
        known.verified.until = min(
            now + _AGAIN_SECONDS, known.confirmed + self._grace, known.row.expires, standing.owner.until
        )
        return known.verified

    def _take_up(self, known: Known, row: TokenRow, standing: Standing, confirmed: float) -> None:
        known.row, known.confirmed = row, confirmed
        known.ends, known.owner_role = min(row.expires, standing.owner.until), standing.owner.role
        verified = known.verified
        verified.until = min(known.ends, confirmed + BELIEVED_SECONDS)
        if verified.identity != standing.identity:
            verified.identity = standing.identity

    # ---- what has become of them ----

    def revoked(self, ids: Collection[str]) -> None:
        """They count no more from this moment on."""
        for which in ids:
            self._known.revoked(which)
        if ids:
            self._ended(ids)

    def changed(self, row: TokenRow) -> None:
        """Take up a row that was just written."""
        known, now = self._known.get(row.id), time.time()
        if known is None:
            return
        standing = self._judge.standing(row, now)
        if standing.identity is None:
            self._known.over(row.id)
        else:
            self._take_up(known, row, standing, now)

    def last_use(self, token_id: str) -> tuple[float, str] | None:
        """When and from where it was last sent here, as far as is known."""
        known = self._known.get(token_id)
        return None if known is None else (known.verified.used, known.verified.client)

    async def watch(self) -> None:
        """As Tokens.watch."""
        flushed = purged = time.monotonic()
        try:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                try:
                    await self.look()
                    if time.monotonic() >= flushed + _FLUSH_SECONDS:
                        flushed = time.monotonic()
                        await self.flush()
                        self.revoked(await self._orphans.look(time.time()))
                    if time.monotonic() >= purged + _PURGE_SECONDS:
                        purged = time.monotonic()
                        await self._purge()
                except StoreUnavailable:
                    pass  # the store has said so, and each token's grace is running
                except Exception:
                    log.exception("looking after the tokens has failed")
        finally:
            with contextlib.suppress(Exception):
                await self.flush()

    async def look(self) -> None:
        """As Tokens.look."""
        now = time.time()
        self._known.forget_idle(now)
        for which in [which for which, refused in self._refused.items() if now >= refused[0]]:
            del self._refused[which]
        ids = [known.row.id for known in self._known]
        if not ids:
            return
        try:
            seen = await self._store.run(lambda db: rows.glances(db, ids))
            changed = [which for which in ids if self._has_changed(which, seen)]
            found = await self._store.run(lambda db: rows.read_many(db, changed)) if changed else {}
        except StoreUnavailable:
            self._look_after(ids, None)
            for known in self._known:
                known.verified.until = min(known.verified.until, known.confirmed + self._grace)
            raise
        self._look_after(changed, found)
        await self._confirm(set(ids).difference(changed), now)

    def _has_changed(self, which: str, seen: dict[str, rows.Glance]) -> bool:
        known = self._known.get(which)
        return known is not None and seen.get(which) != rows.glance(known.row)

    async def _confirm(self, ids: Collection[str], now: float) -> None:
        """Go on believing those that the database has as they were; judged again are those alone for whom
        time or the users file has changed something."""
        theirs = [known for which in ids if (known := self._known.get(which)) is not None]
        roles = self._judge.roles_of_users(
            {known.row.subject for known in theirs if known.row.issuer == PASSWORD_ISSUER}
        )
        again = []
        for number, known in enumerate(theirs):
            row = known.row
            other = row.issuer == PASSWORD_ISSUER and roles[row.subject] != known.owner_role
            if other or now >= known.ends:
                again.append(row.id)
            elif self._known.get(row.id) is known:
                known.confirmed = now
                known.verified.until = min(known.ends, now + BELIEVED_SECONDS)
            if number % _AT_A_TIME == _AT_A_TIME - 1:
                await asyncio.sleep(0)  # requests go on meanwhile
        left = {which: known.row for which in again if (known := self._known.get(which)) is not None}
        self._look_after(list(left), left)

    def _look_after(self, ids: list[str], found: dict[str, TokenRow] | None) -> None:
        """Take up what was read, or, where nothing could be, what has changed without the database."""
        now = time.time()
        cut = []
        for which in ids:
            known = self._known.get(which)
            if known is None:
                continue
            row = known.row if found is None else found.get(which)
            before = known.verified.identity
            standing = None if row is None else self._judge.standing(row, now)
            if row is None or standing is None or standing.identity is None:
                self._known.over(which)
                # What began while the token was good may end when it has expired.
                if standing is None or standing.state != "expired":
                    cut.append(which)
                continue
            self._take_up(known, row, standing, known.confirmed if found is None else now)
            if before is not None and before.role >= Role.EDITOR > standing.identity.role:
                cut.append(which)
        if cut:
            self._ended(cut)

    async def flush(self) -> None:
        """Write when and from where the tokens were last used. Raises StoreUnavailable."""
        used = [
            (known.row.id, known.verified.used, known.verified.client)
            for known in self._known
            if known.verified.used > known.noted
        ]
        if not used:
            return
        await self._store.run(lambda db: rows.used(db, used))
        for which, at, _ in used:
            if (known := self._known.get(which)) is not None:
                known.noted = max(known.noted, at)

    async def _purge(self) -> None:
        now = time.time()
        await self._store.run(lambda db: rows.purge(db, now - KEPT_SECONDS))
        forgotten = now - self._settings.token_sign_in_within - KEPT_SECONDS
        await self._store.run(lambda db: people.purge(db, forgotten))
