"""What a first start makes so that nobody has to: the password, kept in the data directory."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from proxy import private_file
from proxy.auth import passwords
from proxy.errors import UserError

if TYPE_CHECKING:
    from proxy.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_USER = "admin"
PASSWORD_FILE = "password"  # noqa: S105 - a file's name
_BYTES = 18  # of randomness, 24 characters


def check_password(settings: Settings) -> str:
    """The password of MLFLOW_TRACKING_USERNAME's user: the one that was set, else the one kept in the data
    directory, which is made on first start. Call it with the data directory locked.

    Raises UserError for a password that is weak (passwords.weakness) unless PROXY_ALLOW_WEAK_PASSWORD is on,
    and for a kept one that can't be read or written.
    """
    if settings.password is None:
        return kept_password(settings.data_dir)
    password = settings.password.get_secret_value()
    weakness = passwords.weakness(password, settings.username or DEFAULT_USER)
    if weakness is None:
        return password
    if not settings.allow_weak_password:
        raise UserError(
            f"MLFLOW_TRACKING_PASSWORD: the password {weakness}; set another one (this one will do: "
            f"{secrets.token_urlsafe(_BYTES)}), leave it empty to have one made and kept, or set "
            "PROXY_ALLOW_WEAK_PASSWORD=on"
        )
    log.warning("MLFLOW_TRACKING_PASSWORD: the password %s, and PROXY_ALLOW_WEAK_PASSWORD is on", weakness)
    return password


def kept_password(data_dir: Path) -> str:
    """The generated password, made where there is none yet. Raises UserError."""
    path = data_dir / PASSWORD_FILE
    try:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = secrets.token_urlsafe(_BYTES) + "\n"
            private_file.write(path, text.encode())
        if private_file.tighten(path):
            log.warning(
                "%s could be read by others on this machine; that is put right now. Where somebody may have "
                "read it, remove it and start again to have a new password made",
                path,
            )
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} (the generated password) can't be read or written: {_reason(error)}; put it right, or "
            "set MLFLOW_TRACKING_PASSWORD"
        ) from None
    password = text.strip()
    if passwords.weakness(password, DEFAULT_USER) is not None:
        raise UserError(
            f"{path} holds no generated password (any more); remove it to have a new one made, or set "
            "MLFLOW_TRACKING_PASSWORD"
        )
    return password


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not text"
