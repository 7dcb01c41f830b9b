"""`mlflow-proxy token` and `service-account`: tokens beside a running service, through its database."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from proxy.audit import NO_AUDIT, Audit
from proxy.auth import users
from proxy.auth.beside import columns, database, when
from proxy.auth.tokens import changes
from proxy.auth.tokens.changes import Asked, By, CannotBe
from proxy.auth.tokens.info import ServiceAccount, TokenInfo, account_info, target_of
from proxy.auth.tokens.judging import Judge, Owner, PasswordRole
from proxy.errors import UserError
from proxy.identity import PASSWORD_ISSUER, SERVICE_ISSUER, SERVICE_PREFIX, Role
from proxy.store import Connection, TokenRow, people
from proxy.store import service_accounts as accounts
from proxy.store import tokens as rows

if TYPE_CHECKING:
    from proxy.settings import Settings

_BY = By("the command line")
_LEAST = 6  # characters of an id that are enough to name it


def create_token(
    settings: Settings,
    *,
    user: str | None = None,
    service_account: str | None = None,
    name: str,
    lifetime: float,
    role: Role | None = None,
    read_only: bool = False,
    audit: Audit = NO_AUDIT,
) -> tuple[str, TokenInfo]:
    """Make a token for a user or for a service account: its secret, and what lists say of it.

    ``user`` is the name of somebody who has a password, or the user name, address or subject of somebody who
    has signed in with the identity provider. The role is the owner's unless given. Raises UserError.
    """
    judge = Judge(settings, password_role(settings))

    def make(db: Connection) -> tuple[str, TokenRow]:
        if service_account is not None:
            whose = _account(db, judge, service_account.removeprefix(SERVICE_PREFIX))
        else:
            whose = _user(db, judge, user or "")
        asked = Asked(name, lifetime, whose.role if role is None else role, read_only)
        return changes.create(db, whose, asked, _BY, settings.token_max_lifetime)

    with database(settings) as run, _mistakes():
        secret, row = run(make)
    info = judge.info(row, time.time())
    audit.record(
        "token_created",
        user=_BY.user,
        target=target_of(info),
        role=info.role.name.lower(),
        read_only=read_only,
        expires=round(row.expires),
    )
    return secret, info


def list_tokens(settings: Settings, user: str | None = None) -> list[TokenInfo]:
    """A user's tokens (``service:NAME`` of a service account) or everybody's: those that count first, those
    that ended in the last 30 days after them. Raises UserError."""
    judge, now = Judge(settings, password_role(settings)), time.time()
    with database(settings) as run:
        found = run(lambda db: rows.shown(db, now - changes.LISTED_SECONDS))
    infos = changes.ordered(judge.info(row, now) for row in found)
    return [info for info in infos if user is None or info.user == user]


def renew_token(
    settings: Settings, which: str, overlap: float | None = None, audit: Audit = NO_AUDIT
) -> tuple[str, TokenInfo]:
    """Make another token in place of the one whose id begins with ``which``; the old one ends within
    ``overlap`` seconds (PROXY_TOKEN_OVERLAP). Returns as create_token(). Raises UserError."""
    seconds = settings.token_overlap if overlap is None else overlap

    def make(db: Connection) -> tuple[str, TokenRow, TokenRow]:
        old = _by_id(rows.shown(db, time.time() - changes.LISTED_SECONDS), which)
        if old is None:
            raise _no_token(which)
        return changes.renew(db, old, seconds, _BY, settings.token_max_lifetime)

    with database(settings) as run, _mistakes():
        secret, row, old = run(make)
    info = Judge(settings, password_role(settings)).info(row, time.time())
    audit.record(
        "token_renewed",
        user=_BY.user,
        target=target_of(info),
        renews=old.id,
        expires=round(row.expires),
    )
    return secret, info


def revoke_tokens(settings: Settings, which: str, audit: Audit = NO_AUDIT) -> list[TokenInfo]:
    """Revoke the token whose id begins with ``which``, or all of the user of that name; returns them.

    The service refuses them within seconds. Raises UserError where none is meant, or several ids are.
    """
    judge = Judge(settings, password_role(settings))

    def end(db: Connection) -> list[TokenRow]:
        now = time.time()
        live = [row for row in rows.shown(db, now) if row.revoked is None]
        found = [row for row in live if which in (row.user, judge.standing(row, now).owner.user)]
        if not found and (one := _by_id(live, which)) is not None:
            found = [one]
        if not found:
            raise _no_token(which)
        rows.revoke(db, [row.id for row in found], now, _BY.user)
        return list(rows.read_many(db, [row.id for row in found]).values())

    with database(settings) as run, _mistakes():
        ended = run(end)
    infos = changes.ordered(judge.info(row, time.time()) for row in ended)
    for info in infos:
        audit.record("token_revoked", user=_BY.user, target=target_of(info))
    return infos


def add_service_account(
    settings: Settings, name: str, role: Role, description: str = "", audit: Audit = NO_AUDIT
) -> ServiceAccount:
    """Make an account that belongs to no person. Raises UserError."""
    with database(settings) as run, _mistakes():
        account = account_info(run(lambda db: changes.add_account(db, name, role, description, _BY)))
    audit.record(
        "service_account_created",
        user=_BY.user,
        target={"service_account": name, "user": account.user},
        role=role.name.lower(),
    )
    return account


def remove_service_account(settings: Settings, name: str, audit: Audit = NO_AUDIT) -> int:
    """Remove a service account; returns how many tokens of it that ended. Raises UserError."""
    name = name.removeprefix(SERVICE_PREFIX)
    with database(settings) as run, _mistakes():
        ended = run(lambda db: changes.remove_account(db, name, _BY))
    target = {"service_account": name, "user": f"{SERVICE_PREFIX}{name}"}
    audit.record("service_account_removed", user=_BY.user, target=target, tokens=len(ended))
    return len(ended)


def list_service_accounts(settings: Settings) -> list[ServiceAccount]:
    """Those there are, by name. Raises UserError."""
    with database(settings) as run:
        return [account_info(row) for row in run(accounts.live)]


def table(tokens: Sequence[TokenInfo]) -> str:
    """Tokens in columns, a line each, with a line above that names them."""
    lines = [("id", "user", "name", "role", "state", "expires", "last used", "from")]
    for each in tokens:
        role = f"{each.role.name.lower()}{', read-only' if each.read_only else ''}"
        used = "never" if each.last_used is None else when(each.last_used)
        texts = (each.user, each.name, role, each.state, when(each.expires), used)
        lines.append((each.id, *texts, each.last_used_from or ""))
    return columns(lines)


def accounts_table(listed: Sequence[ServiceAccount]) -> str:
    """Service accounts in columns, a line each, with a line above that names them."""
    lines = [("name", "role", "made", "by", "description")]
    for each in listed:
        made = (when(each.created), each.created_by)
        lines.append((each.name, each.role.name.lower(), *made, each.description))
    return columns(lines)


def password_role(settings: Settings) -> PasswordRole:
    """The role of a user who has a password, as the service would say it now. Raises UserError for a users
    file with a problem."""
    roles = {settings.username or "admin": Role.ADMIN}
    if settings.users_file is not None:
        roles |= {name: user.role for name, user in users.read(settings.users_file).items()}
    return roles.get


def _account(db: Connection, judge: Judge, name: str) -> Owner:
    owner = judge.owner(SERVICE_ISSUER, name, name, None, accounts.read(db, name), time.time())
    if owner.state != "active":
        raise UserError(
            f"there is no service account {name!r}: `mlflow-proxy service-account list` names them"
        )
    return owner


def _user(db: Connection, judge: Judge, user: str) -> Owner:
    """The one account that is meant and gets in."""
    now = time.time()
    known = people.find(db, user)
    owners = [judge.owner(each.issuer, each.subject, each.user, each, None, now) for each in known]
    owners.append(judge.owner(PASSWORD_ISSUER, user, user, None, None, now))
    active = [owner for owner in owners if owner.state == "active"]
    if len(active) > 1:
        raise UserError(
            f"{user!r} is the name of {len(active)} accounts (of the identity provider, or with a password): "
            "say the subject that the provider gives the one that is meant"
        )
    if active:
        return active[0]
    if len(owners) > 1:
        raise UserError(f"{user!r} can't have a token now: this account {owners[0].why}")
    raise UserError(
        f"nobody named {user!r} has a password here (`mlflow-proxy users list`) or has signed in with the "
        "identity provider; for a program make a service account: `mlflow-proxy service-account add NAME`"
    )


def _by_id(found: Sequence[TokenRow], which: str) -> TokenRow | None:
    if len(which) < _LEAST:
        return None
    meant = [row for row in found if row.id.startswith(which.lower())]
    if len(meant) > 1:
        raise UserError(f"{which!r} is the beginning of {len(meant)} tokens' ids: write more of it")
    return meant[0] if meant else None


def _no_token(which: str) -> UserError:
    return UserError(
        f"no token has the user {which!r} or an id that begins so: `mlflow-proxy token list` shows them"
    )


@contextlib.contextmanager
def _mistakes() -> Iterator[None]:
    try:
        yield
    except CannotBe as error:
        raise UserError(error.message) from None
