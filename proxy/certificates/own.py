"""A certificate authority of our own and the certificate it issues, made on first start and renewed in time.

In ``DATA_DIR/tls``: ``ca.pem`` and ``ca-key.pem``, made once and never replaced, as clients trust them; and
``cert.pem`` (the certificate, then the authority's) with ``key.pem``, made anew when 30 days are left, or
when the names to be served change. The authority has no name constraints: they would have to name every host
that the service may be given in ten years. So trust it where it is needed (MLFLOW_TRACKING_SERVER_CERT_PATH,
a browser's own store) and not for a whole machine.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy import private_file
from proxy.certificates.pair import names_of, public_key, read_chain, read_key
from proxy.errors import UserError

if TYPE_CHECKING:
    from proxy.settings import Settings

log = logging.getLogger(__name__)

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 396
"""Browsers take 398 at most (CA/Browser Forum; for public authorities, but why be longer)."""
RENEW_DAYS = 30
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_SKEW = datetime.timedelta(hours=1)  # clients' clocks are not ours


@dataclass(frozen=True, slots=True)
class Paths:
    cert: Path
    key: Path
    ca: Path
    """The authority that clients have to trust."""


def names_for(settings: Settings) -> tuple[str, ...]:
    """The names that a certificate made here is for: loopback, this machine's, and those in the settings."""
    hosts = ["localhost", "127.0.0.1", "::1", socket.gethostname(), settings.host]
    if settings.public_url:
        hosts.append(urlsplit(settings.public_url).hostname or "")
    hosts += [urlsplit(f"//{host}").hostname or "" for host in settings.allowed_hosts]
    return tuple(dict.fromkeys(name for host in hosts if (name := _normal(host))))


def _normal(host: str) -> str | None:
    """A host as it is written in a certificate, or None where it stands for no certain one."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        name = host.strip(".").lower()
        return name if name and not set(name) - _NAME_CHARACTERS else None
    return None if address.is_unspecified else str(address)


def ensure(data_dir: Path, names: Iterable[str], now: datetime.datetime | None = None) -> Paths:
    """The files of our own certificate, made or renewed as far as needed. Call it with the directory locked.

    Raises UserError where a file is there and can't be used: none of them is replaced then. What an
    interrupted renewal leaves is put right.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    folder = data_dir / "tls"
    paths = Paths(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    ca_key = folder / "ca-key.pem"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Without either certificate no client can have been given this authority: a first start, perhaps
        # after one that was interrupted.
        if not paths.ca.exists() and not paths.cert.exists():
            _make_authority(paths.ca, ca_key, now)
        for path in (ca_key, paths.key):
            if path.exists() and private_file.tighten(path):
                log.warning("%s could be read by others on this machine; that is put right now", path)
        authority = _authority(paths.ca, now)
        reason = _why_renew(paths, authority, set(names), now)
        if reason:
            _issue(paths, authority, _authority_key(paths.ca, ca_key, authority), tuple(names), now)
            log.info("A certificate was made for %s: %s", ", ".join(names), reason)
    except OSError as error:
        raise UserError(f"{folder} can't be read or written: {error.strerror or error}") from None
    return paths


def _begin_again(folder: Path) -> str:
    return (
        f"restore it from a backup, or remove {folder} to begin with a new authority, which every client has "
        "to be given then"
    )


def _authority(path: Path, now: datetime.datetime) -> x509.Certificate:
    if not path.exists():
        raise UserError(f"{path} (the certificate authority) is missing: {_begin_again(path.parent)}")
    try:
        authority = read_chain(path)[0]
    except UserError as error:
        raise UserError(f"{error}: {_begin_again(path.parent)}") from None
    if authority.not_valid_after_utc <= now:
        raise UserError(f"{path} (the certificate authority) has expired: {_begin_again(path.parent)}")
    return authority


def _authority_key(path: Path, key_path: Path, authority: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    if not key_path.exists():
        raise UserError(
            f"{key_path} (the certificate authority's key) is missing, and a certificate has to be made: "
            f"{_begin_again(path.parent)}"
        )
    try:
        key = read_key(key_path)
    except UserError as error:
        raise UserError(f"{error}: {_begin_again(path.parent)}") from None
    if public_key(key) != public_key(authority) or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{key_path} is not the key of {path}: {_begin_again(path.parent)}")
    return key


def _why_renew(
    paths: Paths, authority: x509.Certificate, names: set[str], now: datetime.datetime
) -> str | None:
    missing = [path.name for path in (paths.cert, paths.key) if not path.exists()]
    if missing:
        return f"there was no {' and no '.join(missing)}"
    try:
        certificate = read_chain(paths.cert)[0]
        key = read_key(paths.key)
        certificate.verify_directly_issued_by(authority)
    except (UserError, ValueError, TypeError, InvalidSignature) as error:
        problem = str(error) if isinstance(error, UserError) else f"{paths.cert} was not issued by {paths.ca}"
        raise UserError(
            f"{problem}; remove cert.pem and key.pem in {paths.cert.parent} to have new ones made, which "
            "changes nothing for clients (a certificate of your own belongs in PROXY_TLS_CERT_FILE and "
            "PROXY_TLS_KEY_FILE)"
        ) from None
    if public_key(certificate) != public_key(key):
        return "key.pem was another one's"  # a renewal ended between its two files
    if set(names_of(certificate)) != names:
        return "the names have changed"
    left = certificate.not_valid_after_utc - now
    return f"{left.days} days were left" if left < datetime.timedelta(days=RENEW_DAYS) else None


def _make_authority(path: Path, key_path: Path, now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # Unlike any other authority made by this program: browsers mix up two of one name.
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"mlflow-proxy authority {secrets.token_hex(4)}")]
    )
    authority = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private_file.write(key_path, _pem(key))
    private_file.write(path, authority.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _issue(
    paths: Paths,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: tuple[str, ...],
    now: datetime.datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mlflow-proxy")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + datetime.timedelta(days=CERTIFICATE_DAYS), authority.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        # Python from 3.13 on takes no certificate without it (VERIFY_X509_STRICT).
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (certificate, authority))
    private_file.write(paths.key, _pem(key))
    private_file.write(paths.cert, chain, mode=0o644)


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
