"""Queries on tokens: each row comes with its owner, so that one query says whether a token counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from proxy.store.people import Person, owner_id, person_of
from proxy.store.service_accounts import ServiceAccountRow
from proxy.store.tables import people, service_accounts, tokens

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token as it begins. Times are Unix seconds."""

    id: str
    hash: str
    name: str
    owner: str
    issuer: str
    subject: str
    user: str
    role: int
    read_only: bool
    created: float
    created_by: str
    created_from: str
    expires: float
    lifetime: float
    renews: str | None = None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as the database has it, with its owner; tables.py says what each column means."""

    id: str
    hash: str
    name: str
    owner: str
    issuer: str
    subject: str
    user: str
    role: int
    read_only: bool
    created: float
    created_by: str
    created_from: str
    expires: float
    lifetime: float
    renews: str | None
    renewed: float | None
    last_used: float | None
    last_used_from: str | None
    revoked: float | None
    revoked_by: str | None
    person: Person | None
    """The owner, where a provider has vouched for it."""
    account: ServiceAccountRow | None
    """The service account of the name `subject`: the owner, where `issuer` is the service accounts'."""


_COLUMNS = [column.name for column in tokens.c]
_PERSON = [column.name for column in people.c]
_ACCOUNT = [column.name for column in service_accounts.c]
_QUERY = sa.select(
    *tokens.c,
    *(people.c[name].label(f"person_{name}") for name in _PERSON),
    *(service_accounts.c[name].label(f"account_{name}") for name in _ACCOUNT),
).select_from(
    tokens.outerjoin(people, people.c.id == tokens.c.owner).outerjoin(
        service_accounts, service_accounts.c.name == tokens.c.subject
    )
)


def _row(row: sa.Row[Any]) -> TokenRow:
    values = row._mapping
    person = account = None
    if values["person_id"] is not None:
        person = person_of({name: values[f"person_{name}"] for name in _PERSON})
    if values["account_name"] is not None:
        account = ServiceAccountRow(**{name: values[f"account_{name}"] for name in _ACCOUNT})
    return TokenRow(**{name: values[name] for name in _COLUMNS}, person=person, account=account)


def _rows(connection: Connection, *conditions: ColumnElement[bool]) -> list[TokenRow]:
    return [_row(row) for row in connection.execute(_QUERY.where(*conditions))]


def insert(connection: Connection, token: NewToken) -> None:
    values = {name: getattr(token, name) for name in NewToken.__slots__}
    connection.execute(sa.insert(tokens).values(**values))


def by_hash(connection: Connection, digest: str) -> TokenRow | None:
    """Whichever token that is of, in force or not."""
    return next(iter(_rows(connection, tokens.c.hash == digest)), None)


def read(connection: Connection, token_id: str) -> TokenRow | None:
    return next(iter(_rows(connection, tokens.c.id == token_id)), None)


def read_many(connection: Connection, ids: Iterable[str]) -> dict[str, TokenRow]:
    """Those of ``ids`` that are there, by id."""
    wanted = list(ids)
    found: dict[str, TokenRow] = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        found |= {row.id: row for row in _rows(connection, tokens.c.id.in_(chunk))}
    return found


Glance = tuple[float | None, float, float | None, float | None, float | None]
"""All of a token and its owner that ever changes what it is worth: when it was revoked and expires, when its
owner was vouched for, suspended and removed."""
_GLANCE = sa.select(
    tokens.c.id,
    tokens.c.revoked,
    tokens.c.expires,
    people.c.vouched,
    people.c.suspended,
    service_accounts.c.removed,
).select_from(_QUERY.get_final_froms()[0])


def glance(row: TokenRow) -> Glance:
    """What glances() has of the token as that row has it."""
    person, account = row.person, row.account
    return (
        row.revoked,
        row.expires,
        None if person is None else person.vouched,
        None if person is None else person.suspended,
        None if account is None else account.removed,
    )


def glances(connection: Connection, ids: Iterable[str]) -> dict[str, Glance]:
    """The same of those of ``ids`` that are there, by id: a tenth of what read_many() costs."""
    wanted = list(ids)
    found: dict[str, Glance] = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = _GLANCE.where(tokens.c.id.in_(wanted[start : start + _CHUNK]))
        found.update((row[0], tuple(row[1:])) for row in connection.execute(chunk))
    return found


def shown(connection: Connection, since: float, owner: str | None = None) -> list[TokenRow]:
    """An owner's tokens, or everybody's: those in force and those that ended after ``since``."""
    conditions: list[ColumnElement[bool]] = [
        tokens.c.expires > since,
        sa.or_(tokens.c.revoked.is_(None), tokens.c.revoked > since),
    ]
    if owner is not None:
        conditions.append(tokens.c.owner == owner)
    return _rows(connection, *conditions)


def live(connection: Connection, owner: str, now: float) -> list[TokenRow]:
    """An owner's tokens that have neither expired nor been revoked."""
    return _rows(connection, tokens.c.owner == owner, tokens.c.expires > now, tokens.c.revoked.is_(None))


def ending(connection: Connection, now: float, until: float) -> int:
    """How many end in that time, of those that have been used since they were made."""
    query = sa.select(sa.func.count()).where(
        tokens.c.expires > now,
        tokens.c.expires <= until,
        tokens.c.revoked.is_(None),
        tokens.c.renewed.is_(None),
        tokens.c.last_used.is_not(None),
    )
    return int(connection.execute(query).scalar_one())


def of_subject(connection: Connection, issuer: str, subject: str, now: float) -> list[TokenRow]:
    """The same by whose they are."""
    return live(connection, owner_id(issuer, subject), now)


def subjects(connection: Connection, issuer: str, now: float) -> list[str]:
    """Who of that issuer's has such a token."""
    query = sa.select(tokens.c.subject).where(
        tokens.c.issuer == issuer, tokens.c.expires > now, tokens.c.revoked.is_(None)
    )
    return list(connection.scalars(query.distinct()))


def drop_ended(connection: Connection, owner: str, now: float, keep: int) -> None:
    """Forget an owner's tokens that have ended, but for the ``keep`` that ended last."""
    ended = sa.func.coalesce(tokens.c.revoked, tokens.c.expires)
    query = (
        sa.select(tokens.c.id)
        .where(tokens.c.owner == owner, sa.or_(tokens.c.expires <= now, tokens.c.revoked.is_not(None)))
        .order_by(ended.desc(), tokens.c.id)
        .offset(keep)
    )
    for token_id in connection.scalars(query).all():
        connection.execute(sa.delete(tokens).where(tokens.c.id == token_id))


def lock_owner(connection: Connection, owner: str) -> None:
    """Let nobody else add to that owner's tokens until the transaction ends. On SQLite nobody can anyway."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(bytes.fromhex(owner[:16]), "big", signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def first_used(connection: Connection, token_id: str, now: float, client: str) -> bool:
    """Note a use; whether it was the first of all."""
    result = connection.execute(
        sa.update(tokens)
        .where(tokens.c.id == token_id, tokens.c.last_used.is_(None))
        .values(last_used=now, last_used_from=client[:64])
    )
    return result.rowcount == 1


def used(connection: Connection, uses: Iterable[tuple[str, float, str]]) -> None:
    """Note when and from where tokens were last used, by id; what is older than the noted changes nothing."""
    update = (
        sa.update(tokens)
        .where(
            tokens.c.id == sa.bindparam("which"),
            sa.or_(tokens.c.last_used.is_(None), tokens.c.last_used < sa.bindparam("at")),
        )
        .values(last_used=sa.bindparam("at"), last_used_from=sa.bindparam("client"))
    )
    # Sorted, so that two replicas never wait for each other's rows.
    values = [{"which": which, "at": at, "client": client[:64]} for which, at, client in sorted(uses)]
    if values:
        connection.execute(update, values)


def renew(connection: Connection, token_id: str, now: float, ends: float) -> bool:
    """Let a token end then, another has taken its place; False where one had already, or it is over."""
    result = connection.execute(
        sa.update(tokens)
        .where(
            tokens.c.id == token_id,
            tokens.c.renewed.is_(None),
            tokens.c.revoked.is_(None),
            tokens.c.expires > now,
        )
        .values(renewed=now, expires=sa.case((tokens.c.expires > ends, ends), else_=tokens.c.expires))
    )
    return result.rowcount == 1


def revoke(connection: Connection, ids: Iterable[str], now: float, by: str) -> list[str]:
    """Revoke tokens; returns those that were in force until now."""
    revoked = []
    for token_id in ids:
        result = connection.execute(
            sa.update(tokens)
            .where(tokens.c.id == token_id, tokens.c.revoked.is_(None), tokens.c.expires > now)
            .values(revoked=now, revoked_by=by[:600])
        )
        if result.rowcount:
            revoked.append(token_id)
    return revoked


def purge(connection: Connection, before: float) -> int:
    """Remove what expired or was revoked before that time; returns how many."""
    result = connection.execute(
        sa.delete(tokens).where(sa.or_(tokens.c.expires < before, tokens.c.revoked < before))
    )
    return int(result.rowcount)
