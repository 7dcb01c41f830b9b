"""How old the secrets are whose age is known: those in files, by when the file was written."""

from __future__ import annotations

import re
from pathlib import Path

_OF_A_FILE = re.compile(r"file (.+) \((\w+)_FILE\)")


def written(origins: dict[str, str], generated: dict[str, Path]) -> dict[str, float]:
    """When, in Unix seconds by variable. `origins` says where each variable was set (settings.Loaded.origin),
    `generated` where each lies that was made on first start and is set nowhere."""
    files = {name: path for name, path in generated.items() if origins.get(name, "default") == "default"}
    for name, origin in origins.items():
        match = _OF_A_FILE.fullmatch(origin)
        if match is not None and match[2] == name:
            files[name] = Path(match[1])
    found = {}
    for name, path in sorted(files.items()):
        try:
            found[name] = path.stat().st_mtime
        except OSError:
            continue  # not made yet, or not ours to look at
    return found
