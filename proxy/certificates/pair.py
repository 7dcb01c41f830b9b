"""A certificate chain and its key, read from their files and compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from proxy.errors import UserError


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, found to belong together."""

    chain: tuple[x509.Certificate, ...]
    names: tuple[str, ...]
    """Host names and addresses that the certificate is for."""
    not_after: float
    """When it ends, Unix time."""

    @property
    def expired(self) -> bool:
        return self.not_after < time.time()


def read_pair(cert: Path, key: Path) -> Pair:
    """Read and compare a chain and its key. Raises UserError: unreadable, no PEM, encrypted, another key's,
    or with the authority's certificate before the server's own. An expired one is not refused."""
    chain = read_chain(cert)
    public = public_key(read_key(key))
    matching = [index for index, one in enumerate(chain) if public_key(one) == public]
    if not matching:
        raise UserError(f"{key} is not the key of {cert}: put the two that were issued together")
    if matching[0] != 0:
        raise UserError(f"{cert}: the server's own certificate has to be the first one in the file")
    return Pair(tuple(chain), names_of(chain[0]), chain[0].not_valid_after_utc.timestamp())


def read_chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None


def read_key(path: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except TypeError:
        raise UserError(
            f"{path} is encrypted: decrypt it with openssl pkey -in {path} -out new-key.pem"
        ) from None
    except ValueError:
        raise UserError(f"{path} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)") from None


def public_key(of: x509.Certificate | PrivateKeyTypes) -> bytes:
    return of.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    hosts = found.get_values_for_type(x509.DNSName)
    return (*hosts, *(str(address) for address in found.get_values_for_type(x509.IPAddress)))
