"""A directory as a place: a file is written beside its name, and renamed when it is whole and on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from proxy.backup.places.place import Entry, Place, PlaceFailed, Replaced, Sink, Source

_PART = ".part-mlflow-proxy-"


class Tree(Place):
    """All below one directory, which is made (mode 0700) at the first write."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = self._path(prefix.rpartition("/")[0])
        self.links = []
        with self._said("listed", folder):
            for path, found in _walk(folder, links=self.links):
                name = path.relative_to(self.path).as_posix()
                if name.startswith(prefix):
                    yield _entry(name, found)

    def stat(self, name: str) -> Entry | None:
        path = self._path(name)
        with self._said("looked at", path):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _entry(name, found) if S_ISREG(found.st_mode) else None

    def create(self, name: str) -> Sink:
        path = self._path(name)
        with self._said("written", path):
            self._folder(path.parent)
            return _Writing(self, path)

    def remove(self, name: str) -> None:
        path = self._path(name)
        with self._said("removed", path):
            path.unlink(missing_ok=True)
            # What is empty then goes too, so that nothing looks as if it were a set.
            for folder in path.parents:
                if folder == self.path or not folder.is_relative_to(self.path):
                    return
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:
                    return

    def put_new(self, name: str, data: bytes) -> str | None:
        path = self._path(name)
        with self._said("written", path):
            self._folder(path.parent)
            with _Writing(self, path) as writing:
                writing.write(data)
                temporary = writing.synced()
                try:
                    # Unlike a rename it fails where there is one, also on NFS.
                    path.hardlink_to(temporary)
                except FileExistsError:
                    return None
                return _entry(name, path.stat()).etag

    def exchange(self, name: str, data: bytes, etag: str) -> str | None:
        path = self._path(name)
        with self._said("written", path), _turn(path):
            found = self.stat(name)
            if found is None or found.etag != etag:
                return None
            with _Writing(self, path) as writing:
                writing.write(data)
                writing.commit()
            return _entry(name, path.stat()).etag

    def get(self, name: str) -> tuple[bytes, str] | None:
        path = self._path(name)
        with self._said("read", path):
            try:
                with path.open("rb") as file:
                    return file.read(), _entry(name, os.fstat(file.fileno())).etag
            except (FileNotFoundError, NotADirectoryError):
                return None

    def tidy(self, prefix: str) -> None:
        name, _, beginning = prefix.rpartition("/")
        folder = self._path(name)
        with self._said("tidied", folder):
            if beginning:
                for path in folder.glob(f"{_PART}*"):
                    path.unlink(missing_ok=True)
                return
            for path, _ in _walk(folder, parts=True):
                if path.name.startswith(_PART):
                    path.unlink(missing_ok=True)
            # A folder that was made for something that did not come looks as if that were there.
            for name, _, _ in os.walk(folder, topdown=False):
                if Path(name) != self.path:
                    with contextlib.suppress(OSError):
                        Path(name).rmdir()

    def _open(self, name: str, offset: int, etag: str) -> Source:
        path = self._path(name)
        with self._said("read", path):
            file = path.open("rb")
            found = _entry(name, os.fstat(file.fileno())).etag
            if etag and found != etag:
                file.close()
                raise Replaced(f"{path} was replaced meanwhile")
            file.seek(offset)
            return _Reading(self, path, file, found)

    def _path(self, name: str) -> Path:
        if any(part in ("..", ".") for part in name.split("/")) or name.startswith("/") or "\0" in name:
            raise PlaceFailed(f"{self.text}: {name!r} is no name of something in it")
        return self.path / name

    def _folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _said(self, what: str, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = ": make room" if full else ""
            raise self.failed(path, what, f"{error.strerror or error}{hint}") from None


class _Writing(Sink):
    def __init__(self, tree: Tree, path: Path) -> None:
        super().__init__()
        self._tree = tree
        self._path = path
        handle, name = tempfile.mkstemp(prefix=_PART, dir=path.parent)  # mode 0600
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "wb")

    def write(self, data: bytes, /) -> int:
        with self._tree._said("written", self._path):
            return self._file.write(data)

    def synced(self) -> Path:
        """Its whole content is on the disk, at this path for now."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._temporary

    def _finish(self) -> None:
        with self._tree._said("written", self._path):
            self.synced()
            self._file.close()
            self._temporary.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class _Reading(Source):
    def __init__(self, tree: Tree, path: Path, file: BinaryIO, etag: str) -> None:
        super().__init__(etag)
        self._tree = tree
        self._path = path
        self._file = file

    def read(self, size: int, /) -> bytes:
        with self._tree._said("read", self._path):
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()


def _walk(
    folder: Path, *, parts: bool = False, links: list[str] | None = None
) -> Iterator[tuple[Path, os.stat_result]]:
    """Every regular file below, links not followed but named; what goes away meanwhile is left out."""
    left = [folder]
    while left:
        try:
            found = sorted(os.scandir(left.pop()), key=lambda one: one.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for one in found:
            if one.is_dir(follow_symlinks=False):
                left.append(Path(one.path))
            elif one.is_symlink():
                if links is not None:
                    links.append(one.path)
            elif one.is_file(follow_symlinks=False) and (parts or not one.name.startswith(_PART)):
                with contextlib.suppress(FileNotFoundError):
                    yield Path(one.path), one.stat(follow_symlinks=False)


def _entry(name: str, found: os.stat_result) -> Entry:
    etag = f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"
    return Entry(name, found.st_size, etag, "", found.st_mtime)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One at a time. A link is not followed: whoever else may write to that folder would choose the file."""
    how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    turn = os.open(path.parent / f".{path.name}.turn", how, 0o600)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)
