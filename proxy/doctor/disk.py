"""The disks: room, files that can still be made, and whether anything can be written."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from proxy.doctor.case import Case
from proxy.doctor.result import Result, failure, ok, warning
from proxy.probes.looks import LEAST_BYTES, LEAST_FREE
from proxy.settings import artifact_destination

SECONDS = 20.0
_FULL = 64 * 2**20
"""Bytes with less of which nothing goes well."""
_LEAST_INODES = 0.02


def disk(case: Case) -> Iterator[Result]:
    """Each disk that something of the service lies on."""
    looked: set[int] = set()
    for what, path, names in _places(case):
        there = _nearest(path)
        try:
            device = there.stat().st_dev
            if device in looked:
                continue
            looked.add(device)
            yield _room(what, there, names)
        except OSError as error:
            yield failure(
                what, f"{path} can't be looked at ({error.strerror})", f"look at its rights ({names})"
            )
    if case.settings.data_dir.is_dir():
        yield _written(case.settings.data_dir)


def _places(case: Case) -> Iterator[tuple[str, Path, str]]:
    settings = case.settings
    yield "data", settings.data_dir, "PROXY_DATA_DIR"
    root = artifact_destination(settings)
    if "://" not in root:
        yield "artifacts", Path(root), "MLFLOW_DEFAULT_ARTIFACT_ROOT"
    temporary = case.environ.get("TMPDIR") or tempfile.gettempdir()
    yield "temporary", Path(temporary), "TMPDIR; artifacts of a bucket pass through it"
    for name, value in (
        ("PROXY_LOG_FILE", settings.log_file),
        ("PROXY_ACCESS_LOG_FILE", settings.access_log_file),
        ("PROXY_AUDIT_FILE", settings.audit_file),
    ):
        if value is not None:
            yield "logs", Path(value).parent, name


def _nearest(path: Path) -> Path:
    """That directory, or the nearest one above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _room(what: str, path: Path, names: str) -> Result:
    found = os.statvfs(path)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    said = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free at {path}"
    mend = f"make room (docs/runbooks/disk.md), or name another place ({names})"
    if free < min(_FULL, total // 2):
        return failure(what, f"the disk is full: {free / 2**20:.0f} MiB are free at {path}", mend)
    if found.f_files and found.f_favail < _LEAST_INODES * found.f_files:
        return warning(what, f"no more than {found.f_favail} files can be made at {path} (inodes)", mend)
    if free <= min(LEAST_FREE * total, LEAST_BYTES):
        return warning(what, said, mend)
    return ok(what, said)


def _written(path: Path) -> Result:
    """A small file is written through to the disk and removed: a quota, or a disk gone read-only, shows."""
    probe = path / f".doctor-{secrets.token_hex(8)}"
    try:
        file = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            content = b"\0" * 65536
            if os.write(file, content) != len(content):
                raise OSError(28, "No space left on device")
            os.fsync(file)
        finally:
            os.close(file)
            probe.unlink()
    except OSError as error:
        return failure(
            "write",
            f"{path} can't be written to: {error.strerror}",
            "make room, lift the quota, or give the directory to the service's user",
        )
    return ok("write", f"{path} can be written to")
