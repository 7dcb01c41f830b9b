"""The runtime directory: a fresh one of mode 0700 for the sockets between us and MLflow."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from proxy.errors import UserError

PREFIX = "mlflow-proxy-"

SOCKET_LIMIT = 100
"""Bytes that a socket's path may have: sockaddr_un has 108 with its end, and some systems fewer."""

LONGEST_NAME = "g9999999.sock"


@contextlib.contextmanager
def runtime_dir(setting: Path | None, environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """A fresh private directory, removed at the end.

    It is made in `setting` (PROXY_RUNTIME_DIR), else in $XDG_RUNTIME_DIR where that can be written to, else
    in the temporary directory. Raises UserError where that can't be, or where a socket in it would have too
    long a path.
    """
    where, source = _parent(setting, environ)
    try:
        if setting is not None:
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    except OSError as error:
        raise UserError(
            f"{source} is {where}: no directory can be made there ({error.strerror}); "
            "set PROXY_RUNTIME_DIR to one that this user may write to"
        ) from None
    try:
        if (length := len(os.fsencode(path / LONGEST_NAME))) > SOCKET_LIMIT:
            raise UserError(
                f"{source} is {where}: a socket in it would have a path of {length} bytes, and the system "
                f"allows {SOCKET_LIMIT}; set PROXY_RUNTIME_DIR to a shorter path, such as /run/mlflow-proxy"
            )
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove such a directory that a killed instance left; anything that is not one is left alone."""
    with contextlib.suppress(OSError):
        known = path.lstat()
        if path.name.startswith(PREFIX) and known.st_uid == os.getuid() and known.st_mode & 0o7777 == 0o700:
            shutil.rmtree(path, ignore_errors=True)


def _parent(setting: Path | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    if setting is not None:
        return Path(os.path.abspath(setting)), "PROXY_RUNTIME_DIR"  # noqa: PTH100 - links stay
    xdg = environ.get("XDG_RUNTIME_DIR", "")
    if xdg.startswith("/") and os.access(xdg, os.W_OK | os.X_OK):
        return Path(xdg), "XDG_RUNTIME_DIR"
    return Path(tempfile.gettempdir()), "the temporary directory"
