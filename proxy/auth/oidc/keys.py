"""The provider's public keys: kept, and fetched again for an unknown one, but not at a stranger's pace."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from proxy.auth.oidc.failures import ProviderError, ProviderUnavailable

log = logging.getLogger(__name__)

PACE = 30.0
"""Seconds between two fetches, however many unknown keys are asked for meanwhile."""
FIRST_PACE = 2.0
"""The same while there are no keys at all."""
OLD = 3600.0
"""Seconds after which keys are fetched again without being asked for, so that a withdrawn one goes."""
_MOST = 100
_RSA_BITS = 2048  # RFC 7518, 3.3
# The public members alone: a provider that shows a private key by mistake gives it to nobody through us.
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}


class UnknownKey(ProviderError):
    """A signature by a key that is not among the published ones."""

    def __init__(self, asked: float, again: float) -> None:
        super().__init__(
            "bad_token",
            "The identity provider's token can't be verified.",
            check="It is signed with a key that is not among the provider's published keys.",
        )
        self.asked = asked
        """When the keys were fetched, in Unix seconds."""
        self.again = again
        """Seconds until they may be fetched again."""


@dataclass(frozen=True, slots=True)
class _Known:
    kid: str | None
    algorithm: str | None
    kind: str
    curve: str | None
    key: Key


class Keys:
    """The keys at one address. `fetch` gives the JSON there, or raises ProviderUnavailable."""

    def __init__(self, fetch: Callable[[], Awaitable[Any]]) -> None:
        self._fetch = fetch
        self._known: tuple[_Known, ...] = ()
        self._fetched = self._tried = -1e9
        self._asked = 0.0  # as _fetched, by the wall clock
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> Key:
        """The one key for that id and algorithm. Raises UnknownKey where there is none, ProviderUnavailable
        where no keys could be had."""
        found = self._look(kid, algorithm)
        if found is None or time.monotonic() - self._fetched > OLD:
            await self._again(kid, algorithm)
            found = self._look(kid, algorithm)
        if found is None:
            raise UnknownKey(self._asked, max(0.0, self._tried + PACE - time.monotonic()))
        return found

    async def warm(self) -> None:
        """Fetch them now, so that the first token does not wait. Raises ProviderUnavailable."""
        await self._again(None, "")

    async def _again(self, kid: str | None, algorithm: str) -> None:
        async with self._lock:
            now = time.monotonic()
            fresh = now - self._fetched <= OLD
            if fresh and self._look(kid, algorithm) is not None:
                return  # another has fetched them meanwhile
            if now - self._tried < (PACE if self._known else FIRST_PACE):
                if not self._known:
                    raise ProviderUnavailable(
                        "unavailable",
                        "The identity provider does not answer.",
                        check="Its keys could not be fetched a moment ago.",
                    )
                return
            self._tried = now
            try:
                asked = time.time()
                self._known = read(await self._fetch())
                self._fetched, self._asked = time.monotonic(), asked
            except ProviderUnavailable as error:
                if not self._known:
                    raise
                log.warning("the provider's keys can't be fetched again, those of before count: %s", error)

    def _look(self, kid: str | None, algorithm: str) -> Key | None:
        fitting = [known for known in self._known if _fits(known, algorithm)]
        if kid is not None:
            fitting = [known for known in fitting if known.kid == kid]
        # Without an id, or with one that several keys bear, there is no telling which is meant.
        return fitting[0].key if len(fitting) == 1 else None


def read(document: Any) -> tuple[_Known, ...]:
    """The keys of a JWK Set (RFC 7517, 5) that can verify a signature; others are passed over.

    Raises ProviderUnavailable where there is none.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    found = [_key(entry) for entry in listed[:_MOST]] if isinstance(listed, list) else []
    known = tuple(key for key in found if key is not None)
    if not known:
        raise ProviderUnavailable(
            "bad_answer",
            "The identity provider's answer can't be used.",
            check="Its key set (jwks_uri) holds no public key for signatures.",
        )
    return known


def _key(entry: Any) -> _Known | None:
    if not isinstance(entry, Mapping) or entry.get("use") not in (None, "sig"):
        return None
    operations = entry.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    kind = entry.get("kty")
    kid, algorithm, curve = entry.get("kid"), entry.get("alg"), entry.get("crv")
    if kind not in _PUBLIC or not all(value is None or isinstance(value, str) for value in (kid, algorithm)):
        return None
    try:
        members: dict[str, str | list[str]] = {
            "kty": str(kind),
            **{name: str(entry[name]) for name in _PUBLIC[kind]},
        }
        key: Key
        if kind == "RSA":
            modulus = str(entry["n"])
            number = base64.urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4))
            if int.from_bytes(number, "big").bit_length() < _RSA_BITS:
                return None
            key = RSAKey.import_key(members)
        else:
            key = ECKey.import_key(members) if kind == "EC" else OKPKey.import_key(members)
            key.get_op_key("verify")  # reads it: a point that is not on its curve is refused here
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return _Known(kid, algorithm, str(kind), curve if isinstance(curve, str) else None, key)


def _fits(known: _Known, algorithm: str) -> bool:
    if known.algorithm is not None and known.algorithm != algorithm:
        return False
    if algorithm in _CURVES:
        return known.kind == ("OKP" if algorithm == "EdDSA" else "EC") and known.curve == _CURVES[algorithm]
    return known.kind == "RSA"
