"""The service of some settings, as a command on its own machine reaches it."""

from __future__ import annotations

import http.client
import ssl

from proxy.settings import Settings

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on


def connection(settings: Settings, seconds: float) -> http.client.HTTPConnection:
    """Not connected yet; `seconds` is how long each step may take. MLFLOW_PORT is not 0, which no other
    process can follow.

    Certificates name hosts, and this is an address of the machine's own: none is verified, so send nothing
    secret.
    """
    host = _EVERY_ADDRESS.get(settings.host, settings.host)
    if not settings.tls:
        return http.client.HTTPConnection(host, settings.port, timeout=seconds)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.port, timeout=seconds, context=context)
