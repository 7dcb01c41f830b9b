"""The register of variables: those of Settings, and those listed for MLflow."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from proxy.identity import Role
from proxy.settings.fields import GROUPS, Settings
from proxy.settings.names import FILE_PASSTHROUGH, OUR_PREFIXES
from proxy.settings.values import size_text


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable as the docs, the command line and the table of `mlflow-proxy check` show it."""

    name: str
    group: str
    description: str
    attribute: str = ""
    """Its field in Settings; empty where the variable is not read by us."""
    default: str = ""
    """The default as a person would write it; empty where there is none."""
    default_note: str = ""
    example: str = ""
    secret: bool = False
    is_path: bool = False
    kind: str = ""
    """How its value is written, where the type does not say: ``size``, ``list`` or ``arguments``."""

    @property
    def option(self) -> str | None:
        """Its command-line option; none for a secret, since any local user can read an argument."""
        if self.secret or not self.attribute:
            return None
        return "--" + self.name.partition("_")[2].lower().replace("_", "-")

    @property
    def in_files(self) -> bool:
        """Whether NAME_FILE may give it. Not what says which files are read."""
        return self.name not in ("PROXY_ENV", "PROXY_ENV_FILE")


def as_text(value: Any, kind: str = "") -> str:
    """A setting's value as a person would write it, so that it reads back the same; a secret as ***."""
    match value:
        case None:
            return ""
        case SecretStr():
            return "***" if value.get_secret_value() else ""
        case bool():
            return "on" if value else "off"
        case Role():
            return value.name.lower()
        case int() if kind == "size":
            return size_text(value)
        case float():
            return f"{value:.15g}"
        case (str() as host, int() as port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case tuple() if kind == "arguments":
            return shlex.join(value)
        case tuple():
            return ",".join(as_text(each, "") for each in value)
        case Path() if not value.is_absolute():
            return f"./{value}"
        case _:
            return str(value)


def _settings() -> Iterable[Variable]:
    def place(named: tuple[str, Any]) -> int:
        return GROUPS.index(named[1].json_schema_extra["group"])

    for attribute, field in sorted(Settings.model_fields.items(), key=place):
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        type_name = str(field.annotation)
        kind = next((mark for mark in field.metadata if isinstance(mark, str)), "")
        yield Variable(
            name=str(field.validation_alias),
            group=str(extra["group"]),
            description=str(field.description),
            attribute=attribute,
            default=as_text(field.default, kind),
            default_note=str(extra["default_note"]),
            example=str(extra["example"]),
            secret="SecretStr" in type_name,
            is_path="Path" in type_name,
            kind=kind,
        )


LISTED = (
    Variable(
        "MLFLOW_S3_ENDPOINT_URL",
        "Storage",
        "The address of an S3 that is not Amazon's, such as MinIO. Goes to MLflow.",
        example="https://minio.example.com:9000",
    ),
    Variable("AWS_ACCESS_KEY_ID", "Storage", "The key's name for S3. Goes to MLflow.", secret=True),
    Variable("AWS_SECRET_ACCESS_KEY", "Storage", "The key for S3. Goes to MLflow.", secret=True),
    Variable(
        "AZURE_STORAGE_CONNECTION_STRING",
        "Storage",
        "The connection string for Azure Blob Storage. Goes to MLflow.",
        secret=True,
    ),
    Variable(
        "AZURE_STORAGE_ACCESS_KEY",
        "Storage",
        "The account's key for Azure Blob Storage. Goes to MLflow.",
        secret=True,
    ),
    Variable(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "Storage",
        "The file with a service account's key for Google Cloud Storage. Goes to MLflow.",
        example="/etc/gcs/key.json",
    ),
)

SETTINGS: dict[str, Variable] = {variable.name: variable for variable in _settings()}
"""The variables of Settings, by name, in the order of the docs."""

KNOWN: dict[str, Variable] = SETTINGS | {variable.name: variable for variable in LISTED}
"""Every variable that the docs list, by name."""

FILE_NAMES: dict[str, str] = {
    f"{name}_FILE": name
    for name in sorted({name for name, variable in KNOWN.items() if variable.in_files} | FILE_PASSTHROUGH)
    # That one is the name of a file already: a file with a name in it is not what a person would mean.
    if name != "GOOGLE_APPLICATION_CREDENTIALS"
}
"""NAME_FILE to NAME, for everything that may be read from a file."""


def options() -> list[tuple[str, str, str]]:
    """The command-line options: flag, variable, help. Secrets have none."""
    return [
        (variable.option, variable.name, variable.description)
        for variable in SETTINGS.values()
        if variable.option
    ]


def nearest(name: str, *, cutoff: float = 0.6) -> str | None:
    """The known name that ``name`` is most likely meant to be."""
    # A name whose end was forgotten looks more like a short other one than like itself.
    longer = [known for known in KNOWN if known.startswith(f"{name}_")]
    if name.startswith(OUR_PREFIXES) and len(longer) == 1:
        return longer[0]
    candidates = [*KNOWN, *FILE_NAMES] if name.endswith("_FILE") else list(KNOWN)
    return next(iter(difflib.get_close_matches(name, candidates, 1, cutoff)), None)


def nearest_of_the_user(name: str) -> str | None:
    """What an unknown MLFLOW_TRACKING_* name is most likely meant to be: the user's name or password, or
    None, as most others are settings of MLflow's client and none of ours.
    """
    if name in KNOWN or name in FILE_NAMES:
        return None
    prefix = "MLFLOW_TRACKING_"
    end = "_FILE" if name.endswith("_FILE") else ""
    # Without what they have in common, or every name with this beginning would be near.
    rest = name.removeprefix(prefix).removesuffix(end)
    close = difflib.get_close_matches(rest, ("USERNAME", "PASSWORD"), 1)
    return f"{prefix}{close[0]}{end}" if close else None
