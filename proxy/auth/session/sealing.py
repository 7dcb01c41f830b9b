"""The provider's tokens as the database has them: encrypted, and for the provider alone that gave them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.auth.oidc.claims import Tokens

_FIELDS = ("refresh_token", "id_token", "access_token", "expires")


class Sealing:
    """Encrypts and decrypts tokens, with keys made of the cookies' secrets (HKDF, RFC 5869)."""

    def __init__(self, cookie_secrets: Sequence[str], provider: str) -> None:
        """``provider`` names the provider and the client: what was sealed for another one does not open, or
        its tokens would be sent to a stranger after a change of settings."""
        self._fernet = MultiFernet([Fernet(_key(secret)) for secret in cookie_secrets])
        self._provider = provider

    def seal(self, tokens: Tokens) -> bytes | None:
        """None where there is nothing to keep."""
        content = {name: value for name in _FIELDS if (value := getattr(tokens, name)) is not None}
        if not content:
            return None
        return self._fernet.encrypt(json.dumps([self._provider, content]).encode())

    def open(self, sealed: bytes) -> Tokens | None:
        """None where it was sealed with a secret that is gone, or for another provider."""
        try:
            provider, content = json.loads(self._fernet.decrypt(sealed))
        except (InvalidToken, ValueError):
            return None
        return Tokens(**content) if provider == self._provider else None


def _key(secret: str) -> bytes:
    kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"mlflow-proxy: provider tokens")
    return base64.urlsafe_b64encode(kdf.derive(secret.encode()))
