"""Queries on people: whom the identity provider has vouched for, when, and with which groups."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from proxy.store.tables import people, tokens


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as the provider last told of; tables.py says what each column means."""

    issuer: str
    subject: str
    user: str
    email: str | None
    email_verified: bool
    name: str
    groups: tuple[str, ...]
    vouched: float
    suspended: float | None = None
    suspended_by: str | None = None


def owner_id(issuer: str, subject: str) -> str:
    """What stands for an account in keys, a person's or anybody's (identity.py)."""
    return hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()


def person_of(values: dict[str, Any]) -> Person:
    """A row's columns, by their names in the table."""
    kept = {name: values[name] for name in Person.__slots__}
    return Person(**{**kept, "groups": tuple(kept["groups"])})


def read(connection: Connection, issuer: str, subject: str) -> Person | None:
    row = connection.execute(sa.select(people).where(people.c.id == owner_id(issuer, subject))).one_or_none()
    return None if row is None else person_of(dict(row._mapping))


def find(connection: Connection, which: str) -> list[Person]:
    """Those whose user name, subject or verified address that is; an address in any case."""
    query = sa.select(people).where(
        sa.or_(
            people.c.user == which,
            people.c.subject == which,
            sa.and_(sa.func.lower(people.c.email) == which.lower(), people.c.email_verified.is_(True)),
        )
    )
    return [person_of(dict(row._mapping)) for row in connection.execute(query.order_by(people.c.user))]


def vouch(connection: Connection, person: Person, *, signed_in: bool = False) -> bool:
    """Note what the provider said at ``person.vouched``, and lift a suspension: returns whether one was.

    What is there of a later time stays, a later suspension too; but where the person has just ``signed_in``
    nothing is later than that, whatever the clocks of replicas say. `person`'s own suspension is not looked
    at.
    """
    which, at = owner_id(person.issuer, person.subject), person.vouched
    values = {name: getattr(person, name) for name in Person.__slots__}
    values |= {"groups": list(person.groups), "suspended": None, "suspended_by": None}
    mine = people.c.id == which
    # An answer that was asked for before the suspension does not lift it.
    lifts = sa.true() if signed_in else people.c.suspended < at
    lifted = connection.execute(
        sa.update(people)
        .where(mine, people.c.suspended.is_not(None), lifts)
        .values(suspended=None, suspended_by=None)
    )
    columns = {name: value for name, value in values.items() if not name.startswith("suspended")}
    newer = sa.true() if signed_in else people.c.vouched <= at
    update = sa.update(people).where(mine, newer).values(columns)
    if connection.execute(update).rowcount == 0:
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(people).values(id=which, **values))
        except IntegrityError:  # another replica has just done the same, or there is something later
            connection.execute(update)
    return lifted.rowcount == 1


def suspend(connection: Connection, issuer: str, subject: str, now: float, by: str) -> bool:
    """Let the person's tokens count no more until the provider vouches again; whether they did until now."""
    result = connection.execute(
        sa.update(people)
        .where(people.c.id == owner_id(issuer, subject), people.c.suspended.is_(None))
        .values(suspended=now, suspended_by=by[:600])
    )
    return result.rowcount == 1


def purge(connection: Connection, before: float) -> None:
    """Remove people who were last vouched for before that time and have no token."""
    theirs = sa.select(tokens.c.id).where(tokens.c.owner == people.c.id)
    connection.execute(sa.delete(people).where(people.c.vouched < before, ~theirs.exists()))
