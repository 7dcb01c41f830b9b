"""Sessions: begun at sign-in, verified by the database once, then recalled; ended everywhere in seconds."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.audit import NO_AUDIT, Audit
from proxy.auth.oidc.claims import Claims, Tokens
from proxy.auth.oidc.failures import ProviderError
from proxy.auth.refusals import Refusal
from proxy.auth.session.confirming import Confirming
from proxy.auth.session.cookie import Cookie, Payload, new_key, own_url, session_id
from proxy.auth.session.info import NO_DATABASE, NO_SESSION, OVER, SessionInfo, SignedOut, session_info
from proxy.auth.session.known import Known, KnownSessions
from proxy.auth.session.renewal import Provider, Roles, columns, person
from proxy.auth.session.sealing import Sealing
from proxy.auth.verified import reserved_name
from proxy.exchange import Refused
from proxy.identity import PASSWORD_ISSUER, Identity
from proxy.store import Connection, NewSession, SessionRow, Store, StoreUnavailable, people
from proxy.store import sessions as rows

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_SECONDS = 2.0
"""How often a replica looks for what has become of the sessions in use: one that was signed out elsewhere is
refused that long after it, and a query's time, at the latest."""
_FLUSH_SECONDS = 30.0
_PURGE_SECONDS = 600.0


class Sessions:
    """The sessions of one replica, over a database that all of them share."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider | None,
        roles: Roles,
        observe: Callable[[str, str], None],
        cookie_secrets: tuple[str, ...],
        audit: Audit = NO_AUDIT,
        ended: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        """``roles`` says what somebody with these claims may do, None where they may not get in (any more);
        of a session that is asked about later, ``claims.raw`` holds ``sid`` at most. ``observe(method,
        result)`` is called as Authenticator's is. ``cookie_secrets`` are those of secret.py. ``ended`` is
        told the ids of sessions that are over, for what is under way with them.
        """
        self._store = store
        self._roles = roles
        self._observe = observe
        self._audit = audit
        self._idle = settings.session_idle
        self._lifetime = settings.session_lifetime
        self._refresh = settings.session_refresh
        self._grace = settings.session_grace
        self._cookie = Cookie(own_url(settings), cookie_secrets)
        self.cookie_name = self._cookie.name
        where = settings.oauth_issuer_url or settings.oauth_token_url or ""
        self._sealing = Sealing(cookie_secrets, f"{settings.oauth_client_id or ''} {where}")
        self._known = KnownSessions(ended)
        self._confirming = Confirming(settings, store, provider, roles, self._sealing, self._known, audit)
        self._by_cookie = self._known.by_cookie
        self._find = self._cookie.find
        self._asking: dict[str, asyncio.Task[Known | Refusal]] = {}
        self._writing: set[asyncio.Task[None]] = set()

    @property
    def problem(self) -> str | None:
        """Why the database does not answer, or None."""
        return self._store.problem

    # ---- who is calling ----

    def recall(self, cookie: bytes | None, exchange: Exchange) -> Identity | None:
        """The caller, where this very cookie was verified lately; asks nobody. ``cookie`` is the whole Cookie
        header. ``exchange.set_cookie`` is what the answer has to carry, where there is a newer one.

        None says nothing about the caller: ask verify() then.
        """
        if cookie is None or exchange.internal:
            return None
        entry = self._by_cookie.get(self._find(cookie))  # type: ignore[arg-type]  # None is never there
        if entry is None:
            return None
        session = entry.session
        now = time.time()
        if now >= session.until or (entry.generation < session.generation and now >= session.old_until):
            return None
        session.used = now
        exchange.session = session.id
        if now >= session.ahead:
            self._ask_ahead(session)
        if entry.generation > session.generation:
            self._shown(session, entry.generation, now)
        if entry.generation < session.issued:
            exchange.set_cookie = self._newest(session, now)
        self._observe("session", "remembered")
        return session.identity

    def knew(self, cookie: bytes | None) -> bool:
        """Whether that Cookie header has a cookie which we made, be its session over or not."""
        return self._id_in(cookie) is not None

    async def verify(self, cookie: bytes | None, exchange: Exchange) -> Identity | Refusal:
        """Check a cookie: its signature, then its session in the database, then, where that is due, the
        groups with the provider. A client that leaves disturbs nobody who waits for the same.

        A Refusal's reason is ``unauthenticated``, or ``no_database`` (503) where it can't be said.
        """
        value = None if cookie is None or exchange.internal else self._find(cookie)
        if value is None:
            return self._refuse("missing", NO_SESSION)
        payload = self._cookie.open(value)
        if payload is None:
            return self._refuse("wrong", NO_SESSION)
        which = session_id(payload.key)
        # Shielded: a client that leaves takes nothing from the others who wait for the same answer.
        session = await asyncio.shield(self._ask(which, payload.key))
        if isinstance(session, Refusal):
            self._observe("session", "unavailable" if session.reason == "no_database" else "ended")
            return session
        return self._admit(session, value, payload, exchange)

    def _ask(self, which: str, key: str) -> asyncio.Task[Known | Refusal]:
        """Once for all requests that want to know at the same time."""
        task = self._asking.get(which)
        if task is None:
            task = self._asking[which] = asyncio.create_task(self._confirming.confirm(which, key))
            task.add_done_callback(lambda _: self._asking.pop(which, None))
        return task

    def _ask_ahead(self, session: Known) -> None:
        session.ahead = session.until  # it is under way, or it has failed and the next request waits
        self._ask(session.id, session.key).add_done_callback(_say_failure)

    def _admit(
        self, session: Known, value: bytes, payload: Payload, exchange: Exchange
    ) -> Identity | Refusal:
        now = time.time()
        if payload.generation > session.issued or self._known.has_ended(session.id):
            return self._refuse("ended", OVER)
        if payload.generation < session.generation and now >= session.old_until:
            # A copy from before: the browser that has the session has shown a newer one since.
            return self._refuse("ended", OVER)
        if payload.generation > session.generation:
            self._shown(session, payload.generation, now)
        session.used = now
        self._known.verified(value, session, payload.generation)
        exchange.session = session.id
        if payload.generation < session.issued:
            exchange.set_cookie = self._newest(session, now)
        self._observe("session", "success")
        return session.identity

    def _shown(self, session: Known, generation: int, now: float) -> None:
        """From now on older cookies are old copies, here at once, elsewhere when the database has it."""
        session.generation, session.old_until = generation, now + self._confirming.old_seconds
        task = asyncio.create_task(self._store.run(lambda db: rows.shown(db, session.id, generation, now)))
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and not isinstance(task.exception(), StoreUnavailable):
            _say_failure(task)  # and without the database, the others learn it with the next cookie

    def _newest(self, session: Known, now: float) -> bytes:
        if not session.set_cookie:
            identity = session.identity
            payload = Payload(session.key, session.issued, session.stamp, identity.user, identity.role)
            session.set_cookie = self._cookie.made(payload, session.ends - now)
            # It is our own: when it comes back, nobody needs to be asked.
            if (value := self._find(session.set_cookie.partition(b";")[0])) is not None:
                self._known.verified(value, session, session.issued)
        return session.set_cookie

    # ---- beginning and ending ----

    async def create(
        self, claims: Claims, tokens: Tokens, exchange: Exchange, *, previous: bytes | None = None
    ) -> bytes:
        """Begin a session for somebody who has just signed in; returns the Set-Cookie header's value.

        Its id is always new. ``previous`` is the Cookie header of the request: the session it leads to ends.
        Raises ProviderError (``not_admitted``) where the settings let this person not in, or the user name is
        not a person's; Refused (503) where the database does not answer.
        """
        role = self._roles(claims)
        if role is None:
            raise ProviderError("not_admitted", "You are not among those who may use this service.")
        if claims.issuer != PASSWORD_ISSUER and reserved_name(claims.user or claims.subject):
            raise ProviderError("not_admitted", "Your user name is one that only programs have here.")
        key, now = new_key(), time.time()
        session = NewSession(
            id=session_id(key),
            user=(claims.user or claims.subject)[:512],
            issuer=claims.issuer,
            subject=claims.subject,
            provider_sid=claims.sid,
            role=int(role),
            created=now,
            ends=now + self._lifetime,
            client=exchange.client[:64],
            user_agent=exchange.user_agent.replace("\0", "")[:256],
            tokens=self._sealing.seal(tokens),
            **columns(claims),
        )
        old = self._id_in(previous)

        def begin(db: Connection) -> tuple[SessionRow | None, bool]:
            if old is not None:
                rows.end(db, [old], now, "signing in again")
            rows.insert(db, session)
            restored = claims.issuer != PASSWORD_ISSUER and people.vouch(
                db, person(claims, now), signed_in=True
            )
            return rows.read(db, session.id), restored

        row, restored = await self._asked(self._store.run(begin))
        if restored:
            self._audit.record("tokens_restored", user=session.user, target={"user": session.user})
        assert row is not None
        if old is not None:
            self._known.ended([old])
        exchange.session = session.id
        return self._newest(self._confirming.learn(row, key), now)

    async def sign_out(self, cookie: bytes | None, exchange: Exchange) -> SignedOut:
        """End the session of that Cookie header. Raises Refused (503) where the database does not answer: the
        session is ended here then, and the browser may forget it, but a copy is good for other replicas.
        """
        which = self._id_in(cookie)
        if which is None:
            return SignedOut(self._cookie.cleared(), None, None)
        self._known.ended([which])
        now = time.time()

        def end(db: Connection) -> SessionRow | None:
            row = rows.read(db, which)
            return row if rows.end(db, [which], now, "signing out") else None

        row = await self._asked(self._store.run(end))
        if row is None:
            return SignedOut(self._cookie.cleared(), None, None)
        tokens = None if row.tokens is None else self._sealing.open(row.tokens)
        return SignedOut(self._cookie.cleared(), row.user, None if tokens is None else tokens.id_token)

    async def end(self, session_id: str, by: str, exchange: Exchange | None = None) -> bool:
        """End a session by its id in lists; False where there is none running. Raises Refused (503)."""
        now = time.time()

        def end(db: Connection) -> SessionRow | None:
            row = rows.read(db, session_id)
            return row if rows.end(db, [session_id], now, by) else None

        row = await self._asked(self._store.run(end))
        if row is None:
            return False
        self._known.ended([session_id])
        target = {"session": session_id, "user": row.user}
        self._audit.record("session_ended", exchange=exchange, user=by, target=target)
        return True

    async def log_out(
        self, issuer: str, subject: str | None, sid: str | None, token: str, until: float
    ) -> int | None:
        """End what a logout token means (OpenID Connect Back-Channel Logout 1.0, 2.6): the sessions of its
        ``sid``, and without one all of its subject. Returns how many.

        ``token`` names the logout token, which counts once, on any replica: None where it was used before;
        that is remembered until then, Unix seconds. One transaction, so that a token whose sessions could not
        be ended is not used up. Raises Refused (503).
        """
        digest = hashlib.sha256(token.encode()).hexdigest()
        now = time.time()

        def once(db: Connection) -> list[SessionRow] | None:
            if not rows.first_use(db, digest, until):
                return None
            meant = rows.read_many(db, rows.of_provider(db, issuer, subject, sid))
            return [meant[which] for which in rows.end(db, meant, now, "the identity provider")]

        ended = await self._asked(self._store.run(once))
        if ended is None:
            return None
        self._known.ended([row.id for row in ended])
        for row in ended:
            target = {"session": row.id, "user": row.user}
            self._audit.record("session_ended", target=target, by="the identity provider")
        return len(ended)

    async def list_for(self, identity: Identity) -> list[SessionInfo]:
        """A person's running sessions, the latest used first. Raises Refused (503)."""
        return await self._list((identity.issuer, identity.subject))

    async def list_all(self) -> list[SessionInfo]:
        """Everybody's. Raises Refused (503)."""
        return await self._list(None)

    def forget_cookie(self) -> bytes:
        """The Set-Cookie header that makes a browser forget its cookie."""
        return self._cookie.cleared()

    async def _list(self, owner: tuple[str, str] | None) -> list[SessionInfo]:
        now = time.time()
        found = await self._asked(self._store.run(lambda db: rows.live(db, now, self._idle, owner)))
        return [session_info(row) for row in found if not self._known.has_ended(row.id)]

    def _id_in(self, cookie: bytes | None) -> str | None:
        value = None if cookie is None else self._find(cookie)
        payload = None if value is None else self._cookie.open(value)
        return None if payload is None else session_id(payload.key)

    async def _asked(self, query: Awaitable[T]) -> T:
        try:
            return await query
        except StoreUnavailable:
            raise Refused(503, NO_DATABASE, reason="no_database", retry_after=5) from None

    def _refuse(self, result: str, message: str) -> Refusal:
        self._observe("session", result)
        return Refusal("unauthenticated", message, None)

    # ---- what has become of them elsewhere ----

    async def watch(self) -> None:
        """Learn every POLL_SECONDS what other replicas, the provider and commands did to the sessions in use
        here; runs until cancelled."""
        flushed = purged = time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.look()
                if time.monotonic() >= flushed + _FLUSH_SECONDS:
                    flushed = time.monotonic()
                    await self._flush()
                if time.monotonic() >= purged + _PURGE_SECONDS:
                    purged = time.monotonic()
                    await self._store.run(lambda db: rows.purge(db, time.time(), self._idle))
            except StoreUnavailable:
                pass  # the store has said so, and each session's grace is running
            except Exception:
                log.exception("looking after the sessions has failed")

    async def look(self) -> None:
        """Do that once. Raises StoreUnavailable, after which known sessions go on for PROXY_SESSION_GRACE."""
        now = time.time()
        kept = max(self._refresh, self._grace)
        for known in self._known:
            if now >= known.used + kept:
                self._known.forget(known.id)
        ids = [known.id for known in self._known]
        if not ids:
            return
        try:
            found = await self._store.run(lambda db: rows.read_many(db, ids))
        except StoreUnavailable:
            for known in self._known:
                known.until = min(known.until, known.confirmed + self._grace)
            raise
        for which in ids:
            row, session = found.get(which), self._known.get(which)
            if row is None or self._confirming.over(row, now):
                self._known.ended([which])
            elif session is not None:
                self._confirming.update(session, row)

    async def _flush(self) -> None:
        used = {known.id: known.used for known in self._known if known.used > known.noted}
        if used:
            await self._store.run(lambda db: rows.seen(db, used))
            for known in self._known:
                known.noted = max(known.noted, used.get(known.id, 0.0))


def _say_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a session could not be looked up", exc_info=error)
