"""Which address a credential is for: what a server's URL is, and which requests lie below it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote, urlsplit

from mlflow_proxy_client.errors import Problem, plain

_PORTS = {"http": 80, "https": 443}
_USER = re.compile(r"//[^/?#]*@")
_STEP = re.compile(r"[/\\]")


def server_url(text: str) -> str:
    """The server that a person means, as its credential is kept under: scheme, host, port unless the usual
    one, and path without a slash at its end.

    What a browser's address bar adds (query, fragment) is dropped. Raises Problem for what is no URL, holds
    a password, or would carry a credential in clear over a network.
    """
    shown = plain(without_user(text))
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise Problem(f"{shown!r} is not a URL; it looks like https://mlflow.example.com") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise Problem(f"{shown!r} is not the URL of a server; it looks like https://mlflow.example.com")
    if parts.username is not None or parts.password is not None:
        raise Problem("leave the user name and password out of the URL; --username names the user")
    host = parts.hostname
    if parts.scheme == "http" and not _is_loopback(host):
        raise Problem(f"{shown} is not encrypted, so a credential would be readable on its way; use https://")
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[parts.scheme]:
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def without_user(url: str) -> str:
    """The URL without a user name and password in it, to be shown."""
    return _USER.sub("//", url, count=1)


def is_safe(url: str) -> bool:
    """Whether a secret may be sent there: over TLS, or to this machine (RFC 8252, section 8.3)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    )


def covers(server: str, url: str) -> bool:
    """Whether a request to `url` is one to `server` (as server_url gives it): same origin, path below."""
    try:
        parts, own = urlsplit(url), urlsplit(server)
        same = (parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)) == (
            own.scheme,
            own.hostname,
            own.port or _PORTS[own.scheme],
        )
    except ValueError:
        return False
    # What a server, or a proxy before it, may take for a step upwards could lead out of its folder.
    steps = _STEP.split(unquote(unquote(parts.path)))
    if not same or any(step.partition(";")[0] in (".", "..") for step in steps):
        return False
    return parts.path == own.path or parts.path.startswith(own.path + "/") or own.path == ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
