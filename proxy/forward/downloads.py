"""A download that broke off, and how the rest of it is asked for (RFC 9110, sections 13.1.5 and 14); pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.http1 import Headers

# Of the client's request: the rest is asked for on terms of ours.
_TERMS = frozenset(
    {b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"}
)
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")


@dataclass(slots=True)
class Download:
    """An answer that can go on where it broke off."""

    etag: bytes
    length: int
    sent: int = 0
    """How many bytes of it the client has been sent."""

    def asking(self, headers: Headers) -> Headers:
        """The client's headers, made to ask for the rest."""
        kept = [header for header in headers if header[0] not in _TERMS]
        return [*kept, (b"range", b"bytes=%d-" % self.sent), (b"if-range", self.etag)]

    def is_rest(self, status: int, headers: Headers) -> bool:
        """Whether that answer is the missing part, and of the same thing."""
        found = _single(headers)
        return (
            status == 206
            and found.get(b"etag") == self.etag
            and found.get(b"content-range") == b"bytes %d-%d/%d" % (self.sent, self.length - 1, self.length)
            and b"content-encoding" not in found
        )


def download_of(method: str, status: int, headers: Headers) -> Download | None:
    """What is noted of an answer before it begins; None where it could not go on."""
    if method != "GET" or status != 200:
        return None
    found = _single(headers)
    etag, length = found.get(b"etag"), found.get(b"content-length", b"")
    if etag is None or not etag.startswith(b'"') or not _LENGTH.match(length):
        return None  # no ETag, or a weak one: W/"..." promises the same meaning, not the same bytes
    if b"content-encoding" in found:
        return None
    return Download(etag, int(length))


def _single(headers: Headers) -> dict[bytes, bytes]:
    """The headers by name; one that stands twice says nothing certain, and becomes what fits nothing."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = b"" if name in found else value
    return found
