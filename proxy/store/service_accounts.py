"""Queries on service accounts: those there are, and those there were."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from proxy.store.tables import service_accounts


@dataclass(frozen=True, slots=True)
class ServiceAccountRow:
    """A service account as the database has it; tables.py says what each column means."""

    name: str
    role: int
    description: str
    created: float
    created_by: str
    removed: float | None = None
    removed_by: str | None = None


def insert(connection: Connection, account: ServiceAccountRow) -> bool:
    """False where there is one of that name, or was."""
    values = {name: getattr(account, name) for name in ServiceAccountRow.__slots__}
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(service_accounts).values(**values))
    except IntegrityError:
        return False
    return True


def read(connection: Connection, name: str) -> ServiceAccountRow | None:
    row = connection.execute(sa.select(service_accounts).where(service_accounts.c.name == name)).one_or_none()
    return None if row is None else ServiceAccountRow(**row._mapping)


def live(connection: Connection) -> list[ServiceAccountRow]:
    """Those that have not been removed, by name."""
    query = sa.select(service_accounts).where(service_accounts.c.removed.is_(None))
    return [ServiceAccountRow(**row._mapping) for row in connection.execute(query.order_by("name"))]


def remove(connection: Connection, name: str, now: float, by: str) -> bool:
    """Whether it was there until now."""
    result = connection.execute(
        sa.update(service_accounts)
        .where(service_accounts.c.name == name, service_accounts.c.removed.is_(None))
        .values(removed=now, removed_by=by[:600])
    )
    return result.rowcount == 1
