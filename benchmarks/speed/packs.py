"""The UI's files, compressed once for all that is measured.

The proxy does that itself, at idle priority, in the first two minutes of its first life; what is measured in
them would have the other core's work in its figures.
"""

from __future__ import annotations

import functools
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from proxy.ui import files


def put_into(data: Path) -> None:
    """Make a data directory that has the packs. Exits where they can't be made."""
    data.mkdir(mode=0o700)
    shutil.copytree(made(), data / "ui")


@functools.cache
def made() -> Path:
    """A folder with them, of which others make copies; it lasts as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="bench-packs-")
    _kept.append(folder)
    root = files.folder()
    if root is None:
        sys.exit("the installed MLflow has no UI of its own: run scripts/setup dev")
    digest = files.scan(root).digest
    name = f"{importlib.metadata.version('mlflow')}-{digest[:16]}.best"
    command = [
        sys.executable,
        "-m",
        "proxy.ui.prepare",
        str(root),
        str(Path(folder.name) / name),
        digest,
        "best",
    ]
    if subprocess.run(command).returncode:
        sys.exit("the UI's files could not be compressed")
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []
