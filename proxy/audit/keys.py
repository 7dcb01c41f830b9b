"""The keys that authenticate the lines: those of PROXY_AUDIT_KEY, and one kept in the data directory."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy import private_file
from proxy.errors import UserError
from proxy.settings.sign_in_values import SECRET_CHARACTERS, secrets_in

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.settings import Settings

log = logging.getLogger("proxy.audit")

KEY_FILE = "audit-key"


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys by their ids, which stand in the lines and open nothing."""

    signing: str
    """The id of the one that new lines are authenticated with; empty where there is none."""
    by_id: Mapping[str, bytes] = field(repr=False)

    def authenticate(self, body: bytes, key: str | None = None) -> str | None:
        """HMAC-SHA256 (RFC 2104) of it in hexadecimal, by that key or the signing one; None where that key is
        not known."""
        secret = self.by_id.get(self.signing if key is None else key)
        return None if secret is None else hmac.new(secret, body, hashlib.sha256).hexdigest()


def keys_of(texts: Sequence[str]) -> Keys:
    """The first authenticates, all verify. Pure."""
    by_id = {key_id(text.encode()): text.encode() for text in texts}
    return Keys(next(iter(by_id), ""), by_id)


def key_id(secret: bytes) -> str:
    return hmac.new(secret, b"mlflow-proxy audit key", hashlib.sha256).hexdigest()[:12]


def audit_keys(settings: Settings, *, make: bool) -> Keys:
    """The keys in force. `make` makes one where none is set and none is kept yet; else there may be none.

    One that was kept before PROXY_AUDIT_KEY was set still verifies the lines of then. Raises UserError.
    """
    texts = [] if settings.audit_key is None else list(secrets_in(settings.audit_key.get_secret_value()))
    path = settings.data_dir / KEY_FILE
    try:
        kept = _kept(path)
        if kept is None and not texts and make:
            kept = _made(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(
            f"{path} (the key of the audit log) can't be read or written: {reason}; put it right, or set "
            "PROXY_AUDIT_KEY"
        ) from None
    return keys_of([*texts, *([] if kept is None else [kept])])


def _kept(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    if len(text) < SECRET_CHARACTERS:
        raise UserError(
            f"{path} holds no key (any more); bring it back from a backup, or remove it and set "
            "PROXY_AUDIT_KEY. Without it the lines so far can't be verified"
        )
    if private_file.tighten(path):
        log.warning(
            "%s could be read by others on this machine; that is put right now. Whoever has read it can "
            "write lines that pass for ours: set PROXY_AUDIT_KEY to a new one",
            path,
        )
    return text


def _made(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = secrets.token_urlsafe(32)
    # A command of root's may come before the service's first start.
    directory = path.parent.stat()
    owner = (directory.st_uid, directory.st_gid) if os.geteuid() == 0 else None
    private_file.write(path, f"{text}\n".encode(), owner=owner)
    return text
