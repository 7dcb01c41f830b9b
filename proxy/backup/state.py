"""What the latest backup and the latest drill came to, in a file that the service's metrics are read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy import private_file


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
    path = file(data_dir)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = read(data_dir)
    found[section] = {**found.get(section, {}), **values}
    private_file.write(path, json.dumps(found, indent=1).encode() + b"\n")
