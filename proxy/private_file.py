"""Files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: Path, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace the file at ``path`` in one step: a reader sees the old content or the new, never a part.

    ``owner`` is (user id, group id). Raises OSError, and leaves nothing of the new file behind then.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # created with mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # or the rename itself could be lost when the power fails
    finally:
        os.close(directory)


def tighten(path: Path) -> bool:
    """Take group's and others' rights from a file of ours; True where it had any. Raises OSError."""
    mode = path.stat().st_mode
    if not mode & 0o077:
        return False
    path.chmod(mode & 0o700)
    return True
