"""What our pages call the service and show for it: PROXY_NAME and PROXY_LOGO_FILE, read once at start."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import UserError

LOGO_LIMIT = 256 * 1024
"""Bytes: the logo is inside every page, so that no page needs a second request or an open path."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)


@dataclass(frozen=True, slots=True)
class Brand:
    """The name in titles and headings, and the logo as a data: URL (RFC 2397) or None."""

    name: str = "MLflow"
    logo: str | None = None


def load(name: str | None, logo_file: Path | None) -> Brand:
    """The brand of those settings.

    Raises UserError where the logo can't be read, is over LOGO_LIMIT, or is no PNG, JPEG, GIF, WebP or SVG.
    """
    return Brand((name or "").strip() or Brand().name, _logo(logo_file) if logo_file else None)


def _logo(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LOGO_LIMIT + 1)
    except OSError as error:
        raise UserError(f"PROXY_LOGO_FILE: {path} can't be read: {error.strerror or error}.") from None
    if len(data) > LOGO_LIMIT:
        raise UserError(f"PROXY_LOGO_FILE: {path} is over {LOGO_LIMIT // 1024} KiB; make it smaller.")
    kind = _kind(data)
    if kind is None:
        raise UserError(f"PROXY_LOGO_FILE: {path} is no PNG, JPEG, GIF, WebP or SVG.")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _kind(data: bytes) -> str | None:
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind if kind != "image/webp" or data[8:12] == b"WEBP" else None
    # Shown by <img>, where an SVG runs no script and asks for nothing (SVG 2, "secure static mode").
    return "image/svg+xml" if b"<svg" in data[:4096] else None
