"""The file that a chain is written to: held by one process, appended to, synced, and followed by the next."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from proxy.audit.chain import LONGEST, Head, Line, read, seal
from proxy.audit.entry import Entry, entry
from proxy.audit.events import Detail, Event
from proxy.audit.keys import Keys
from proxy.audit.reading import backwards, files_of, numbered, reading, tail
from proxy.errors import UserError

log = logging.getLogger("proxy.audit")

_PIECE = 256 * 1024  # bytes written at once


@dataclass(frozen=True, slots=True)
class Found:
    """What was there when a file was opened."""

    last: Line | None
    """The newest line of the chain, in this file or in one that it follows."""
    foreign: int
    """Whole lines after it that are none of an audit log."""
    elsewhere: bool = False
    """Whether it is in a file that this one follows, and nothing is in this one yet."""


class ChainFile:
    """One chain's file, locked for this process. Its methods belong to one thread at a time.

    Lines are only ever appended. A line that breaks off stays as it is, and the next says so.
    """

    def __init__(self, path: Path, keys: Keys, max_size: int, *, wait: float = 0.0) -> None:
        """Opens and locks it, made with mode 0600 where there is none; `wait` is for how many seconds another
        process may have it. Raises UserError."""
        self.path = path
        self._keys = keys
        self._max_size = max_size
        self._rotate_at = max_size
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = _locked(path, time.monotonic() + wait)
            self.found, self._torn = self._look_back()
            self._broken = self._torn
            status = os.fstat(self._descriptor)
            self._size = status.st_size
            self._first = self._first_sequence()
        except OSError as error:
            raise UserError(
                f"PROXY_AUDIT_FILE is {path}: it can't be written, or one beside it not be read "
                f"({error.strerror}); name a file in a directory that this user may write to"
            ) from None
        if status.st_mode & 0o022:
            log.warning("%s can be written by others on this machine; chmod go-w is advised", path)
        self.head = Head("", 0, "") if self.found.last is None else self.found.last.head
        """The newest line that was written; `begin` sets it where none was found."""
        self.synced = self.head
        """The newest line that is on the disk. Any thread may read it."""
        self.broken = False
        """Whether the file was found changed by others since it was opened."""

    def begin(self, head: Head) -> None:
        """Go on after that line, whatever was found."""
        self.head = self.synced = head

    def append(self, pending: deque[Entry]) -> None:
        """Write these events and sync them; those written are taken out, and what is noticed of the file
        itself is put in before them. Raises OSError, with the rest still in it."""
        while pending:
            self._notice(pending)
            if self._size >= self._rotate_at:
                self._rotate(pending)
            if self._torn:
                torn = entry("line_torn", at=time.time(), details={"bytes": self._torn})
                if pending[0]["event"] != "line_torn":
                    pending.appendleft(torn)
            self._write(pending)
        os.fsync(self._descriptor)
        self.synced = self.head

    def digest_of(self, sequence: int) -> str | None:
        """The digest of the chain's line of that number, where it is in this file or one that it follows."""
        for path in reversed(files_of(self.path)):
            with reading(path) as descriptor:
                for piece in backwards(descriptor):
                    line = read(piece)
                    if line is None or line.head.chain != self.head.chain:
                        continue
                    if line.head.sequence == sequence:
                        return line.head.digest
                    if line.head.sequence < sequence:
                        break
        return None

    def close(self) -> None:
        os.close(self._descriptor)

    # ---- what is there at the start ----

    def _look_back(self) -> tuple[Found, int]:
        """The newest line, and how many bytes of a broken one are at the file's end."""
        last, foreign, torn = tail(self._descriptor)
        if last is not None or foreign:
            return Found(last, foreign), torn
        for path in files_of(self.path):
            if path == self.path:
                continue
            with reading(path) as descriptor:
                line = tail(descriptor)[0]
            if line is not None and (last is None or line.head.sequence > last.head.sequence):
                last = line
        return Found(last, 0, elsewhere=last is not None), torn

    def _first_sequence(self) -> int:
        line = read(os.pread(self._descriptor, LONGEST, 0).partition(b"\n")[0])
        if line is not None:
            return line.head.sequence
        return 1 if self.found.last is None else self.found.last.head.sequence + 1

    # ---- writing ----

    def _notice(self, pending: deque[Entry]) -> None:
        """See whether the file is still there and as it was left."""
        ours = os.fstat(self._descriptor)
        try:
            there = os.stat(self.path)  # noqa: PTH116 - beside fstat(2)
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(ours, there):
            self._follow(pending, removed=ours.st_nlink == 0)
        elif ours.st_size != self._size:
            what = "the file was cut" if ours.st_size < self._size else "somebody else wrote to the file"
            self._own(pending, "chain_broken", what=what, bytes_written=self._size, bytes_found=ours.st_size)
            self._size = ours.st_size
            self._torn = self._broken = tail(self._descriptor)[2]

    def _follow(self, pending: deque[Entry], *, removed: bool) -> None:
        """Go on in the file that is at the path now: a new one, where the old one was renamed."""
        new = _locked(self.path, 0.0)
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = new
        self._size = os.fstat(new).st_size
        self._first = self.head.sequence + 1
        self._rotate_at = self._max_size
        self._torn = self._broken = tail(new)[2]
        if self._size:
            self._own(pending, "chain_broken", what="another file was put in the place of the one written")
        elif removed:
            self._own(pending, "chain_broken", what="the file was removed", last=self.head.sequence)
        else:
            self._own(pending, "file_started", why="the one before was renamed")

    def _rotate(self, pending: deque[Entry]) -> None:
        """Go on in a new file; the old one is named after its first line's number."""
        old = numbered(self.path, self._first)
        try:
            if os.path.lexists(old):
                raise FileExistsError(17, f"{old} is there already")
            os.fsync(self._descriptor)
            mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode) & 0o640
            self.path.rename(old)
        except OSError as error:
            log.error("the audit log goes on in %s beyond its size: %s", self.path, error.strerror)
            self._rotate_at = self._size + self._max_size
            return
        new = _locked(self.path, 0.0)
        os.fchmod(new, mode)  # who was let read the old one may read the new one
        os.close(self._descriptor)
        self._descriptor = new
        self._size = 0
        self._first = self.head.sequence + 1
        self._rotate_at = self._max_size
        _sync_directory(self.path.parent)
        self._own(pending, "file_started", why="size", after=old.name)

    def _own(self, pending: deque[Entry], event: Event, **details: Detail) -> None:
        pending.appendleft(entry(event, at=time.time(), details=details))
        if event == "chain_broken":
            self.broken = True
            log.error("the audit log was tampered with: %s (%s)", details["what"], self.path)

    def _write(self, pending: deque[Entry]) -> None:
        lines: list[bytes] = []
        heads: list[Head] = []
        size, head = 0, self.head
        for each in pending:
            line, head = seal(each, head, self._keys)
            lines.append(line)
            heads.append(head)
            size += len(line)
            if size >= _PIECE or self._size + size >= self._rotate_at:
                break
        # A broken line must not swallow the one that comes next.
        mend = b"\n" if self._torn else b""
        data = mend + b"".join(lines)
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, memoryview(data)[done:])
        finally:
            self._size += done
            self._settle(pending, lines, heads, done - len(mend))

    def _settle(self, pending: deque[Entry], lines: list[bytes], heads: list[Head], done: int) -> None:
        """Take out what was written: `done` bytes of these lines, -1 where the mending newline was not."""
        if done < 0:
            return
        for line, head in zip(lines, heads, strict=True):
            if done < len(line):
                break
            done -= len(line)
            self.head = head
            pending.popleft()
            self._broken = 0
        self._torn = done
        self._broken += done


def _locked(path: Path, deadline: float) -> int:
    """The file at that path, for appending. Raises UserError where another process holds it, and OSError."""
    while True:
        # Not truncated, nor followed blindly: the one that is locked has to be the one at the path.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"PROXY_AUDIT_FILE is {path}: it is no file; lines must stay where they are")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(found := os.fstat(descriptor), path.stat()):
                _hand_over(descriptor, found, path.parent.stat())
                return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise UserError(
                    f"PROXY_AUDIT_FILE is {path}: another process writes it; each needs one of its own"
                ) from None
            time.sleep(0.05)
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _hand_over(descriptor: int, file: os.stat_result, directory: os.stat_result) -> None:
    """A file that root has just made for the service belongs to the service's user."""
    if os.geteuid() == 0 and file.st_size == 0 and (file.st_uid, file.st_gid) == (0, os.getegid()):
        os.fchown(descriptor, directory.st_uid, directory.st_gid)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
