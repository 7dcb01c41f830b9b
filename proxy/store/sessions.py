"""Queries on sessions: each takes an open connection and is one short transaction's part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection
from sqlalchemy.exc import IntegrityError

from proxy.store.tables import once, sessions

# SQLite takes 32,766 parameters in a statement; long lists are slow to prepare in any case.
_CHUNK = 500
_KEPT_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session as it begins. Times are Unix seconds."""

    id: str
    user: str
    email: str | None
    email_verified: bool
    name: str
    issuer: str
    subject: str
    provider_sid: str | None
    groups: tuple[str, ...]
    role: int
    created: float
    ends: float
    client: str
    user_agent: str
    tokens: bytes | None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as the database has it; tables.py says what each column means."""

    id: str
    user: str
    email: str | None
    email_verified: bool
    name: str
    issuer: str
    subject: str
    provider_sid: str | None
    groups: tuple[str, ...]
    role: int
    created: float
    last_seen: float
    ends: float
    refreshed: float
    refreshing: float
    retry: float
    issued: int
    generation: int
    generation_since: float
    client: str
    user_agent: str
    tokens: bytes | None
    ended: float | None
    ended_by: str | None


def _row(row: sa.Row[Any]) -> SessionRow:
    values = dict(row._mapping)
    values["groups"] = tuple(values["groups"])
    return SessionRow(**values)


def insert(connection: Connection, session: NewSession) -> None:
    values = {name: getattr(session, name) for name in NewSession.__slots__}
    values |= {"groups": list(session.groups), "last_seen": session.created, "refreshed": session.created}
    values |= {"refreshing": 0.0, "retry": 0.0, "issued": 1, "generation": 1}
    connection.execute(sa.insert(sessions).values(**values, generation_since=session.created))


def read(connection: Connection, session_id: str) -> SessionRow | None:
    row = connection.execute(sa.select(sessions).where(sessions.c.id == session_id)).one_or_none()
    return None if row is None else _row(row)


def read_many(connection: Connection, ids: Iterable[str]) -> dict[str, SessionRow]:
    """Those of ``ids`` that are there, by id."""
    wanted = list(ids)
    found = {}
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        for row in connection.execute(sa.select(sessions).where(sessions.c.id.in_(chunk))):
            session = _row(row)
            found[session.id] = session
    return found


def live(
    connection: Connection, now: float, idle: float, owner: tuple[str, str] | None = None
) -> list[SessionRow]:
    """Sessions that have not ended, the latest used first; an account's (issuer and subject) or everybody's.

    Not a name's: the identity provider may give somebody the name that another has with a password.
    """
    conditions: list[ColumnElement[bool]] = [
        sessions.c.ended.is_(None),
        sessions.c.ends > now,
        sessions.c.last_seen > now - idle,
    ]
    if owner is not None:
        conditions += [sessions.c.issuer == owner[0], sessions.c.subject == owner[1]]
    query = sa.select(sessions).where(*conditions).order_by(sessions.c.last_seen.desc())
    return [_row(row) for row in connection.execute(query)]


def seen(connection: Connection, times: Mapping[str, float]) -> None:
    """Note when sessions were last used; an earlier time than the noted one changes nothing."""
    update = (
        sa.update(sessions)
        .where(sessions.c.id == sa.bindparam("which"), sessions.c.last_seen < sa.bindparam("at"))
        .values(last_seen=sa.bindparam("at"))
    )
    if times:
        connection.execute(update, [{"which": which, "at": at} for which, at in sorted(times.items())])


def shown(connection: Connection, session_id: str, generation: int, now: float) -> None:
    """Note that a cookie of that generation was shown to us; those before it are old copies from now on."""
    connection.execute(
        sa.update(sessions)
        .where(sessions.c.id == session_id, sessions.c.generation < generation)
        .values(generation=generation, generation_since=now)
    )


def claim(connection: Connection, row: SessionRow, now: float) -> bool:
    """Whether it falls to this caller to ask the provider: of all that saw the same row, one alone."""
    result = connection.execute(
        sa.update(sessions)
        .where(
            sessions.c.id == row.id,
            sessions.c.ended.is_(None),
            sessions.c.refreshed == row.refreshed,
            sessions.c.refreshing == row.refreshing,
            sessions.c.retry == row.retry,
        )
        .values(refreshing=now)
    )
    return result.rowcount == 1


def refreshed(connection: Connection, session_id: str, claimed: float, **values: Any) -> bool:
    """Write what the provider said; False where the session has ended, or another took the claim over."""
    if "groups" in values:
        values["groups"] = list(values["groups"])
    result = connection.execute(
        sa.update(sessions)
        .where(sessions.c.id == session_id, sessions.c.ended.is_(None), sessions.c.refreshing == claimed)
        .values(**values, refreshing=0.0)
    )
    return result.rowcount == 1


def end(connection: Connection, which: Iterable[str], now: float, by: str) -> list[str]:
    """End sessions; returns those that had not ended before. The provider's tokens are forgotten."""
    ended = []
    for session_id in which:
        result = connection.execute(
            sa.update(sessions)
            .where(sessions.c.id == session_id, sessions.c.ended.is_(None))
            .values(ended=now, ended_by=by[:600], tokens=None)
        )
        if result.rowcount:
            ended.append(session_id)
    return ended


def of_provider(
    connection: Connection, issuer: str, subject: str | None, provider_sid: str | None
) -> list[str]:
    """Sessions that a logout token means: those of its ``sid``, and where it names none, of its subject."""
    query = sa.select(sessions.c.id).where(sessions.c.issuer == issuer, sessions.c.ended.is_(None))
    if provider_sid is not None:
        query = query.where(sessions.c.provider_sid == provider_sid)
    if subject is not None:
        query = query.where(sessions.c.subject == subject)
    if subject is None and provider_sid is None:
        return []
    return list(connection.scalars(query))


def first_use(connection: Connection, digest: str, until: float) -> bool:
    """Whether something that may be used once is used for the first time; remembered until then."""
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(once).values(id=digest, until=until))
    except IntegrityError:
        return False
    return True


def purge(connection: Connection, now: float, idle: float) -> int:
    """Remove what ended a day ago; returns how many sessions."""
    then = now - _KEPT_SECONDS
    connection.execute(sa.delete(once).where(once.c.until < now))
    result = connection.execute(
        sa.delete(sessions).where(
            sa.or_(sessions.c.ended < then, sessions.c.ends < then, sessions.c.last_seen < then - idle)
        )
    )
    return int(result.rowcount)
