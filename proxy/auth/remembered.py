"""Credentials that were verified lately, under a keyed digest of the header that each came in."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass

from proxy.auth.users import User
from proxy.auth.verified import Verified
from proxy.identity import Identity

REMEMBERED = 10_000
"""Headers kept at once unless said otherwise; the oldest gives way."""
FORMS = 8
"""Headers kept of one token or user; the oldest gives way. Beside a token any user name will do, and a header
can be written in many ways: without a bound, one token would push everybody's password out."""


# Digests are keyed anew in each process, so nothing that leaks from memory can be looked up. Not at each
# reload: failures are counted by them.
_KEY = secrets.token_bytes(32)


@dataclass(slots=True)
class RememberedUser:
    """A user whose password was right."""

    user: User
    identity: Identity
    until: float
    """On the monotonic clock."""
    addresses: set[str]
    """From which it came, noted so that each is looked at once."""


class Remembered:
    """One process's. What it finds has still to be looked at: users change, and tokens end."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._entries: OrderedDict[bytes, RememberedUser | Verified] = OrderedDict()
        self._owners: dict[bytes, str] = {}
        self._forms: dict[str, deque[bytes]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def digest(self, header: bytes) -> bytes:
        """What stands for a header, or anything else, in this process."""
        return hashlib.blake2b(header, digest_size=32, key=_KEY).digest()

    def get(self, digest: bytes) -> RememberedUser | Verified | None:
        return self._entries.get(digest)

    def keep(self, digest: bytes, entry: RememberedUser | Verified, owner: str) -> None:
        """``owner`` names the token or the user: what has FORMS at most."""
        self.forget(digest)
        forms = self._forms.get(owner)
        if forms is not None and len(forms) >= FORMS:
            self.forget(forms[0])
        self._entries[digest] = entry
        self._owners[digest] = owner
        self._forms.setdefault(owner, deque()).append(digest)
        if len(self._entries) > self._most:
            self.forget(next(iter(self._entries)))

    def forget(self, digest: bytes) -> None:
        """It has to be verified again, where it was kept at all."""
        if self._entries.pop(digest, None) is None:
            return
        owner = self._owners.pop(digest)
        forms = self._forms[owner]
        forms.remove(digest)
        if not forms:
            del self._forms[owner]
