"""When the certificate ends that another server shows."""

from __future__ import annotations

import socket
import ssl

from cryptography import x509


def ends(host: str, port: int, seconds: float) -> float:
    """The Unix time; nothing of the certificate is verified but that it can be read. Blocks.

    Raises OSError (of which ssl.SSLError and TimeoutError are kinds) where none is shown.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # An expired one, or one of an authority of its own, is told of as well.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=seconds) as connection,
        context.wrap_socket(connection, server_hostname=host) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    if shown is None:
        raise ConnectionError("it shows no certificate")
    return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()
