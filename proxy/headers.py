"""Which headers pass between a client and MLflow, and which are made, taken out or rewritten here."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from proxy.exchange import Exchange
from proxy.identity import Identity

Headers = list[tuple[bytes, bytes]]

# RFC 9110, section 7.6.1, and two that were never standard; what `Connection` names is added per message.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_NOT_FOR_CLIENTS = HOP_BY_HOP | {b"date", b"server"}

# Never passed on from a client. Framing and Host are made anew; Origin was checked by us, and MLflow would
# refuse every one but localhost's; `Expect` is answered by our own server.
_OURS = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"origin",
    b"authorization",
    b"x-mlflow-authorization",
    b"x-request-id",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"true-client-ip",
    b"forwarded",
    b"x-user",
    b"x-email",
    b"x-remote-user",
    b"x-remote-email",
    b"x-remote-groups",
    b"x-remote-group",
    b"x-webauth-user",
    b"x-authenticated-user",
    b"remote-user",
    b"remote-email",
    b"remote-groups",
    b"remote-name",
}
# The lower lines: what other identity-aware proxies say of a person, some of it a token of that person's.
_OURS_BY_PREFIX = (
    *(b"x-forwarded-", b"x-auth-request-", b"x-authentik-", b"x-proxy-", b"x-original-"),
    *(b"cf-access-", b"x-amzn-oidc-", b"x-goog-iap-", b"x-goog-authenticated-user-"),
    *(b"x-ms-client-principal", b"x-ms-token-", b"x-pomerium-", b"x-vouch-", b"tailscale-user-"),
)

# Where requests are traced, MLflow is told of our span, whatever the client said of its own.
_OURS_TRACED = _OURS | {b"traceparent", b"tracestate"}

OUR_COOKIES = (b"__Host-mlflow_proxy_", b"mlflow_proxy_")
"""How the names of our own cookies begin; MLflow never sees one."""


class Asked:
    """What a request's headers say of it, read once; where one stands twice, the last one counts."""

    __slots__ = (
        "authorization",
        "cookie",
        "fetch_site",
        "for_mlflow",
        "forwarded_for",
        "headers",
        "hosts",
        "length",
        "origin",
        "passed",
        "plain",
        "request_id",
        "user_agent",
    )

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.authorization: bytes | None = None
        self.for_mlflow: bytes | None = None
        """``X-MLflow-Authorization``."""
        self.hosts: list[bytes] = []
        self.fetch_site: bytes | None = None
        self.origin: bytes | None = None
        self.cookie: bytes | None = None
        """Of several, all in one."""
        self.user_agent = ""
        self.request_id = b""
        self.forwarded_for: list[bytes] = []
        self.length: int | None = None
        """Content-Length; the parser has checked it."""
        self.plain = True
        """Whether nothing about its framing needs a second look."""
        self.passed: dict[object, bytes] = {}
        """Lines of `for_mlflow` that were last made of them, by what else they depend on: it may be kept over
        a reload."""
        for name, value in headers:
            if name == b"authorization":
                self.authorization = value
            elif name == b"host":
                self.hosts.append(value)
            elif name == b"user-agent":
                self.user_agent = value.decode("latin-1")
            elif name == b"content-length":
                self.length = int(value)
            elif name == b"cookie":
                self.cookie = value if self.cookie is None else self.cookie + b"; " + value
            elif name == b"sec-fetch-site":
                self.fetch_site = value
            elif name == b"origin":
                self.origin = value
            elif name == b"x-mlflow-authorization":
                self.for_mlflow = value
            elif name == b"x-request-id":
                self.request_id = value
            elif name == b"x-forwarded-for":
                self.forwarded_for.append(value)
            elif name in (b"transfer-encoding", b"expect", b"upgrade", b"trailer"):
                self.plain = False


def _dropped(ours: frozenset[bytes], headers: Headers) -> frozenset[bytes]:
    """Those names, and the ones that `Connection` says are for this hop alone (RFC 9110, section 7.6.1)."""
    for name, value in headers:
        if name == b"connection":
            named = _and_named if len(value) <= _USUAL else _and_named.__wrapped__
            ours = named(ours, value)
    return ours


_USUAL = 64
"""Bytes of a Connection header that is remembered; a longer one is taken apart each time."""


@lru_cache(maxsize=256)
def _and_named(ours: frozenset[bytes], connection: bytes) -> frozenset[bytes]:
    # Content-Length is no hop's own, whatever is said: where an answer ends is for everybody to know.
    return ours | {token.strip().lower() for token in connection.split(b",")} - {b"content-length"}


def for_mlflow(
    headers: Headers,
    exchange: Exchange,
    identity: Identity | None,
    *,
    authority: bytes,
    gateway: bool,
    provider_key: bool,
    body_length: int | None,
    chunked: bool,
) -> Headers:
    """The headers that MLflow gets: the client's without what it may not say, and ours.

    `authority` is MLflow's own address, so that its Host check passes whatever public name was asked for.
    `gateway` marks the routes from which MLflow hands every header on to a model provider
    (mlflow/gateway/providers/base.py): nothing of ours and no cookie goes there. `provider_key` says that
    the caller's own credential came in ``X-MLflow-Authorization``, so that ``Authorization`` is the
    provider's key and passes. `body_length` or `chunked` frame the body; neither means there is none.
    """
    return [
        (b"host", authority),
        *passed_on(headers, gateway=gateway, provider_key=provider_key, traced=exchange.trace is not None),
        *said_by_us(exchange, identity, gateway=gateway, body_length=body_length, chunked=chunked),
    ]


def passed_on(headers: Headers, *, gateway: bool, provider_key: bool, traced: bool) -> Headers:
    """Of `for_mlflow`, the part that is the client's. A `traced` request gets its trace's headers from us;
    not one for the gateway, whose spans MLflow puts below the client's own."""
    dropped = _dropped(_OURS_TRACED if traced and not gateway else _OURS, headers)
    result: Headers = []
    for name, value in headers:
        if name in dropped:
            if name == b"authorization" and provider_key:
                result.append((name, value))
            continue
        # WSGI turns `_` and `-` into the same, so X_Forwarded_User would arrive as X-Forwarded-User.
        if b"_" in name or name.startswith(_OURS_BY_PREFIX):
            continue
        if name == b"cookie":
            if gateway:
                continue
            value = without_our_cookies(value)
            if not value:
                continue
        result.append((name, value))
    return result


def said_by_us(
    exchange: Exchange, identity: Identity | None, *, gateway: bool, body_length: int | None, chunked: bool
) -> Headers:
    """Of `for_mlflow`, the part that is ours, Host apart."""
    result: Headers = []
    if not gateway:
        result += said_of_caller(exchange.client, None if identity is None else identity.user)
        result.append((b"x-request-id", exchange.request_id.encode("latin-1", "replace")))
        if exchange.trace is not None:
            result += exchange.trace.headers()
    if chunked:
        result.append((b"transfer-encoding", b"chunked"))
    elif body_length is not None:
        result.append((b"content-length", b"%d" % body_length))
    return result


def said_of_caller(address: str, user: str | None) -> Headers:
    """Of `said_by_us`, the part that does not change from one of a caller's requests to the next."""
    # Never empty: without an X-Forwarded-For MLflow's Assistant takes every caller for a local one.
    result = [(b"x-forwarded-for", address.encode("latin-1", "replace") or b"unknown")]
    if user is not None:
        result.append((b"x-forwarded-user", _quoted(user)))
    return result


@lru_cache(maxsize=1024)
def _quoted(user: str) -> bytes:
    return quote(user, safe="@:/+ ").encode()


def without_our_cookies(value: bytes) -> bytes:
    """A Cookie header's value without the cookies that are ours (RFC 6265, section 4.2.1)."""
    if b"mlflow_proxy_" not in value:
        return value
    kept = [pair for pair in value.split(b";") if not pair.strip().startswith(OUR_COOKIES)]
    return b";".join(kept).strip()


def for_client(headers: Headers, status: int, *, authorities: tuple[bytes, ...], prefix: bytes) -> Headers:
    """The headers of MLflow's answer as the client gets them.

    Date and Server are our own server's to say. A Location that names MLflow's own address becomes a path
    below `prefix`, the public URL's path: MLflow knows neither our name nor our scheme. A 204 and a 304
    keep no Content-Length, which would announce a body that can't come (RFC 9110, section 8.6).
    """
    dropped = _dropped(_NOT_FOR_CLIENTS, headers)
    bodyless = status in (204, 304)
    result: Headers = []
    for name, value in headers:
        if name in dropped or (bodyless and name == b"content-length"):
            continue
        if name == b"location":
            value = _location(value, authorities, prefix)
        result.append((name, value))
    return result


def _location(value: bytes, authorities: tuple[bytes, ...], prefix: bytes) -> bytes:
    for scheme in (b"http://", b"https://"):
        if value.startswith(scheme):
            host, slash, rest = value[len(scheme) :].partition(b"/")
            if host not in authorities:
                return value
            # Not "//": the rest would be read as another host's name (RFC 3986, section 4.2).
            return prefix + b"/" + rest.lstrip(b"/") if slash else prefix + b"/"
    if value.startswith(b"/") and not value.startswith(b"//"):
        return prefix + value
    return value


def head(method: str, target: bytes, headers: Headers) -> bytes:
    """A request's head as it goes over the wire (RFC 9112, section 3)."""
    return b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode("ascii"), target, lines(headers))


def lines(headers: Headers) -> bytes:
    """Headers as they go over the wire, each with its line's end."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])
