"""What the text of a setting about signing in may be: readers, like those in values.py."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from proxy.identity import Role
from proxy.settings.values import choice, host, quoted

SECRET_CHARACTERS = 32
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W_](?:[\w-]{0,61}[^\W_])?")


def loopback(name: str) -> bool:
    """Whether a host name or address is this machine's own alone."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def provider_url(text: str) -> str:
    """An https URL, or an http one on loopback; kept as written."""
    right = "https://host/path, such as https://login.example.com/oauth2/token"
    try:
        url = urlsplit(text)
        _ = url.port
        name = host(url.hostname or "")
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a URL: {right}") from None
    if not text.isascii() or re.search(r"[\s\\]", text):
        raise ValueError(f"{quoted(text)} is not a URL: {right}")
    if url.username is not None or url.password is not None:
        raise ValueError(f"a user name or password does not belong in it: {right}")
    if "#" in text:
        raise ValueError(f"{quoted(text)} has a fragment: {right}")
    if url.scheme != "https" and not (url.scheme == "http" and loopback(name)):
        raise ValueError(f"{quoted(text)} does not begin with https:// (http:// is for loopback alone)")
    return text


def issuer_url(text: str) -> str:
    """An issuer (OpenID Connect Discovery 1.0, section 3): such a URL without a query; kept as written."""
    if "?" in text:
        raise ValueError(f"{quoted(text)} has a query, which an issuer has not")
    if text.rstrip("/").endswith("/.well-known/openid-configuration"):
        raise ValueError("is the discovery document's address: the issuer is what stands before /.well-known")
    return provider_url(text)


def scopes(text: str) -> str:
    """Scopes (RFC 6749, section 3.3), separated by spaces or commas; by single spaces in the result."""
    found = list(dict.fromkeys(re.split(r"[\s,]+", text.strip(" ,"))))
    for scope in found:
        if not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", scope):
            raise ValueError(
                f"{quoted(scope)} is not a scope: write openid email profile, with spaces between"
            )
    return " ".join(found)


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas; their case counts."""
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def email_domains(text: str) -> tuple[str, ...]:
    """Domains in full, in lower case; an @ before one is left out."""
    found = []
    for part in names(text):
        domain = part.removeprefix("@").lower()
        if not _DOMAIN.fullmatch(domain):
            raise ValueError(
                f"{quoted(part)} is not a domain: write each in full, such as example.com; a * means nothing"
            )
        found.append(domain)
    return tuple(dict.fromkeys(found))


def emails(text: str) -> tuple[str, ...]:
    """E-mail addresses in lower case."""
    found = []
    for part in names(text):
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", part):
            raise ValueError(f"{quoted(part)} is not an e-mail address, such as ada@example.com")
        found.append(part.lower())
    return tuple(dict.fromkeys(found))


def any_role(text: str) -> Role:
    return Role[choice("none", "viewer", "editor", "admin")(text.lower()).upper()]


def secrets_in(text: str) -> tuple[str, ...]:
    """The parts of a list of secrets, the one that signs first."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def secret_list(text: str) -> str:
    """Secrets separated by commas, each long enough. Quotes none of them."""
    parts = secrets_in(text)
    short = [str(number) for number, part in enumerate(parts, 1) if len(part) < SECRET_CHARACTERS]
    if not parts or short:
        which = f"secret {' and '.join(short)} of {len(parts)} is" if len(parts) > 1 else "is"
        raise ValueError(
            f"{which} shorter than {SECRET_CHARACTERS} characters: `openssl rand -hex 32` prints a good one; "
            "a comma separates several"
        )
    if any(len(set(part)) < 8 for part in parts):
        raise ValueError("has hardly any different characters: `openssl rand -hex 32` prints a good one")
    return text


def display_name(text: str) -> str:
    if not text.isprintable() or len(text) > 60:
        raise ValueError("a name can't hold a line break, nor be longer than 60 characters")
    return text
