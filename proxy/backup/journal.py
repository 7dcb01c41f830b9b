"""How far a restore came, in a file of the data directory, so that another call goes on there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from proxy import private_file
from proxy.errors import UserError

NAME = "restore.json"


def check_finished(data_dir: Path) -> None:
    """Before what a restore has brought is used. Raises UserError where one has broken off."""
    path = data_dir.absolute() / "backup" / NAME
    try:
        name = str(json.loads(path.read_bytes())["set"])
    except (OSError, ValueError, TypeError, KeyError):
        return
    raise UserError(
        f"a restore of the backup {name} has not come to its end here: run `mlflow-proxy restore {name}` "
        f"again, and it goes on; or remove {path}, and what is there now is used as it is"
    )


class Journal:
    """One restore's. `told` says what is brought from where: what a restore of anything else has left is not
    gone on with."""

    def __init__(self, folder: Path, told: Mapping[str, str]) -> None:
        self._path = folder / NAME
        self._told = told
        self._states: dict[str, str] = {}
        self.goes_on = False
        """Whether it was begun by an earlier call."""
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError):
            found = json.loads(self._path.read_bytes())
            states = found.pop("states")
            if found == told:
                self._states = dict(states)
                self.goes_on = True

    def state(self, what: str) -> str:
        """Of one thing in its place: ``begun``, ``done``, or empty."""
        return self._states.get(what, "")

    def note(self, what: str, state: str) -> None:
        """Raises OSError."""
        self._states[what] = state
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.write(self._path, json.dumps({**self._told, "states": self._states}).encode())

    def over(self) -> None:
        """All of it is done."""
        self._path.unlink(missing_ok=True)
