"""Where settings come from: command line, environment, files of secrets, mlflow.env, config/settings.yaml."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dotenv.parser import parse_stream
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from proxy.settings import yaml_text
from proxy.settings.fields import Settings
from proxy.settings.variables import SETTINGS

_MOST_BYTES = 1 << 20
_KEY = secrets.token_bytes(16)


class Problems(list[str]):
    """Everything that is wrong so far, a line each; nothing in a line can break it or hold a secret."""

    def add(self, name: str, origin: str, what: str) -> None:
        line = f"{name} ({origin}): {what}" if name else f"{origin}: {what}"
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
        if line not in self:
            self.append(line)


class Source(PydanticBaseSettingsSource):
    """One source: the text that it gives to each variable, and what to call it. Empty text is none."""

    def __init__(self, origin: str, texts: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.origin = origin
        self.texts = {name: text for name, text in texts.items() if text.strip()}

    def origin_of(self, name: str) -> str:
        return self.origin

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = str(field.validation_alias)
        return self.texts.get(variable), variable, False

    def __call__(self) -> dict[str, Any]:
        return {name: text for name, text in self.texts.items() if name in SETTINGS}


class FileRead(NamedTuple):
    """A file that gave a variable its value."""

    path: Path
    mark: bytes
    """Of what stood in it (`mark_of`)."""


class SecretFiles(Source):
    """The values read from files that NAME_FILE names; each value has its file as its origin."""

    def __init__(
        self, origins: Mapping[str, str], texts: Mapping[str, str], files: Mapping[str, FileRead]
    ) -> None:
        super().__init__("file", texts)
        self._origins = origins
        self.files = dict(files)

    def origin_of(self, name: str) -> str:
        return self._origins[name]


@dataclass
class Read:
    """A file read as settings: its texts by name as written, with what to call the file."""

    origin: str
    texts: dict[str, str] = field(default_factory=dict)


def read_text(path: Path) -> str:
    """A small UTF-8 file's text. Raises ValueError saying why it can't be had, without its contents."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {os.strerror(error.errno or 0)}") from None
    except ValueError:
        raise ValueError(f"{str(path)!r} is not a path") from None
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path} is larger than 1 MiB: that is no setting")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def mark_of(text: str) -> bytes:
    """By which another reading of a file is told from this one; it means nothing outside this process."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=_KEY).digest()


def read_env_file(path: Path, origin: str, problems: Problems, *, named_in: str = "") -> Read:
    """python-dotenv's format, and nothing filled in for ``$``: a password may hold one.

    ``named_in`` is where PROXY_ENV_FILE names it, if that does.
    """
    read = Read(origin)
    try:
        text = read_text(path)
    except ValueError as error:
        problems.add("PROXY_ENV_FILE" if named_in else "", named_in or origin, str(error))
        return read
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            # The line is not shown: it may be the rest of a secret that was pasted over several lines.
            # Empty lines before it belong to the same binding.
            original = binding.original
            blank = original.string[: -len(original.string.lstrip()) or None].count("\n")
            problems.add(
                "", origin, f"line {original.line + blank} is not NAME=value; is a quotation mark missing?"
            )
        elif binding.key is not None and binding.value is not None:
            read.texts[binding.key] = binding.value
    return read


def read_yaml(path: Path, origin: str, problems: Problems) -> Read:
    """The ``mlflow`` section of a YAML file; names in capitals whatever they were written in."""
    read = Read(origin)
    try:
        document = yaml_text.document(read_text(path))
    except yaml_text.Malformed as error:
        problems.add(error.name, origin, str(error))
        return read
    except ValueError as error:
        problems.add("", origin, str(error))
        return read
    if document is None:
        return read
    if not isinstance(document, dict):
        problems.add("", origin, "is not a mapping: settings stand in a section `mlflow:`")
        return read
    _check_sections(document, origin, problems)
    section = document.get("mlflow")
    if section is not None and not isinstance(section, dict):
        problems.add("mlflow", origin, "is not a mapping: it holds lines such as `MLFLOW_PORT: 8443`")
        return read
    for key, value in (section or {}).items():
        name = str(key).upper()
        if name in read.texts:
            problems.add(name, origin, "set twice, in capitals and in small letters")
        try:
            read.texts[name] = _yaml_text(name, value)
        except ValueError as error:
            problems.add(name, origin, str(error))
    return read


def _check_sections(document: Mapping[object, object], origin: str, problems: Problems) -> None:
    """Other programs' sections are left alone, but what was meant for ours is not lost in silence."""
    for key in document:
        name = str(key)
        if name.upper() in SETTINGS or name.upper().startswith(("PROXY_", "MLFLOW_")):
            problems.add(name, origin, "belongs into the section `mlflow:`, indented by two spaces")
        elif name != "mlflow" and name.lower() in (
            "mlflow",
            "mlfow",
            "mflow",
            "ml_flow",
            "ml-flow",
            "mlflow-proxy",
        ):
            problems.add(name, origin, "unknown section; the settings' section is called `mlflow`")


def _yaml_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    variable = SETTINGS.get(name)
    if isinstance(value, list) and variable and variable.kind in ("arguments", "list"):
        parts = [_yaml_text("", part) for part in value]
        return shlex.join(parts) if variable.kind == "arguments" else ",".join(parts)
    raise ValueError("is not a single value")


def named_files(
    reads: Iterable[Read],
    file_names: Mapping[str, str],
    settled: Iterable[str],
    directory: Path,
    problems: Problems,
) -> SecretFiles:
    """Reads the file that each NAME_FILE names, from the strongest source that has one.

    A NAME in ``settled`` was set more strongly and its file is not read. One line break at the file's end is
    no part of the value.
    """
    origins: dict[str, str] = {}
    texts: dict[str, str] = {}
    files: dict[str, FileRead] = {}
    settled = set(settled)
    for read in reads:
        for file_name, path_text in read.texts.items():
            name = file_names.get(file_name)
            if name is None or name in settled or not path_text.strip():
                continue
            settled.add(name)
            path = directory / path_text.strip()
            try:
                text = read_text(path)
                files[name] = FileRead(path, mark_of(text))
                text = text.removesuffix("\n").removesuffix("\r")
                if not text.strip():
                    raise ValueError(f"{path} is empty: write the value into it, or leave {file_name} out")
            except ValueError as error:
                problems.add(file_name, read.origin, str(error))
                continue
            texts[name] = text
            origins[name] = f"file {path} ({file_name})"
    return SecretFiles(origins, texts, files)
