"""What a certificate says that another server shows, for a person to read; nothing of it is verified here."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from proxy.certificates.pair import names_of


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """Host names and addresses that it is for."""
    not_before: float
    not_after: float
    """Unix times."""


def read(der: bytes) -> Shown:
    """Raises ValueError where it is no certificate."""
    found = x509.load_der_x509_certificate(der)
    return Shown(
        _name(found.subject),
        _name(found.issuer),
        names_of(found),
        found.not_valid_before_utc.timestamp(),
        found.not_valid_after_utc.timestamp(),
    )


def _name(name: x509.Name) -> str:
    """The common name, or all of it where it has none."""
    common = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()
