"""The public address: its name, whether anything listens, and the certificate that clients are shown."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

from proxy.certificates.shown import Shown, read
from proxy.doctor.case import Case
from proxy.doctor.outside import Address, address_of, authorities, connect, trusting, verifying
from proxy.doctor.result import Result, failure, ok, warning

SECONDS = 30.0
_SOON = 14 * 86400
# X509_V_ERR_* (openssl/x509_vfy.h).
_NOT_YET, _EXPIRED, _SELF_SIGNED, _SELF_SIGNED_CHAIN, _NO_ISSUER, _NO_LEAF_ISSUER, _NAME, _IP = (
    9, 10, 18, 19, 20, 21, 62, 64,
)  # fmt: skip


def certificate(case: Case) -> Iterator[Result]:
    """Name, port and certificate of the public URL."""
    address = address_of(case)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield failure(
            "name",
            f"{address.host} is not known here ({error.strerror})",
            f"make a DNS record for it, or correct {address.set_by}",
        )
        return
    yield ok("name", f"{address.host} is {', '.join(dict.fromkeys(str(one[4][0]) for one in found))}")
    if address.scheme != "https":
        local = address.host in ("127.0.0.1", "localhost", "::1")
        said = f"{address.url} has no TLS"
        if local:
            yield ok("certificate", f"{said}, and is on this machine alone")
        else:
            yield warning(
                "certificate",
                f"{said}: passwords and tokens cross the network in clear",
                "serve https:// (PROXY_TLS, or a TLS terminator) and set PROXY_PUBLIC_URL to it",
            )
        return
    yield from _shown(case, address)


def _shown(case: Case, address: Address) -> Iterator[Result]:
    seconds = case.within(10)
    refused: ssl.SSLCertVerificationError | None = None
    try:
        connect(address, seconds, verifying(case)).close()
    except ssl.SSLCertVerificationError as error:
        refused = error
    except ssl.SSLError as error:
        yield failure(
            "certificate",
            f"{address.host}, port {address.port}, does not speak TLS ({error.reason or error})",
            "have TLS at that port, or correct the public URL's scheme or port",
        )
        return
    except OSError as error:
        yield failure(
            "port",
            f"{address.host}, port {address.port}, takes no connection ({error.strerror or error})",
            f"start what listens there (the service, or what stands in front of it), open the firewall, or "
            f"correct {address.set_by}",
        )
        return
    with connect(address, seconds, trusting()) as connection:
        assert isinstance(connection, ssl.SSLSocket)
        shown = read(connection.getpeercert(binary_form=True) or b"")
        version = connection.version()
        sent = _sent(connection)
    if refused is not None:
        yield _why(refused, shown, address, sent)
        return
    days = (shown.not_after - time.time()) / 86400
    own = authorities(case)
    said = f"{shown.subject}, from {shown.issuer}, {days:.0f} days left, {version}"
    if own is not None and case.settings.public_url is None:
        said += f"; clients need {own} (MLFLOW_TRACKING_SERVER_CERT_PATH)"
    if days * 86400 < _SOON:
        yield warning("certificate", said, "renew it: docs/rotation.md")
    else:
        yield ok("certificate", said)


def _sent(connection: ssl.SSLSocket) -> int | None:
    """How many certificates were shown; None where this Python does not tell (before 3.13)."""
    chain = getattr(connection, "get_unverified_chain", None)
    return None if chain is None else len(chain())


def _why(error: ssl.SSLCertVerificationError, shown: Shown, address: Address, sent: int | None) -> Result:
    code = error.verify_code
    day = time.strftime("%Y-%m-%d", time.gmtime(shown.not_after))
    if code == _EXPIRED:
        if shown.not_after >= time.time():
            return failure(
                "certificate",
                "an authority's certificate in the chain has expired",
                "serve the present chain",
            )
        return failure(
            "certificate",
            f"it expired on {day} ({shown.subject}, from {shown.issuer})",
            "renew it, and see why it was not renewed; this service takes up a renewed file by itself",
        )
    if code == _NOT_YET:
        return failure("certificate", "it is not valid yet", "look at the clocks (timedatectl)")
    if code in (_NAME, _IP):
        return failure(
            "certificate",
            f"it is for {', '.join(shown.names) or shown.subject}, and not for {address.host}",
            f"get one for {address.host}, or set PROXY_PUBLIC_URL to a name that it has",
        )
    if code == _SELF_SIGNED:
        return failure(
            "certificate",
            f"it is signed by itself ({shown.subject}), so no client believes it",
            "get one from an authority, or give clients this one (MLFLOW_TRACKING_SERVER_CERT_PATH) and the "
            "doctor too (--ca)",
        )
    if code in (_NO_ISSUER, _NO_LEAF_ISSUER) and sent == 1 and shown.issuer != shown.subject:
        return failure(
            "certificate",
            f"only the server's own certificate is sent, and its issuer {shown.issuer} is not known here",
            "serve the whole chain (fullchain.pem, the intermediate certificates after the server's own), or "
            "give clients that authority, and the doctor too (--ca)",
        )
    if code in (_NO_ISSUER, _NO_LEAF_ISSUER, _SELF_SIGNED_CHAIN):
        return failure(
            "certificate",
            f"its authority is not known here ({shown.issuer})",
            "give clients that authority's certificate (MLFLOW_TRACKING_SERVER_CERT_PATH), and the "
            "doctor too "
            "(--ca)",
        )
    return failure(
        "certificate", f"it is refused: {error.verify_message}", "look at it: openssl s_client -showcerts"
    )
