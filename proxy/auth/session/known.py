"""What one replica knows of the sessions in use: looked up for each request, without a lock or a database."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from proxy.identity import Identity

MOST = 20_000
"""Sessions remembered at once; the one that has been known longest gives way and is looked up again."""
_COPIES = 8  # cookies of one session: the newest, those just before it


@dataclass(slots=True)
class Known:
    """One session. Times are Unix seconds."""

    id: str
    key: str
    identity: Identity
    stamp: float
    """When its groups were told."""
    until: float
    """When the database has to be asked again, before the next request is let through."""
    ahead: float
    """When it is asked again while requests go on, so that none has to wait."""
    ends: float
    issued: int
    """The generation of the newest cookie made for it."""
    generation: int
    """That of the newest that was shown; those before it are let through until `old_until` alone."""
    old_until: float
    confirmed: float
    """When the database last said that it has not ended."""
    used: float
    noted: float
    """The time of use that the database has."""
    set_cookie: bytes = b""
    """The header that hands the newest cookie out; made when first needed."""
    values: list[bytes] = field(default_factory=list)
    """The cookies under which it is found."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A cookie that was verified."""

    session: Known
    generation: int


class KnownSessions:
    """Sessions by id, and the verified cookies that lead to them."""

    def __init__(self, told: Callable[[Collection[str]], None] = lambda _: None) -> None:
        """``told`` is called with the ids of those that have ended."""
        self._told = told
        self.by_cookie: dict[bytes, Entry] = {}
        self._by_id: dict[str, Known] = {}
        self._ended: dict[str, float] = {}

    def __iter__(self) -> Iterator[Known]:
        return iter(list(self._by_id.values()))

    def get(self, session_id: str) -> Known | None:
        return self._by_id.get(session_id)

    def has_ended(self, session_id: str) -> bool:
        """Whether it was ended lately, whatever a query begun before that says."""
        return session_id in self._ended

    def add(self, session: Known) -> None:
        self._by_id[session.id] = session
        if len(self._by_id) > MOST:
            self.forget(next(iter(self._by_id)))

    def verified(self, value: bytes, session: Known, generation: int) -> None:
        """Let that cookie through from now on without looking at its signature again."""
        if value in self.by_cookie:
            return
        self.by_cookie[value] = Entry(session, generation)
        session.values.append(value)
        if len(session.values) > _COPIES:
            del self.by_cookie[session.values.pop(0)]

    def forget(self, session_id: str) -> None:
        if (session := self._by_id.pop(session_id, None)) is not None:
            session.until = 0.0
            for value in session.values:
                self.by_cookie.pop(value, None)

    def ended(self, session_ids: Collection[str]) -> None:
        """Forget sessions, and remember for a minute that they have ended."""
        self._told(session_ids)
        now = time.time()
        for session_id in session_ids:
            self.forget(session_id)
            self._ended[session_id] = now
        for old in [which for which, when in self._ended.items() if when < now - 60]:
            del self._ended[old]
