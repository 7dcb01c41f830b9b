"""What the text of a setting may be: a reader for each kind of value; its ValueError says what is right."""

from __future__ import annotations

import ipaddress
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr

from proxy.identity import Role

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)


def read(reader: Callable[[str], Any]) -> BeforeValidator:
    """Reads text with ``reader``; a value that is no text came from our own code and is left as it is."""
    return BeforeValidator(lambda value: reader(value.strip()) if isinstance(value, str) else value)


def read_secret(reader: Callable[[str], str]) -> BeforeValidator:
    """Like ``read``, but keeps spaces and hides the text; ``reader`` must not quote it in its ValueError."""
    return BeforeValidator(lambda value: SecretStr(reader(value)) if isinstance(value, str) else value)


def quoted(text: str) -> str:
    """A value as an error shows it: in quotes, on one line, without passwords, cut where it is long."""
    shown = masked_uri(text)
    return repr(shown if len(shown) <= 80 else shown[:77] + "...")


def masked_uri(text: str) -> str:
    """``text`` with *** for the password of a URI in it, in its authority or among its query values.

    Everything up to the last ``@`` goes, because a password that a person forgot to percent-encode may
    hold any of the characters that end one.
    """
    text = re.sub(r"(://[^:/?#@\s]*):.*@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(
        r"(?i)([?&;][\w-]*(?:password|passwd|pwd|passphrase|secret|token|credential|key|sig|odbc_connect)=)[^&\s]*",
        r"\1***",
        text,
    )


def whole_number(low: int, high: int) -> Callable[[str], int]:
    def reader(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{quoted(text)} is not a whole number from {low} to {high}")
        return int(text)

    return reader


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose one."""
    if re.match(r"(tcp|udp|sctp)://", text):
        raise ValueError(
            f"{quoted(text)} is what Kubernetes sets for a Service of this name, not a port: "
            "set enableServiceLinks: false in the pod's spec, or the port in the container's env"
        )
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise ValueError(f"{quoted(text)} is not a port: a whole number from 1 to 65535, such as 8443")
    return int(text)


def on_off(text: str) -> bool:
    known = {"on": True, "true": True, "yes": True, "1": True}
    known |= {"off": False, "false": False, "no": False, "0": False}
    try:
        return known[text.lower()]
    except KeyError:
        raise ValueError(f"{quoted(text)} is neither on nor off") from None


def seconds_up_to(longest: int) -> Callable[[str], float]:
    """More than 0 and at most ``longest``."""

    def reader(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= longest:
            raise ValueError(
                f"{quoted(text)} is not a number of seconds over 0 (at most {longest}), such as 30"
            )
        return value

    return reader


seconds = seconds_up_to(7 * 24 * 3600)


def pace(text: str) -> float:
    """Seconds between two times, or 0 for never."""
    return 0.0 if text.strip() == "0" else seconds(text)


def size(text: str) -> int:
    """Bytes: plain, or with KB, MB, GB (powers of 1000) or KiB, MiB, GiB (powers of 1024)."""
    match = re.fullmatch(r"(\d{1,15})\s*([a-z]*)", text, re.ASCII | re.IGNORECASE)
    if not match or match[2].lower() not in _SIZES or int(match[1]) == 0:
        raise ValueError(f"{quoted(text)} is not a size over 0, such as 104857600, 100MiB or 64KB")
    return int(match[1]) * _SIZES[match[2].lower()]


def size_text(value: int) -> str:
    """The shortest exact spelling of a size that ``size`` reads back."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def choice(*names: str) -> Callable[[str], str]:
    def reader(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"{quoted(text)} is none of {', '.join(names)}")
        return text.lower()

    return reader


def delete_role(text: str) -> Role:
    return Role.parse(choice("editor", "admin")(text))


def host(text: str) -> str:
    """A host name or an address, without port; an IPv6 address with or without brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    # Digits and dots alone would be taken for a name and looked up, or read as an address with parts missing.
    if not _HOST_NAME.fullmatch(text) or re.fullmatch(r"[\d.]+", text):
        raise ValueError(f"{quoted(text)} is not a host name or address, such as 127.0.0.1 or 0.0.0.0 (all)")
    return text


def host_port(text: str) -> tuple[str, int]:
    name, colon, number = text.rpartition(":")
    if not colon or not name or (":" in name and not name.startswith("[")):
        raise ValueError(f"{quoted(text)} is not host:port, such as 127.0.0.1:9090 or [::1]:9090")
    return host(name), port(number)


def host_ports(text: str) -> tuple[tuple[str, int], ...]:
    """Several host:port, separated by commas."""
    return tuple(host_port(part) for part in filter(None, (part.strip() for part in text.split(","))))


def hosts(text: str) -> tuple[str, ...]:
    """Host values as a browser sends them, in lower case: a name or address, and its port if it has one."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.rpartition(":") if re.search(r":\d+$", part) else (part, "", "")
        if part.count(":") > 1 and not part.startswith("["):  # IPv6 without brackets has no port
            name, number = part, ""
        try:
            plain = host(name)
            suffix = f":{port(number)}" if number else ""
        except ValueError:
            raise ValueError(
                f"{quoted(part)} is not a host: full names or addresses with or without a port, separated "
                "by commas, no scheme, no path, no *"
            ) from None
        found.append((f"[{plain}]" if ":" in plain else plain.lower()) + suffix)
    return tuple(found)


def networks(text: str) -> tuple[Network, ...]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError:
            try:
                right = f"; perhaps {ipaddress.ip_network(part, strict=False)}"
            except ValueError:
                right = ""
            raise ValueError(
                f"{quoted(part)} is not an address or network{right}: "
                "say them as 10.0.0.7 or 10.0.0.0/8, separated by commas"
            ) from None
    return tuple(found)


def public_url(text: str) -> str:
    """A URL's scheme, host, port and path, the host in lower case, without a slash at its end."""
    right = "http(s)://host[:port][/path], such as https://mlflow.example.com"
    try:
        url = urlsplit(text)
        number = url.port
    except ValueError:
        raise ValueError(f"not a URL: {right}") from None
    if url.username is not None or url.password is not None:
        raise ValueError(f"a user name or password does not belong in it: {right}")
    if re.search(r"[?#]", text):
        raise ValueError(f"{quoted(text)} has a query or fragment: {right}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{quoted(text)} is not {right}")
    try:
        name = host(url.hostname)
    except ValueError:
        raise ValueError(f"{quoted(text)} has no host name that can be served: {right}") from None
    path = url.path.rstrip("/")
    parts = path.split("/")[1:]
    if not all(re.fullmatch(r"[A-Za-z0-9._~-]+", part) and part not in (".", "..") for part in parts):
        raise ValueError(f"the path of {quoted(text)} may hold letters, digits and . _ ~ - alone: {right}")
    if number == 0:
        raise ValueError(f"{quoted(text)} has no port that can be served: {right}")
    shown = f"[{name}]" if ":" in name else name.lower()
    return f"{url.scheme}://{shown}" + (f":{number}" if number else "") + path


def arguments(text: str) -> tuple[str, ...]:
    """A command line's arguments, quoted as in a shell."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise ValueError("a quotation mark or a backslash stands alone: quote it as in a shell") from None


def path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path can't hold a NUL")
    return Path(text)


def environment_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError(f"{quoted(text)} is not a name of letters, digits, - and _, such as production")
    return text


def user_name(text: str) -> str:
    """RFC 7617: a user name for Basic authentication can't hold a colon or a control character."""
    if ":" in text or not text.isprintable() or len(text) > 128:
        raise ValueError("a user name can't hold a colon or a control character, nor be longer than 128")
    return text


def password(text: str) -> str:
    """RFC 7617: no control characters; everything else, spaces included, is part of it."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("a password can't hold a line break or another control character")
    return text


def token(text: str) -> str:
    """RFC 6750's b64token, as it goes into ``Authorization: Bearer``."""
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,}=*", text):
        raise ValueError(
            "a token is at least 16 characters of A-Z a-z 0-9 . _ ~ + / -, as `openssl rand -hex 32` prints"
        )
    return text


def text_value(text: str) -> str:
    return text
