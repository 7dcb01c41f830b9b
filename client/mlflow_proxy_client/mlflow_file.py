"""MLflow's own file of credentials, ~/.mlflow/credentials: one user name and password, for any server."""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable
from pathlib import Path

from mlflow_proxy_client.credentials import folder, write_private
from mlflow_proxy_client.errors import Problem, plain

_SECTION = "mlflow"
_USER, _PASSWORD = "mlflow_tracking_username", "mlflow_tracking_password"
_HEADER = re.compile(r"\[(?P<name>.+)\]")
_OPTION = re.compile(r"(?P<name>[^\s=:#;][^=:]*?)\s*[=:]")


def path() -> Path:
    """The file that MLflow's client reads (mlflow/utils/credentials.py)."""
    return folder() / "credentials"


def read() -> tuple[str | None, str | None]:
    """The user name and password that MLflow's client finds there. Raises Problem where it would fail too."""
    return _parsed(_text())


def write(user: str, token: str) -> None:
    """Put the token where every later call of MLflow's client finds it; what else the file holds is kept.

    Raises Problem.
    """
    # Sent as Basic, in which a user name has no colon (RFC 7617); the server goes by the token alone.
    name = user if user and ":" not in user and user.isprintable() and user == user.strip() else "token"
    lines = [f"{_USER} = {name.replace('%', '%%')}\n", f"{_PASSWORD} = {token}\n"]
    text = _without(_text())
    found = re.search(rf"^\[{_SECTION}\][^\n]*\n?", text, re.MULTILINE)
    if found is None:
        text = text and text.rstrip("\n") + "\n\n"
        text += f"[{_SECTION}]\n" + "".join(lines)
    else:
        text = text[: found.start()] + f"[{_SECTION}]\n" + "".join(lines) + text[found.end() :]
    _replace(text, lambda have: have == (name, token))


def remove(token: str) -> bool:
    """Take it out again; False where the file has another credential, or none."""
    text = _text()
    if _parsed(text)[1] != token:
        return False
    text = _without(text)
    bare = configparser.ConfigParser()
    bare.read_string(text)
    if not any(bare[section] for section in bare) and bare.sections() in ([], [_SECTION]) and "#" not in text:
        path().unlink(missing_ok=True)
    else:
        _replace(text, lambda have: have == (None, None))
    return True


def _replace(text: str, right: Callable[[tuple[str | None, str | None]], bool]) -> None:
    # Before it is written: MLflow reads it on every call, and a file that it can't read would end them all.
    if not right(_parsed(text)):
        raise Problem(f"{path()} has lines that this can't change; take its user name and password out first")
    write_private(path(), text.encode())


def _text() -> str:
    try:
        return path().read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path()} can't be read: {plain(error)}") from None


def _parsed(text: str) -> tuple[str | None, str | None]:
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text)
        return parser.get(_SECTION, _USER, fallback=None), parser.get(_SECTION, _PASSWORD, fallback=None)
    except configparser.Error as error:
        raise Problem(f"{path()} can't be read by MLflow either: {plain(error)}") from None


def _without(text: str) -> str:
    """The text without our two options, and without the lines that continue them."""
    kept, section, within = [], "", False
    for line in text.splitlines(keepends=True):
        if header := _HEADER.match(line):
            section, within = header["name"], False
        elif not line[:1].isspace():
            option = _OPTION.match(line)
            name = option["name"].lower() if option else ""
            within = section == _SECTION and name in (_USER, _PASSWORD)
        if not within or not line.strip():
            kept.append(line)
    return "".join(kept)
