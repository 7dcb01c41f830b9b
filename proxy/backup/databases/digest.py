"""The digest of a table: the same for the same content, whatever server, order of rows or order of columns.

A value is written as

    NULL                    n
    integer, boolean        i, the number in decimal, ;         i-7;   true is i1;
    floating point          f, the shortest decimal that reads back as the same number (repr), ;
    text                    s, length in bytes of its UTF-8, :, and these
    bytes                   b, their number, :, and these
    anything else           as text: dates in ISO 8601 with a space, decimals and JSON as the database has it

and a row as its values one after another, in the order of the columns' names. Rows have no order: the SHA-256
of each row is taken as a number, and those are added up modulo 2**256. (A sum, and not an exclusive or, in
which a row that is there twice would vanish.) The table's digest is the SHA-256 over the columns' names as
texts, the number of rows as an integer, and that sum as bytes.

It tells what got lost or changed by accident. That nobody forged a backup is not its business: the backup's
own digests and encryption are there for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from proxy.backup.databases.kinds import Table

_MODULUS = 1 << 256


def _text(value: str) -> bytes:
    # Surrogates stand for bytes that were no UTF-8 (sqlite.py).
    data = value.encode("utf-8", "surrogateescape")
    return b"s%d:%b" % (len(data), data)


def _bytes(value: Any) -> bytes:
    data = bytes(value)
    return b"b%d:%b" % (len(data), data)


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"i%d;" % value,
    int: lambda value: b"i%d;" % value,
    float: lambda value: f"f{value!r};".encode(),
    str: _text,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
}


def _other(value: Any) -> bytes:
    return _text(str(value))


def digest(columns: Sequence[str], batches: Iterable[Sequence[Sequence[Any]]]) -> Table:
    """The count and digest of a table; `columns` are in the order of the values in its rows, and sorted."""
    rows = total = 0
    sha256, encoder = hashlib.sha256, _ENCODERS.get
    for batch in batches:
        for row in batch:
            data = b"".join([encoder(type(value), _other)(value) for value in row])
            total += int.from_bytes(sha256(data).digest())
        rows += len(batch)
        total %= _MODULUS
    whole = b"".join([*map(_text, columns), b"i%d;" % rows, _bytes((total % _MODULUS).to_bytes(32))])
    return Table(rows, sha256(whole).hexdigest())
