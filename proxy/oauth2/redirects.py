"""Where a browser goes after signing in: to this host alone, whatever it was told; pure."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, urlsplit

LONGEST = 2000
"""Characters of a way back: it has to fit into a cookie while its person is at the provider."""
# What a browser leaves as it is in a path, a query or a fragment; no backslash, no space, no other script.
_PLAIN = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?#\[\]{}|^-]*")
_NOT_IN_PATH = re.compile(r"//|/\.{1,2}(?:/|$)|[\\\x00-\x1f\x7f-\x9f\ufffd]")


def safe_rd(rd: str | None, prefix: str = "", origin: str = "") -> str:
    """The way back that `rd` asks for, or the front page where it leads anywhere but into this service.

    The result is a path on this host below `prefix` (the public URL's path), with query and fragment. A whole
    URL of our own `origin` is taken for its path, as oauth2-proxy takes it. What a browser, or a server
    before us that decodes once more, could read as another host (``//host``, ``/\\host``, dot segments,
    their encodings) is refused rather than mended.
    """
    front = f"{prefix}/"
    if rd is None or len(rd) > LONGEST:
        return front
    if origin and rd[: len(origin)].lower() == origin.lower():
        rd = rd[len(origin) :]
    if not _PLAIN.fullmatch(rd):
        return front
    path = re.split(r"[?#]", rd, maxsplit=1)[0]
    for _ in range(4):
        # What a careless reader takes for a slash or a dot, such as the full-width ones, counts as one.
        if _NOT_IN_PATH.search(unicodedata.normalize("NFKC", path)):
            return front
        decoded = unquote(path, errors="replace")
        if decoded == path:
            break
        path = decoded
    else:
        return front
    if not path.startswith(front):
        return front
    try:
        parts = urlsplit(rd)
    except ValueError:
        return front
    if parts.scheme or parts.netloc:
        return front
    # Signing in again for having signed in, or out, is a loop.
    return front if path[len(prefix) :].startswith("/oauth2/") else rd
