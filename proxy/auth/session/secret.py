"""The secrets of sessions: those of PROXY_COOKIE_SECRET, or one made and kept in the data directory."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from proxy import private_file
from proxy.errors import UserError
from proxy.settings.sign_in_values import SECRET_CHARACTERS, secrets_in

if TYPE_CHECKING:
    from proxy.settings import Settings

log = logging.getLogger(__name__)

SECRET_FILE = "cookie-secret"  # noqa: S105 - a file's name


def cookie_secrets(settings: Settings) -> tuple[str, ...]:
    """The secrets in force: the first signs and encrypts, all verify and decrypt.

    Makes one where none is set and none is kept yet: call it with the data directory locked. Raises UserError
    where that can't be read or written.
    """
    if settings.cookie_secret is not None:
        return secrets_in(settings.cookie_secret.get_secret_value())
    path = settings.data_dir / SECRET_FILE
    try:
        try:
            text = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = secrets.token_urlsafe(32)
            private_file.write(path, f"{text}\n".encode())
        if private_file.tighten(path):
            log.warning(
                "%s could be read by others on this machine; that is put right now. Where somebody may have "
                "read it, remove it and start again: everybody has to sign in again then",
                path,
            )
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(
            f"{path} (the secret of sessions) can't be read or written: {reason}; put it right, or set "
            "PROXY_COOKIE_SECRET"
        ) from None
    if len(text) < SECRET_CHARACTERS:
        raise UserError(
            f"{path} holds no secret (any more); remove it to have a new one made, which signs everybody "
            "out, or set PROXY_COOKIE_SECRET"
        )
    return (text,)
