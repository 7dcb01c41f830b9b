"""Whether a session goes on: the database is asked, and the provider where that is due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from proxy.auth.refusals import Refusal
from proxy.auth.session.info import NO_DATABASE, OVER
from proxy.auth.session.known import Known, KnownSessions
from proxy.auth.session.renewal import Ended, Provider, Renewed, Roles, person, renewal
from proxy.auth.session.sealing import Sealing
from proxy.identity import Identity, Role
from proxy.store import Connection, SessionRow, Store, StoreUnavailable, people
from proxy.store import sessions as rows

if TYPE_CHECKING:
    from proxy.audit import Audit, Event
    from proxy.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

AGAIN_SECONDS = 2.0
"""For which a session is believed without a new answer, where the database or another replica is awaited."""
OLD_SECONDS = 60.0
"""How long a cookie is let through after a newer one of its session was shown: requests of several tabs are
under way at once, and answers get lost."""
RETRY_SECONDS = 30.0
"""Until the provider is asked again after it could not answer."""
AHEAD = 0.8
"""Of PROXY_SESSION_REFRESH, after which the groups of a session in use are asked for."""
CLAIM_SECONDS = 30.0
"""Until another replica asks in place of one that set out to and was not heard of again."""
_WAIT_SECONDS = 10.0  # for what another replica is asking


class Confirming:
    """Brings what is known here of a session up to what the database and the provider say."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider | None,
        roles: Roles,
        sealing: Sealing,
        known: KnownSessions,
        audit: Audit,
    ) -> None:
        self._store = store
        self._provider = provider
        self._roles = roles
        self._sealing = sealing
        self._known = known
        self._audit = audit
        # A refresh token of that kind outlives the provider's own session, so its refusal says that the
        # person's access has ended; without it, that the session has, as it does at night.
        self._outlives_sessions = "offline_access" in settings.oauth_scopes.split()
        self._idle = settings.session_idle
        self._refresh = settings.session_refresh
        self._grace = settings.session_grace
        self.old_seconds = min(OLD_SECONDS, self._refresh)

    async def confirm(self, which: str, key: str) -> Known | Refusal:
        """Ask the database, once for all requests of the session; the provider too where that is due."""
        now = time.time()
        if self._store.problem is not None:
            # Nobody who is known waits to hear once more that it is away; watch() finds it back.
            outcome = self._in_grace(which)
            if isinstance(outcome, Known):
                return outcome

        def look(db: Connection) -> tuple[SessionRow | None, bool]:
            row = rows.read(db, which)
            if row is None or self.over(row, now):
                return None, False
            rows.seen(db, {which: now})
            free = self._due(row, now) and now >= row.refreshing + CLAIM_SECONDS
            return row, free and rows.claim(db, row, now)

        try:
            row, ours = await self._store.run(look)
            if row is not None and ours:
                row = await self._renew(row, now)
            elif row is not None and now >= self._until(row, now):
                row = await self._asked_elsewhere(row)
        except StoreUnavailable:
            return self._in_grace(which)
        if row is None:
            self._known.ended([which])
            return Refusal("unauthenticated", OVER, None)
        return self.learn(row, key)

    async def _renew(self, row: SessionRow, claimed: float) -> SessionRow | None:
        """The row as it is after the provider was asked; None where the session has ended by that."""
        outcome = await renewal(row, self._provider, self._sealing, self._roles)
        now = time.time()

        def write(db: Connection) -> tuple[SessionRow | None, Event | None]:
            if isinstance(outcome, Ended):
                rows.end(db, [row.id], now, outcome.by)
                return None, self._told(db, row, outcome, claimed)
            values: dict[str, object] = {"retry": now + RETRY_SECONDS}
            event = None
            if isinstance(outcome, Renewed):
                values = {**outcome.values, "refreshed": now, "retry": 0.0, "issued": row.issued + 1}
                event = self._told(db, row, outcome, claimed)
            rows.refreshed(db, row.id, claimed, **values)
            found = rows.read(db, row.id)
            return (None if found is None or self.over(found, now) else found), event

        renewed, event = await self._persist(write)
        if isinstance(outcome, Ended):
            log.info("session of %r ended by %s", row.user, outcome.by)
            target = {"session": row.id, "user": row.user}
            self._audit.record("session_ended", target=target, by=outcome.by)
        elif renewed is not None and renewed.role != row.role:
            before, after = Role(row.role).name.lower(), Role(renewed.role).name.lower()
            self._audit.record("role_changed", target={"user": row.user}, before=before, after=after)
        if event is not None:
            self._audit.record(event, user=row.user, target={"user": row.user})
        return renewed

    def _told(self, db: Connection, row: SessionRow, outcome: Renewed | Ended, asked: float) -> Event | None:
        """Note in the table of people what the provider said, having been asked at that time: the person's
        tokens go by it. Returns what has become of them."""
        if outcome.claims is not None:
            known = person(outcome.claims, asked)
            if isinstance(outcome, Ended):
                known = replace(known, user=row.user)  # it may have ended because of the new name
            return "tokens_restored" if people.vouch(db, known) else None
        if isinstance(outcome, Renewed) or not outcome.refused or not self._outlives_sessions:
            return None
        suspended = people.suspend(db, row.issuer, row.subject, time.time(), outcome.by)
        return "tokens_suspended" if suspended else None

    async def _persist(self, query: Callable[[Connection], T]) -> T:
        """Write what the provider said: tried again, as a new refresh token would be lost with it."""
        for pause in (1.5, 2.5):
            try:
                return await self._store.run(query)
            except StoreUnavailable:
                await asyncio.sleep(pause)
        return await self._store.run(query)

    async def _asked_elsewhere(self, row: SessionRow) -> SessionRow | None:
        """Wait for what another replica is asking, and go on with what there is where that takes long."""
        until = time.monotonic() + _WAIT_SECONDS
        pause = 0.05
        latest: SessionRow | None = row
        while time.monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(0.5, pause * 1.5)
            latest = await self._store.run(lambda db: rows.read(db, row.id))
            if latest is None or self.over(latest, time.time()):
                return None
            if time.time() < self._until(latest, time.time()):
                break
        return latest

    def _due(self, row: SessionRow, now: float) -> bool:
        return now >= self._ahead(row, now)

    def _ahead(self, row: SessionRow, now: float) -> float:
        return max(min(row.refreshed, now) + self._refresh * AHEAD, min(row.retry, now + RETRY_SECONDS))

    def over(self, row: SessionRow, now: float) -> bool:
        """Whether the session has ended, by anybody or by its time."""
        known = self._known.get(row.id)
        seen = row.last_seen if known is None else max(row.last_seen, known.used)
        return row.ended is not None or now >= row.ends or now >= seen + self._idle

    def _until(self, row: SessionRow, now: float) -> float:
        """When it is believed no longer; the clocks of replicas may differ."""
        believed = min(row.refreshed, now) + self._refresh
        return min(max(believed, min(row.retry, now + RETRY_SECONDS)), row.ends)

    def learn(self, row: SessionRow, key: str) -> Known:
        """Take up what was just read for a request; from now on the session is known here."""
        known = self._known.get(row.id)
        if known is None:
            now = time.time()
            known = Known(
                id=row.id,
                key=key,
                identity=Identity("", Role.NONE, "session"),
                stamp=row.refreshed,
                until=0.0,
                ahead=0.0,
                ends=row.ends,
                issued=0,
                generation=0,
                old_until=0.0,
                confirmed=now,
                used=now,
                noted=now,
            )
            if not self._known.has_ended(row.id):
                self._known.add(known)
        self.update(known, row)
        if known.until <= (now := time.time()):  # another replica still waits for the provider
            known.until = min(now + AGAIN_SECONDS, row.ends)
        return known

    def update(self, known: Known, row: SessionRow) -> None:
        """Take up what was read of a known session. It does not make one believed longer that is due to be
        asked for."""
        if row.issued < known.issued or row.refreshed < known.stamp:
            return  # read before something newer that is known already
        now = time.time()
        identity = Identity(row.user, Role(row.role), "session", row.issuer, row.subject)
        if row.issued != known.issued or row.refreshed != known.stamp or identity != known.identity:
            known.identity = identity
            known.issued, known.stamp, known.set_cookie = row.issued, row.refreshed, b""
        if row.generation > known.generation:
            known.generation = row.generation
            known.old_until = min(row.generation_since, now) + self.old_seconds
        known.confirmed = now
        known.until = max(known.until, self._until(row, now))
        known.ahead = self._ahead(row, now)

    def _in_grace(self, which: str) -> Known | Refusal:
        """A session that was in use here when the database went away goes on for a while."""
        known, now = self._known.get(which), time.time()
        if known is not None and now < min(
            known.confirmed + self._grace, known.ends, known.used + self._idle
        ):
            known.until = min(now + AGAIN_SECONDS, known.confirmed + self._grace, known.ends)
            return known
        return Refusal("no_database", NO_DATABASE, 5)
