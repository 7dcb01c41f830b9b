"""What a set says of itself: its manifest, which is written last, so that a set without one is none."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.backup.databases import Table
from proxy.backup.streams import Stored

FORMAT = 1
FOLDER = "sets/"
FILE = "manifest.json"
NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
"""Of a set (`new_name`); what has another lies there by somebody else's doing."""


class NoManifest(ValueError):
    """The text is no manifest of ours, or it was changed; says which."""


@dataclass(frozen=True, slots=True)
class DatabaseEntry:
    """One database of a set."""

    role: str
    roles: tuple[str, ...]
    """All that it serves: tracking, registry, workspaces, proxy, permissions."""
    kind: str
    server: str
    place: str
    """Where it was, for people; without a password."""
    revision: str
    """MLflow's version of the tables; empty where it has none of them."""
    moment: float
    part: str
    tables: Mapping[str, Table]


@dataclass(frozen=True, slots=True)
class ArtifactsEntry:
    """The artifacts of a set."""

    root: str
    part: str
    """The list of them."""
    count: int
    bytes: int
    copied: bool
    copies: str
    """The part that names the copies; empty where none were made."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One set. Times are Unix seconds."""

    set: str
    moment: float
    """Of the data: nothing later than that is in it for certain."""
    began: float
    finished: float
    host: str
    versions: Mapping[str, str]
    encryption: tuple[str, ...]
    """The public keys; empty where it is not encrypted."""
    databases: tuple[DatabaseEntry, ...]
    artifacts: ArtifactsEntry | None
    parts: tuple[Stored, ...]

    @property
    def stored_bytes(self) -> int:
        """Of all parts as they are stored, without copies of artifacts."""
        return sum(part.bytes for part in self.parts)

    def part(self, name: str) -> Stored:
        """The part, under its whole name at the place."""
        found = next(part for part in self.parts if part.name == name)
        return found._replace(name=f"{FOLDER}{self.set}/{name}")

    def database(self, role: str) -> DatabaseEntry | None:
        """The one that serves as that."""
        return next((entry for entry in self.databases if role in entry.roles), None)

    @property
    def source(self) -> str:
        """Where the tracking database was. Sets of another are another service's, or of before it moved."""
        entry = self.database("tracking")
        return entry.place if entry is not None else ""

    @property
    def name(self) -> str:
        """Of its file at the place."""
        return f"{FOLDER}{self.set}/{FILE}"

    def text(self) -> bytes:
        """As it is written."""
        told: dict[str, Any] = {
            "format": FORMAT,
            "set": self.set,
            "moment": self.moment,
            "began": self.began,
            "finished": self.finished,
            "host": self.host,
            "versions": dict(self.versions),
            "compression": "zstd",
            "encryption": {"format": "age", "recipients": list(self.encryption)} if self.encryption else None,
            "databases": [
                {
                    "role": entry.role,
                    "roles": list(entry.roles),
                    "kind": entry.kind,
                    "server": entry.server,
                    "place": entry.place,
                    "revision": entry.revision,
                    "moment": entry.moment,
                    "part": entry.part,
                    "tables": {name: table._asdict() for name, table in sorted(entry.tables.items())},
                }
                for entry in self.databases
            ],
            "artifacts": None
            if self.artifacts is None
            else {
                "root": self.artifacts.root,
                "part": self.artifacts.part,
                "count": self.artifacts.count,
                "bytes": self.artifacts.bytes,
                "copied": self.artifacts.copied,
                "copies": self.artifacts.copies,
            },
            "parts": [part._asdict() for part in self.parts],
        }
        told["digest"] = _digest(told)
        return json.dumps(told, indent=1).encode() + b"\n"


def parse(data: bytes, where: str) -> Manifest:
    """The manifest in a file. Raises NoManifest, also where a byte of it was changed."""
    try:
        told = json.loads(data)
        digest = told.pop("digest")
        if told["format"] != FORMAT:
            raise NoManifest(f"{where} is of a newer mlflow-proxy (format {told['format']}): use that one")
        if digest != _digest(told):
            raise NoManifest(f"{where} was changed: its digest is another")
        artifacts = told["artifacts"]
        found = Manifest(
            told["set"],
            told["moment"],
            told["began"],
            told["finished"],
            told["host"],
            told["versions"],
            tuple((told["encryption"] or {}).get("recipients", ())),
            tuple(_database(entry) for entry in told["databases"]),
            None if artifacts is None else ArtifactsEntry(**artifacts),
            tuple(Stored(**part) for part in told["parts"]),
        )
        _check(found)
        return found
    except NoManifest:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoManifest(f"{where} is cut short or was changed") from None


def new_name(now: float) -> str:
    """A set's name: its beginning in UTC, the part of the second in hexadecimal, so that names are in the
    order of time, and three digits of chance."""
    part = f"{int(now % 1 * 0x1000):03x}"
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}-{part}{secrets.token_hex(2)[:3]}"


def _check(manifest: Manifest) -> None:
    """Whoever wrote it can have given it its digest. Raises ValueError where nothing can be made of it."""
    wanted = {entry.part for entry in manifest.databases}
    if manifest.artifacts is not None:
        wanted |= {manifest.artifacts.part, manifest.artifacts.copies} - {""}
    numbers = [
        manifest.moment,
        *(number for part in manifest.parts for number in (part.bytes, part.plain_bytes)),
    ]
    if not wanted <= {part.name for part in manifest.parts} or not all(
        isinstance(number, int | float) for number in numbers
    ):
        raise ValueError


def _database(told: dict[str, Any]) -> DatabaseEntry:
    tables = {name: Table(**table) for name, table in told.pop("tables").items()}
    return DatabaseEntry(roles=tuple(told.pop("roles")), tables=tables, **told)


def _digest(told: Mapping[str, Any]) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
