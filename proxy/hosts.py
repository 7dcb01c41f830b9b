"""Which names this service answers to, and what its own origins are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?\Z")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Hosts:
    """The Host values that are served: `names`, beside the public URL's.

    A name with a port is served at that port, one without at any. A name of the form ``*.example.com``, as
    certificates have them, covers the names below it.
    """

    def __init__(self, names: Iterable[str], public_url: str | None) -> None:
        self._names = {_bracketed(name.lower()) for name in names}
        self._suffixes = tuple(name[1:] for name in self._names if name.startswith("*."))
        self._scheme = ""
        self._public_origin = b""
        if public_url:
            parts = urlsplit(public_url)
            self._scheme = parts.scheme
            self._public_origin = f"{parts.scheme}://{parts.netloc}".lower().encode()
            self._names.add(_bracketed((parts.hostname or "").lower()))
        self._seen: dict[bytes, bool] = {}

    def served(self, host: bytes) -> bool:
        """Whether a request with that Host header (RFC 9110, section 7.2) is for us."""
        known = self._seen.get(host)
        if known is None:
            known = self._served(host)
            if len(self._seen) < 1000 and len(host) < 300:
                self._seen[host] = known
        return known

    def _served(self, host: bytes) -> bool:
        match = _HOST.match(host.decode("latin-1").lower())
        if match is None:
            return False
        name = match[1].removesuffix(".")
        if name in self._names or (match[2] and f"{name}:{match[2]}" in self._names):
            return True
        return bool(self._suffixes) and name.endswith(self._suffixes)

    def origins(self, scheme: str, host: bytes) -> tuple[bytes, ...]:
        """The origins (RFC 6454) that are ours for a request with that Host.

        Behind a TLS terminator the scheme comes from the public URL, never from a header.
        """
        here = f"{self._scheme or scheme}://".encode() + host.lower()
        return (here, self._public_origin) if self._public_origin else (here,)


def _bracketed(name: str) -> str:
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
