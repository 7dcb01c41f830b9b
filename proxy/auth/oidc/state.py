"""What a browser keeps while its person is at the provider: sealed, so that any replica can take it up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

LIFE = 900
"""Seconds that a person has to sign in at the provider."""
_USED = 10_000


@dataclass(frozen=True, slots=True)
class SignIn:
    """One sign-in under way."""

    state: str
    nonce: str
    verifier: str
    rd: str
    round: int
    """How many sign-ins of this browser have just ended without letting it through."""

    @classmethod
    def new(cls, rd: str, round_: int) -> SignIn:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, rd, round_)


class Seal:
    """Makes text that comes back from a browser as we gave it, or not at all.

    The first of `keys` seals and all open. `purpose` keeps what was sealed for one end from serving another.
    """

    def __init__(self, keys: Sequence[bytes], purpose: str) -> None:
        assert keys
        self._keys = [hmac.digest(key, b"mlflow-proxy " + purpose.encode(), "sha256") for key in keys]

    def seal(self, value: dict[str, Any]) -> str:
        body = _text(json.dumps([int(time.time()), value], separators=(",", ":")).encode())
        return f"{body}.{_text(self._digest(self._keys[0], body))}"

    def open(self, sealed: str, life: float) -> dict[str, Any] | None:
        """What was sealed at most `life` seconds ago, or None."""
        body, _, mark = sealed.partition(".")
        if len(sealed) > 8192 or not sealed.isascii():
            return None
        if not any(hmac.compare_digest(mark, _text(self._digest(key, body))) for key in self._keys):
            return None
        made, value = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        # Another replica's clock may be ahead.
        return value if -60 <= time.time() - made <= life else None

    @staticmethod
    def _digest(key: bytes, body: str) -> bytes:
        return hmac.digest(key, body.encode("ascii"), hashlib.sha256)


class SignIns:
    """The sign-ins under way: sealed for the browser, and each taken up once in this process."""

    def __init__(self, keys: Sequence[bytes], issuer: str, client_id: str) -> None:
        self._seal = Seal(keys, f"sign-in {issuer} {client_id}")
        self._used: OrderedDict[str, float] = OrderedDict()

    def seal(self, sign_in: SignIn) -> str:
        return self._seal.seal(asdict(sign_in))

    def open(self, sealed: str, state: str) -> SignIn | None:
        """The sign-in that was sealed for that very state, or None; it may have been used before."""
        value = self._seal.open(sealed, LIFE)
        try:
            sign_in = None if value is None else SignIn(**value)
        except TypeError:  # sealed by another version of this service
            return None
        if sign_in is None or not hmac.compare_digest(sign_in.state.encode(), state.encode()):
            return None
        return sign_in

    def use(self, sign_in: SignIn) -> bool:
        """True the first time."""
        now = time.monotonic()
        while self._used and (len(self._used) >= _USED or next(iter(self._used.values())) < now):
            self._used.popitem(last=False)
        if sign_in.state in self._used:
            return False
        self._used[sign_in.state] = now + LIFE
        return True


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
