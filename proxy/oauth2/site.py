"""What the pages under /oauth2 share: this service's own address, and how a request is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from proxy import cross_origin
from proxy.exchange import Exchange, Refused
from proxy.hosts import Hosts
from proxy.oauth2.redirects import safe_rd
from proxy.operations import UNKNOWN, Access, operation_of
from proxy.pages.answers import TEXT, Scope, Send, answer

if TYPE_CHECKING:
    from proxy.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]


class Site:
    """The address that people use, and paths on it."""

    def __init__(self, settings: Settings, hosts: Hosts) -> None:
        self._public = settings.public_url
        self._hosts = hosts
        self.prefix = urlsplit(self._public).path.rstrip("/") if self._public else ""
        self._public_host = urlsplit(self._public).netloc.lower().encode() if self._public else b""

    def arrive(self, scope: Scope, *methods: str) -> None:
        """Refuse what is for another host, by another method, or for MLflow's jobs' listener."""
        exchange: Exchange = scope["exchange"]
        if exchange.internal:
            raise Refused(404, "Nobody signs in here; use the server's public URL.", reason="bad_request")
        if scope["method"] not in methods:
            allowed = ", ".join(methods)
            raise Refused(
                405,
                f"Only {allowed} is served here.",
                reason="bad_request",
                headers=((b"allow", allowed.encode()),),
            )
        host = _header(scope, b"host") or b""
        if not self._hosts.served(host):
            raise Refused(
                421,
                f"{host.decode('latin-1')[:100]!r} is not a name this server answers to. "
                "Its operator adds it to PROXY_ALLOWED_HOSTS or sets PROXY_PUBLIC_URL.",
                reason="misdirected",
            )

    def same_origin(self, scope: Scope) -> None:
        """Refuse a change that another site's page asks for."""
        exchange: Exchange = scope["exchange"]
        why = cross_origin.refused(
            exchange.method,
            reads=False,
            fetch_site=_header(scope, b"sec-fetch-site"),
            origin=_header(scope, b"origin"),
            own_origins=self._hosts.origins(exchange.scheme, _header(scope, b"host") or b""),
        )
        if why is not None:
            raise Refused(403, f"The request is refused: {why}.", reason="cross_origin")

    def elsewhere(self, scope: Scope) -> bool:
        """Whether the browser is at another of our names than the one it will come back to: the cookie of a
        sign-in would not be there then."""
        return bool(self._public_host) and (_header(scope, b"host") or b"").lower() != self._public_host

    def origin(self, scope: Scope) -> str:
        """Scheme and host of the public URL, or on loopback without one those of the request."""
        if self._public:
            parts = urlsplit(self._public)
            return f"{parts.scheme}://{parts.netloc}"
        exchange: Exchange = scope["exchange"]
        return f"{exchange.scheme}://{(_header(scope, b'host') or b'').decode('ascii').lower()}"

    def url(self, scope: Scope, path: str) -> str:
        return f"{self.origin(scope)}{self.prefix}{path}"

    def rd(self, scope: Scope, asked: str | None) -> str:
        """The way back, where it leads to a page: one that does something must not be reached by way of us,
        from where the browser vouches for it (cross_origin.py)."""
        rd = safe_rd(asked, self.prefix, self.origin(scope))
        path = unquote(re.split(r"[?#]", rd, maxsplit=1)[0])[len(self.prefix) :]
        operation = operation_of("GET", path)
        shows = operation == UNKNOWN or operation.access in (Access.READ, Access.OPEN)
        return rd if shows else f"{self.prefix}/"

    def with_rd(self, path: str, rd: str) -> str:
        """A path of ours that carries a way back."""
        return f"{self.prefix}{path}?rd={quote(rd, safe='')}"


def query(scope: Scope) -> dict[str, str]:
    """The query's fields. Raises Refused (400) for one that comes twice: which of them counts is a matter of
    taste, and an attack's beginning."""
    try:
        pairs = parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise Refused(400, "The query can't be read.", reason="bad_request") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Refused(400, "A field of the query comes twice.", reason="bad_request")
    return fields


async def go(scope: Scope, send: Send, url: str, headers: Headers = (), status: int = 303) -> None:
    """Send the browser there."""
    scope["exchange"].status = status
    location = (b"location", url.encode("ascii"))
    await answer(scope, send, status, b"", TEXT, headers=[location, *headers])


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)
