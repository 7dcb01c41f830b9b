"""Sets as they lie at their place: found, checked against their manifests, opened."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.backup import manifest as manifests
from proxy.backup import sealing, streams
from proxy.backup.manifest import ArtifactsEntry, Manifest, NoManifest
from proxy.backup.places import Place
from proxy.backup.streams import BrokenBackup, Reader, Stored
from proxy.errors import UserError

__all__ = [
    "Artifact",
    "BrokenBackup",
    "artifacts",
    "copy",
    "damage",
    "incomplete",
    "newest",
    "part",
    "set_named",
    "sets",
    "unreadable",
]

_LINE = 2**20


class Artifact(NamedTuple):
    """One artifact of a set's list."""

    path: str
    """Below the artifacts' root."""
    size: int
    etag: str
    version: str
    modified: float
    digest: str
    """SHA-256; empty where nothing but the store's ETag is known."""
    copy: str
    """The name of its copy at the place; empty where none was made."""
    copy_bytes: int
    copy_digest: str

    @property
    def stored(self) -> Stored:
        return Stored(self.copy, self.copy_bytes, self.copy_digest, self.size, self.digest)


def names(place: Place) -> dict[str, bool]:
    """The names of all that lies where sets do, oldest first; whether each has its manifest."""
    found: dict[str, bool] = {}
    for entry in place.entries(manifests.FOLDER):
        name, _, file = entry.name.removeprefix(manifests.FOLDER).partition("/")
        if file and manifests.NAME.fullmatch(name):
            found[name] = found.get(name, False) or file == manifests.FILE
    return dict(sorted(found.items()))


def sets(place: Place) -> list[Manifest]:
    """Every set whose manifest can be read, oldest first."""
    return [found for name, whole in names(place).items() if whole and (found := _manifest(place, name))]


def unreadable(place: Place) -> list[str]:
    """What is wrong with each manifest that can't be read, a line each."""
    found = []
    for name, whole in names(place).items():
        if whole:
            try:
                _read(place, name)
            except NoManifest as error:
                found.append(str(error))
    return found


def newest(place: Place) -> Manifest:
    """The newest set. Raises UserError where there is none, BrokenBackup where its manifest is damaged: an
    older set in its stead would be a surprise."""
    whole = [name for name, has in names(place).items() if has]
    if not whole:
        raise UserError(f"{place.text} holds no backup")
    return set_named(place, whole[-1])


def set_named(place: Place, name: str) -> Manifest:
    """That set. Raises UserError where there is none, BrokenBackup where its manifest is damaged."""
    try:
        found = _read(place, name)
    except NoManifest as error:
        raise BrokenBackup(str(error)) from None
    if found is None:
        raise UserError(f"{place.text} holds no backup {name}: `mlflow-proxy backup list` names those it has")
    return found


def incomplete(place: Place, manifest: Manifest) -> str | None:
    """What is missing of it or has another size; None where all is there. Reads nothing."""
    for one in manifest.parts:
        if problem := streams.missing(place, manifest.part(one.name)):
            return problem
    return None


def damage(place: Place, manifest: Manifest, tick: Callable[[int], None] = lambda _: None) -> str | None:
    """What is wrong with its parts, copies of artifacts apart: all are read and their digests compared. No
    key is needed. None where all is well."""
    for one in manifest.parts:
        if problem := streams.damage(place, manifest.part(one.name), tick):
            return problem
    return None


@contextlib.contextmanager
def part(place: Place, manifest: Manifest, name: str, key: sealing.Key | None) -> Iterator[Reader]:
    """Its plain bytes; leaving the block makes sure that all was right. Raises BrokenBackup."""
    with streams.reading(place, manifest.part(name), key) as reader:
        yield reader


def artifacts(place: Place, manifest: Manifest, key: sealing.Key | None) -> Iterator[Artifact]:
    """Its list of artifacts, none where it has no list. Raises BrokenBackup, also after some."""
    if manifest.artifacts is None:
        return
    with part(place, manifest, manifest.artifacts.part, key) as reader:
        for line in lines(reader):
            try:
                artifact = Artifact(**json.loads(line))
            except (ValueError, TypeError):
                raise reader.broken("it was changed") from None
            yield artifact


@contextlib.contextmanager
def copy(place: Place, artifact: Artifact, key: sealing.Key | None) -> Iterator[Reader]:
    """The bytes of an artifact that was copied; leaving the block makes sure that they were right."""
    try:
        with streams.reading(place, artifact.stored, key) as reader:
            yield reader
    except BrokenBackup as broken:
        raise BrokenBackup(f"the artifact {artifact.path}: {broken}") from None


def copy_names(place: Place, entry: ArtifactsEntry, manifest: Manifest) -> Iterator[str]:
    """The copies that a set needs; never encrypted."""
    with part(place, manifest, entry.copies, None) as reader:
        for line in lines(reader):
            yield line.decode()


def lines(reader: Reader) -> Iterator[bytes]:
    left = b""
    while data := reader.read(_LINE):
        *whole, left = (left + data).split(b"\n")
        yield from whole
        if len(left) > _LINE:  # no path is that long: it would be held in memory to its end
            raise reader.broken("it was changed")
    if left:
        yield left


def _manifest(place: Place, name: str) -> Manifest | None:
    try:
        return _read(place, name)
    except NoManifest:
        return None


def _read(place: Place, name: str) -> Manifest | None:
    file = f"{manifests.FOLDER}{name}/{manifests.FILE}"
    found = place.get(file)
    if found is None:
        return None
    read = manifests.parse(found[0], f"{place.text}/{file}")
    if read.set != name:
        raise NoManifest(f"{place.text}/{file} was changed: it is that of the set {read.set}")
    return read
