"""What the latest backup and the latest drill came to, in a file that the service's metrics are read from."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proxy import private_file
from proxy.errors import UserError


def file(data_dir: Path) -> Path:
    return data_dir.absolute() / "backup" / "state.json"


def read(data_dir: Path) -> dict[str, dict[str, Any]]:
    """By `backup` and `drill`; empty where nothing was noted or it can't be read."""
    try:
        found = json.loads(file(data_dir).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: part for name, part in found.items() if isinstance(part, dict)}


def note(data_dir: Path, section: str, values: Mapping[str, Any]) -> None:
    """Replace that section's values that are named. Raises OSError."""
    path = folder(data_dir) / file(data_dir).name
    found = read(data_dir)
    found[section] = {**found.get(section, {}), **values}
    private_file.write(path, json.dumps(found, indent=1).encode() + b"\n", owner=_owner(data_dir))


def folder(data_dir: Path) -> Path:
    """Where backups and restores keep files of their own, made where it is missing. Raises OSError."""
    path = file(data_dir).parent
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return path
    if (owner := _owner(data_dir)) is not None:
        os.chown(path, *owner)
    return path


def _owner(data_dir: Path) -> tuple[int, int] | None:
    """Root may make a backup of another user's data, and that user's service is to read what came of it."""
    if os.geteuid() != 0:
        return None
    found = data_dir.stat()
    return found.st_uid, found.st_gid


@contextlib.contextmanager
def own_files(data_dir: Path) -> Iterator[None]:
    """Raises UserError where the block could not write those files."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"PROXY_DATA_DIR is {data_dir}: files that are needed meanwhile can't be written to "
            f"{file(data_dir).parent} ({reason})"
        ) from None
