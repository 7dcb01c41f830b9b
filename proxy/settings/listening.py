"""What must fit together about listening: the address, TLS, the public URL, who stands before us."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from proxy.settings.fields import Settings
from proxy.settings.sign_in_values import loopback
from proxy.settings.sources import Problems


def check_listening(settings: Settings, origin: Mapping[str, str], problems: Problems) -> None:
    """What depends on values that are each good by themselves."""
    if settings.port and _public_without_tls(settings) == settings.port and settings.tls:
        problems.add(
            "PROXY_PUBLIC_URL",
            origin.get("PROXY_PUBLIC_URL", "default"),
            f"is http:// with MLFLOW_PORT, {settings.port}, where only TLS is spoken (PROXY_TLS is on): "
            "write https://, or set PROXY_TLS=off",
        )
    if settings.port and settings.metrics_address == (settings.host, settings.port):
        problems.add(
            "PROXY_METRICS_ADDRESS",
            origin.get("PROXY_METRICS_ADDRESS", "default"),
            "is the address of the service itself (MLFLOW_HOST, MLFLOW_PORT): take another port",
        )


def listening_warnings(settings: Settings) -> list[tuple[str, str]]:
    """What is no error and yet not likely meant: the setting and what is to be said."""
    found = []
    if settings.tls and _public_without_tls(settings) is not None:
        found.append(
            (
                "PROXY_PUBLIC_URL",
                "is http://, and this service speaks TLS alone (PROXY_TLS is on): write https://, unless "
                "what stands before it takes http:// and passes it on by TLS",
            )
        )
    if loopback(settings.host):
        return found
    if not settings.tls and not settings.trusted_proxies:
        found.append(
            (
                "PROXY_TLS",
                f"is off and MLFLOW_HOST is {settings.host}, so passwords cross the network in clear unless "
                "a TLS terminator stands before it: turn it on, or name the terminator's address in "
                "PROXY_TRUSTED_PROXIES",
            )
        )
    if settings.public_url is None and not settings.allowed_hosts:
        served = "loopback's and the certificate's" if settings.tls else "loopback's"
        found.append(
            (
                "MLFLOW_HOST",
                f"is {settings.host}, and host names other than {served} get 421: set PROXY_PUBLIC_URL to "
                "the URL that people use, or PROXY_ALLOWED_HOSTS",
            )
        )
    return found


def _public_without_tls(settings: Settings) -> int | None:
    """The public URL's port where it is http://."""
    url = urlsplit(settings.public_url or "")
    return (url.port or 80) if url.scheme == "http" else None
