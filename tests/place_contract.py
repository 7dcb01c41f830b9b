"""What every place must do, whatever keeps it; each test of a place calls these."""

from __future__ import annotations

import hashlib
import random

import pytest

from proxy.backup import streams
from proxy.backup.places import Place, PlaceFailed, Replaced
from proxy.backup.places.place import PIECE


def small_things(place: Place) -> None:
    """Put, found, replaced and removed; those of other prefixes are not touched."""
    assert place.get("a/one") is None
    assert place.stat("a/one") is None
    place.put("a/one", b"1")
    place.put("a/ä b/%.txt", b"22")
    place.put("b/three", b"")
    assert place.get("a/one") is not None
    assert {entry.name: entry.size for entry in place.entries("a/")} == {"a/one": 1, "a/ä b/%.txt": 2}
    assert {entry.name for entry in place.entries("")} == {"a/one", "a/ä b/%.txt", "b/three"}
    assert {(entry.name, entry.size) for entry in place.versioned("b/")} == {("b/three", 0)}
    with place.open("b/three") as source:
        assert source.read(10) == b""
    before = place.stat("a/one")
    assert before is not None
    assert before.size == 1
    place.put("a/one", b"another")
    after = place.stat("a/one")
    assert after is not None
    assert after.etag != before.etag
    place.remove("a/one")
    place.remove("a/one")
    assert place.stat("a/one") is None
    for name in ("a/ä b/%.txt", "b/three"):
        place.remove(name)
    assert not list(place.entries(""))


def one_of_two_gets_it(place: Place) -> None:
    """What the lock rests on."""
    etag = place.put_new("lock", b"first")
    assert etag
    assert place.put_new("lock", b"second") is None
    found = place.get("lock")
    assert found == (b"first", etag)
    newer = place.exchange("lock", b"third", etag)
    assert newer
    assert place.exchange("lock", b"fourth", etag) is None
    assert place.get("lock") == (b"third", newer)
    place.remove("lock")
    assert place.exchange("lock", b"fifth", newer) is None
    assert place.get("lock") is None


def what_is_not_ended_is_not_there(place: Place) -> None:
    """A small one, and one of several pieces."""
    for size in (10, 2 * PIECE + 10):
        with pytest.raises(ZeroDivisionError):
            _broken_off(place, size)
        assert place.stat("begun") is None
        assert not list(place.entries(""))
    place.tidy("")


def _broken_off(place: Place, size: int) -> None:
    with place.create("begun") as sink:
        sink.write(b"x" * size)
        raise ZeroDivisionError


def large_things(place: Place) -> None:
    """Written in pieces and read back; a part of it too."""
    chance = random.Random(3)
    digest = hashlib.sha256()
    with place.create("large") as sink:
        for _ in range(40):
            data = chance.randbytes(2**20)
            digest.update(data)
            sink.write(data)
        sink.commit()
    found = hashlib.sha256()
    length = 0
    with place.open("large") as source:
        while data := source.read(300_000):
            found.update(data)
            length += len(data)
    assert length == 40 * 2**20
    assert found.digest() == digest.digest()
    source = place._open("large", 40 * 2**20 - 5, "")
    assert source.read(100) == data_end(3)
    source.close()
    with streams.writing(place, "packed.zst", (), lambda _: None) as (writer, kept):
        writer.write(b"y" * 1_000_000)
    assert streams.damage(place, kept.stored, lambda _: None) is None
    for name in ("large", "packed.zst"):
        place.remove(name)


def data_end(seed: int) -> bytes:
    """The last five bytes of what is written above."""
    chance = random.Random(seed)
    for _ in range(40):
        data = chance.randbytes(2**20)
    return data[-5:]


def what_is_missing_is_named(place: Place) -> None:
    with pytest.raises(PlaceFailed, match="no/such/thing"), place.open("no/such/thing") as source:
        source.read(1)


def what_was_replaced_is_not_read_on(place: Place) -> None:
    """Neither from its beginning nor after a connection that broke."""
    place.put("one", b"1" * 10)
    before = place.stat("one")
    assert before is not None
    assert [entry.etag for entry in (*place.entries("one"), *place.versioned("one"))] == [before.etag] * 2
    with place.open("one", before.etag) as source:
        assert source.etag == before.etag
        assert source.read(20) == b"1" * 10
    place.put("one", b"2" * 10)
    after = place.stat("one")
    assert after is not None
    for offset in (0, 5):
        with pytest.raises(Replaced, match="one was replaced meanwhile"):
            place._open("one", offset, before.etag)
    source = place._open("one", 5, after.etag)
    assert source.read(20) == b"2" * 5
    source.close()
    place.remove("one")


ALL = (
    small_things,
    one_of_two_gets_it,
    what_is_not_ended_is_not_there,
    large_things,
    what_is_missing_is_named,
    what_was_replaced_is_not_read_on,
)
