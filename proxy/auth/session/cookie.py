"""The session's cookie: its name, what is in it, how it is signed, and the header that sets it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from itsdangerous import BadData, URLSafeSerializer
from itsdangerous.encoding import base64_decode, base64_encode

from proxy.identity import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.settings import Settings

_LONGEST = 4000  # browsers keep 4,096 bytes with name and attributes (RFC 6265bis, 5.6)
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Payload:
    """What a cookie says. All of it but the id is for whoever looks at it: the session's row decides."""

    key: str
    """256 random bits that name the session; whoever has them has the session."""
    generation: int
    """Rises with each cookie that is made for the session."""
    stamp: float
    """When the groups behind `role` were told by the provider, in Unix seconds."""
    user: str
    role: Role


def new_key() -> str:
    return secrets.token_urlsafe(32)


def session_id(key: str) -> str:
    """What the database and the pages call the session: nothing that opens it can be made of that."""
    return hashlib.sha256(key.encode()).hexdigest()


def own_url(settings: Settings) -> str:
    """The public URL, or without one the address listened on."""
    if settings.public_url is not None:
        return settings.public_url
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls else 'http'}://{host}:{settings.port}"


class Cookie:
    """Makes and reads the cookies of one public URL."""

    def __init__(self, url: str, cookie_secrets: Sequence[str]) -> None:
        """``cookie_secrets``: the first signs, all verify."""
        self._secure = url.startswith("https://")
        digest = hashlib.sha256(url.encode()).hexdigest()[:8]
        self.name = f"{'__Host-' if self._secure else ''}mlflow_proxy_{digest}"
        self._prefix = f"{self.name}=".encode("ascii")
        self._serializer = URLSafeSerializer(
            list(reversed(cookie_secrets)),  # itsdangerous signs with the last
            # A cookie of another service that has the same secret is none of ours.
            salt=f"mlflow-proxy session {self.name}",
            serializer_kwargs={"separators": (",", ":")},
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def find(self, header: bytes) -> bytes | None:
        """Our cookie's value in a Cookie header; None where it is not there, or there are two that differ."""
        found = None
        prefix = self._prefix
        for part in header.split(b";"):
            part = part.strip()
            if part.startswith(prefix):
                value = part[len(prefix) :]
                # A subdomain or a script of another port can add one of the same name, and which of them the
                # browser sends first is theirs to choose.
                if found is not None and found != value:
                    return None
                found = value
        return found

    def open(self, value: bytes) -> Payload | None:
        """What a cookie says, where it is one of ours and unchanged."""
        if not 0 < len(value) <= _LONGEST:
            return None
        try:
            _, _, signature = value.rpartition(b".")
            # Base64 leaves bits over at its end: without this, several cookies would be the same one.
            if base64_encode(base64_decode(signature)) != signature:
                return None
            match self._serializer.loads(value):
                case [int() as kind, str() as key, int() as generation, int() | float() as stamp,
                      str() as user, int() as role] if kind == _FORMAT:  # fmt: skip
                    return Payload(key, generation, float(stamp), user, Role(role))
        except (BadData, ValueError):
            pass
        return None

    def made(self, payload: Payload, seconds: float) -> bytes:
        """The value of a Set-Cookie header with that cookie, for the browser to keep so long."""
        content = [
            _FORMAT,
            payload.key,
            payload.generation,
            round(payload.stamp, 3),
            payload.user,
            int(payload.role),
        ]
        text = self._serializer.dumps(content)
        assert isinstance(text, str)
        return self._header(text, max(1, int(seconds)))

    def cleared(self) -> bytes:
        """The value of a Set-Cookie header that makes the browser forget the cookie."""
        return self._header("", 0)

    def _header(self, value: str, seconds: int) -> bytes:
        # No Domain, Path=/ and Secure: __Host- demands them (RFC 6265bis, 4.1.3.2).
        secure = "; Secure" if self._secure else ""
        return (f"{self.name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}").encode(
            "ascii"
        )
