"""Queries on the heads of the audit log's chains: what was written last, where only the database knows it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from proxy.store.tables import audit_heads as heads


@dataclass(frozen=True, slots=True)
class HeadRow:
    """The newest line of a chain that the database was told of."""

    chain: str
    sequence: int
    digest: str
    file: str
    """The absolute path of the file that it is in, or was before the file was followed by the next."""
    host: str
    updated: float
    """Unix seconds."""


def read(connection: Connection, chain: str) -> HeadRow | None:
    row = connection.execute(sa.select(heads).where(heads.c.chain == chain)).one_or_none()
    return None if row is None else _row(row)


def of_place(connection: Connection, host: str, file: str) -> HeadRow | None:
    """The chain that was last written to that file of that host."""
    query = (
        sa.select(heads)
        .where(heads.c.host == host, heads.c.file == file)
        .order_by(heads.c.updated.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _row(row)


def every(connection: Connection) -> list[HeadRow]:
    return [_row(row) for row in connection.execute(sa.select(heads).order_by(heads.c.chain))]


def advance(connection: Connection, new: HeadRow, expected: HeadRow | None) -> tuple[bool, HeadRow | None]:
    """Put the new head in the place of the expected one (None: there is none yet).

    Returns whether that was there, and what was there.
    """
    found = read(connection, new.chain)
    values = {
        "sequence": new.sequence,
        "digest": new.digest,
        "file": new.file,
        "host": new.host,
        "updated": new.updated,
    }
    if found is None:
        connection.execute(sa.insert(heads).values(chain=new.chain, **values))
    else:
        connection.execute(sa.update(heads).where(heads.c.chain == new.chain).values(**values))
    as_expected = (found and (found.sequence, found.digest)) == (
        expected and (expected.sequence, expected.digest)
    )
    return as_expected, found


def _row(row: Row[tuple[object, ...]]) -> HeadRow:
    return HeadRow(**row._mapping)
