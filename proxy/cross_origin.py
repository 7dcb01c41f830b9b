"""Which requests a browser may make from another site's page: only those that change nothing; pure.

A browser adds a remembered password (and, later, the session's cookie) to whatever another site's page
sends here. MLflow checks Origin on some of its routes only, and there refuses our own public name.
"""

from __future__ import annotations

from collections.abc import Collection

SAFE_METHODS = frozenset({"GET", "HEAD"})


def refused(
    method: str,
    *,
    reads: bool,
    fetch_site: bytes | None,
    origin: bytes | None,
    own_origins: Collection[bytes],
) -> str | None:
    """Why the request is refused, or None.

    `reads` says that the operation changes nothing. `fetch_site` (Fetch Metadata, W3C) decides where a
    browser sends it: it can't be set by a page. `origin` (RFC 6454) decides for older browsers. A program
    sends neither and passes: it is not led by a page.
    """
    if reads and method in SAFE_METHODS:
        return None
    if fetch_site is not None:
        if fetch_site in (b"same-origin", b"none"):
            return None
        return f"it comes from another site's page (Sec-Fetch-Site: {_shown(fetch_site)})"
    if origin is None or origin.lower() in own_origins:
        return None
    return f"it comes from another site's page (Origin: {_shown(origin)})"


def _shown(value: bytes) -> str:
    return value[:100].decode("ascii", "replace")
