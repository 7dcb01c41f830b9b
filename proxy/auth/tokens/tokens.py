"""Tokens and service accounts, as the service has them: verified, made, renewed, revoked and listed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from proxy.auth.refusals import Refusal
from proxy.auth.tokens import changes
from proxy.auth.tokens.changes import Asked, By, CannotBe
from proxy.auth.tokens.in_use import TokensInUse
from proxy.auth.tokens.info import ServiceAccount, TokenInfo, account_info, may_manage, target_of
from proxy.auth.tokens.judging import Judge, Owner, PasswordRole
from proxy.auth.tokens.words import NO_DATABASE
from proxy.auth.verified import Verified
from proxy.exchange import Refused
from proxy.identity import PASSWORD_ISSUER, SERVICE_ISSUER, Identity, Role
from proxy.store import (
    Connection,
    Person,
    ServiceAccountRow,
    Store,
    StoreUnavailable,
    TokenRow,
    people,
    sessions,
)
from proxy.store import service_accounts as accounts
from proxy.store import tokens as rows

if TYPE_CHECKING:
    from proxy.audit import Audit
    from proxy.exchange import Exchange
    from proxy.settings import Settings

T = TypeVar("T")

_ID = re.compile("[0-9a-f]{16}")


class Tokens:
    """The tokens of one replica, over a database that all of them share.

    Everything that changes or lists something raises Refused: 400 for what can't be, 403 for who may not, 404
    for what is not there, 409 for what there is already, 503 where the database does not answer.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        password_role: PasswordRole,
        observe: Callable[[str, str], None],
        ended: Callable[[Collection[str]], None],
        audit: Audit,
    ) -> None:
        """``password_role`` gives the role as of now of the user of that name who has a password, None where
        there is none (any more). ``observe(method, result)`` is called as Authenticator's is. ``ended`` is
        told the ids of credentials that count no more, for what is under way with them.
        """
        self._store = store
        self._audit = audit
        self._longest = settings.token_max_lifetime
        self._overlap = settings.token_overlap
        self._url = settings.public_url or ""
        self._provider = settings.oauth_issuer_url
        self._judge = Judge(settings, password_role)
        self._in_use = TokensInUse(settings, store, self._judge, observe, ended, audit)

    # ---- who is calling ----

    async def verify(self, token: bytes, exchange: Exchange) -> Verified | Refusal:
        """Check a token: its checksum first, then the database, where it is not in use here already.

        Whoever remembers the answer lets callers through by its `identity` until its `until`, and notes each
        use in it. A client that leaves disturbs nobody who waits for the same. A Refusal's reason is
        ``unauthenticated`` (one that may be a guess is Wrong), or ``no_database`` where it can't be said.
        """
        return await self._in_use.verify(token, exchange)

    def knows(self, token: bytes) -> bool:
        """Whether that very token was found to be somebody's here lately; asks nobody."""
        return self._in_use.knows(token)

    async def watch(self) -> None:
        """Learn every POLL_SECONDS what has become of the tokens in use here, and note their use; runs until
        cancelled."""
        await self._in_use.watch()

    async def look(self) -> None:
        """Do that once. Raises StoreUnavailable, after which known tokens go on for PROXY_SESSION_GRACE."""
        await self._in_use.look()

    async def flush(self) -> None:
        """Write when the tokens were last used, which watch() does now and then. Raises StoreUnavailable."""
        await self._in_use.flush()

    def may_manage(self, identity: Identity) -> str | None:
        """None where this caller may make, renew, revoke and list tokens, else why not, for the caller."""
        # Not the host that stands for an issuer where there is none: no JWT that it may have signed is a
        # person's, but one of a further issuer's of that name is a program's.
        return may_manage(identity, self._provider)

    # ---- tokens ----

    async def create(
        self,
        owner: Identity,
        *,
        name: str,
        lifetime: float,
        role: Role,
        read_only: bool,
        exchange: Exchange,
        service_account: str | None = None,
    ) -> tuple[str, TokenInfo]:
        """Make a token for a person, or, as an administrator, for a service account; ``lifetime`` is in
        seconds. Returns its secret, which is told this once, and what lists say of it.
        """
        self._check(owner)
        asked, by = Asked(name, lifetime, role, read_only), By(owner.user, exchange.client)
        if service_account is not None:
            self._check_admin(owner)

        def make(db: Connection) -> tuple[str, TokenRow]:
            _check_session(db, exchange)
            if service_account is not None:
                whose = self._account(db, service_account)
            else:
                whose = self._person(db, owner, exchange.session)
            return changes.create(db, whose, asked, by, self._longest)

        secret, row = await self._asked(make)
        info = self._info(row)
        self._audit.record(
            "token_created",
            exchange=exchange,
            target=target_of(info),
            role=role.name.lower(),
            read_only=read_only,
            expires=round(row.expires),
        )
        return secret, info

    async def renew(
        self, owner: Identity, token_id: str, *, overlap: float | None, exchange: Exchange
    ) -> tuple[str, TokenInfo]:
        """Make another token in place of one of the caller's own, or, as an administrator, of a service
        account's: the same name, role and lifetime. The old one ends within ``overlap`` seconds
        (PROXY_TOKEN_OVERLAP unless given). Returns as create().
        """
        self._check(owner)
        seconds = self._overlap if overlap is None else overlap

        def make(db: Connection) -> tuple[str, TokenRow, TokenRow]:
            _check_session(db, exchange)
            old = _read(db, token_id)
            if old is None or not _may_renew(owner, old):
                raise _no_token(token_id)
            return changes.renew(db, old, seconds, By(owner.user, exchange.client), self._longest)

        secret, row, old = await self._asked(make)
        self._in_use.changed(old)
        info = self._info(row)
        self._audit.record(
            "token_renewed",
            exchange=exchange,
            target=target_of(info),
            renews=old.id,
            expires=round(row.expires),
        )
        return secret, info

    async def revoke(self, actor: Identity, token_id: str, exchange: Exchange) -> None:
        """Revoke one of one's own tokens, or anybody's as an administrator; a token may revoke itself.

        One that is over already stays as it is. To anybody else another's token is as one that there is not.
        """
        itself = actor.credential is not None and actor.method == "token" and actor.credential.id == token_id
        if not itself:
            self._check(actor)
        by = f"{actor.user} (with the token itself)" if itself else actor.user

        def end(db: Connection) -> tuple[TokenRow, list[str]]:
            row = _read(db, token_id)
            if row is None or not (itself or actor.role >= Role.ADMIN or row.owner == _id(actor)):
                raise _no_token(token_id)
            return row, rows.revoke(db, [row.id], time.time(), by)

        row, revoked = await self._asked(end)
        self._in_use.revoked(revoked)
        if revoked:
            self._audit.record("token_revoked", exchange=exchange, target=target_of(self._info(row)))

    async def list_for(self, identity: Identity) -> list[TokenInfo]:
        """The caller's own tokens: those that count, then those that ended in the last 30 days."""
        self._check(identity)
        return await self._list(_id(identity))

    async def list_all(self) -> list[TokenInfo]:
        """Everybody's."""
        return await self._list(None)

    # ---- service accounts ----

    async def create_service_account(
        self, actor: Identity, name: str, role: Role, description: str, exchange: Exchange
    ) -> ServiceAccount:
        """Make an account that belongs to no person; an administrator does that."""
        self._check_admin(actor)
        by = By(actor.user, exchange.client)

        def add(db: Connection) -> ServiceAccountRow:
            _check_session(db, exchange)
            return changes.add_account(db, name, role, description, by)

        row = await self._asked(add)
        account = account_info(row)
        target = {"service_account": name, "user": account.user}
        self._audit.record(
            "service_account_created", exchange=exchange, target=target, role=role.name.lower()
        )
        return account

    async def remove_service_account(self, actor: Identity, name: str, exchange: Exchange) -> None:
        """Remove a service account, and revoke its tokens; an administrator does that."""
        self._check_admin(actor)
        by = By(actor.user, exchange.client)
        revoked = await self._asked(lambda db: changes.remove_account(db, name, by))
        self._in_use.revoked(revoked)
        self._audit.record(
            "service_account_removed",
            exchange=exchange,
            target={"service_account": name},
            tokens=len(revoked),
        )

    async def list_service_accounts(self) -> list[ServiceAccount]:
        """Those there are, by name."""
        return [account_info(row) for row in await self._asked(accounts.live)]

    # ---- how ----

    def _check(self, identity: Identity) -> None:
        if (why := self.may_manage(identity)) is not None:
            raise Refused(403, why, reason="forbidden")

    def _check_admin(self, identity: Identity) -> None:
        self._check(identity)
        if identity.role < Role.ADMIN:
            raise Refused(
                403,
                "Service accounts are an administrator's to make, to use and to remove.",
                reason="forbidden",
            )

    def _account(self, db: Connection, name: str) -> Owner:
        account = accounts.read(db, name) if changes.ACCOUNT_NAME.fullmatch(name) else None
        if account is None or account.removed is not None:
            raise changes.no_account(name)
        return Owner(SERVICE_ISSUER, name, account_info(account).user, "active", Role(account.role))

    def _person(self, db: Connection, identity: Identity, session: str | None) -> Owner:
        """The caller as the owner of a token. A provider's person is noted with the groups of the session,
        where the session is older than the table of people."""
        if identity.issuer != PASSWORD_ISSUER and people.read(db, identity.issuer, identity.subject) is None:
            found = None if session is None else sessions.read(db, session)
            if found is None or (found.issuer, found.subject) != (identity.issuer, identity.subject):
                raise CannotBe(
                    403,
                    f"This server has not seen you sign in yet, and does not know your groups: sign in at "
                    f"{self._url}/oauth2/sign_in with a browser, once.",
                )
            kept = {name: getattr(found, name) for name in _KEPT_OF_SESSION}
            people.vouch(db, Person(**kept, vouched=found.refreshed))
        return Owner(identity.issuer, identity.subject, identity.user, "active", identity.role)

    def _info(self, row: TokenRow) -> TokenInfo:
        info = self._judge.info(row, time.time())
        use = self._in_use.last_use(row.id)
        if use is not None and use[0] > (row.last_used or 0.0):
            info = replace(info, last_used=use[0], last_used_from=use[1])
        return info

    async def _list(self, owner: str | None) -> list[TokenInfo]:
        since = time.time() - changes.LISTED_SECONDS
        found: Iterable[TokenRow] = await self._asked(lambda db: rows.shown(db, since, owner))
        return changes.ordered(map(self._info, found))

    async def _asked(self, query: Callable[[Connection], T]) -> T:
        try:
            return await self._store.run(query)
        except StoreUnavailable:
            raise Refused(503, NO_DATABASE, reason="no_database", retry_after=5) from None
        except CannotBe as error:
            reason = "forbidden" if error.status == 403 else "bad_request"
            raise Refused(error.status, error.message, reason=reason) from None


_KEPT_OF_SESSION = ("issuer", "subject", "user", "email", "email_verified", "name", "groups")


def _id(identity: Identity) -> str:
    return people.owner_id(identity.issuer, identity.subject)


def _may_renew(identity: Identity, row: TokenRow) -> bool:
    return row.owner == _id(identity) or (row.issuer == SERVICE_ISSUER and identity.role >= Role.ADMIN)


def _check_session(db: Connection, exchange: Exchange) -> None:
    """Whoever has a stolen session may send a body so slowly that it ends meanwhile; a token would outlive
    that."""
    found = None if exchange.session is None else sessions.read(db, exchange.session)
    if found is not None and found.ended is not None:
        raise CannotBe(403, "Your session has ended while this was under way: sign in again.")


def _read(db: Connection, token_id: str) -> TokenRow | None:
    # PostgreSQL fails on a NUL, and what no database takes is no defect of ours.
    return rows.read(db, token_id) if _ID.fullmatch(token_id) else None


def _no_token(token_id: str) -> CannotBe:
    return CannotBe(404, f"There is no token {token_id[:16]!r}.")
