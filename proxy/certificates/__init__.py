"""TLS: which certificate is served, where it comes from, and how a renewed one is taken up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from proxy.certificates.context import TlsContext
from proxy.certificates.own import Paths, ensure, names_for
from proxy.certificates.pair import Pair, read_pair

if TYPE_CHECKING:
    from proxy.settings import Settings

__all__ = ["Pair", "Paths", "TlsContext", "ensure", "names_for", "prepare", "read_pair"]


def prepare(settings: Settings) -> tuple[TlsContext | None, Path | None]:
    """The listener's TLS by the settings, and the authority's file that clients need where it is our own.

    Both are None where PROXY_TLS is off. Call it with the data directory locked. Raises UserError.
    """
    if not settings.tls:
        return None, None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        return TlsContext(settings.tls_cert_file, settings.tls_key_file), None
    names = names_for(settings)
    paths = ensure(settings.data_dir, names)
    return (
        TlsContext(paths.cert, paths.key, renew=lambda: ensure(settings.data_dir, names)),
        paths.ca,
    )
