"""What is usual, kept in a file from one review to the next."""

from __future__ import annotations

from pathlib import Path

import orjson

from proxy import private_file
from proxy.errors import UserError
from proxy.review.profiles import Learned

_FORM = 1


def load(path: Path) -> Learned:
    """What the file holds; nothing yet where there is none. Raises UserError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Learned()
    except OSError as error:
        raise UserError(f"--learned {path} can't be read: {error.strerror or error}.") from None
    try:
        said = orjson.loads(data)
        if said["form"] != _FORM:
            raise ValueError(said["form"])
        return Learned.of_json(said["learned"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--learned {path} is no file of a review's; name another, or remove it.") from None


def save(path: Path, learned: Learned) -> None:
    """Replace the file in one step; for its owner alone. Raises UserError."""
    data = orjson.dumps({"form": _FORM, "learned": learned.as_json()})
    try:
        private_file.write(path, data)
    except OSError as error:
        raise UserError(f"--learned {path} can't be written: {error.strerror or error}.") from None
