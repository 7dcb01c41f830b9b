"""A file that log lines go to: opened again when that is asked, and rotated by its size."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Protocol

from proxy.errors import UserError

log = logging.getLogger("proxy.logs")

_MODE = 0o640  # a log shipper reads it by its group, as nginx's and Caddy's logs


class FileSettings(Protocol):
    """What of the settings is read here."""

    @property
    def log_max_size(self) -> int: ...
    @property
    def log_keep(self) -> int: ...


def output_of(path: Path | None, variable: str, settings: FileSettings, descriptor: int) -> int | LogFile:
    """The file that the setting `variable` names, or the descriptor where it names none. Raises UserError."""
    if path is None:
        return descriptor
    return LogFile(path, variable, max_size=settings.log_max_size, keep=settings.log_keep)


class LogFile:
    """An open log file. `descriptor_for` belongs to the thread that writes, `reopen` may be called by any.

    Raises UserError where it can't be opened at first; later it keeps the file that it has, and says so.
    """

    def __init__(self, path: Path, variable: str, *, max_size: int, keep: int) -> None:
        """`variable` is the setting that names the path. At `max_size` bytes (0: never) the file becomes
        ``path.1``, what had that name ``path.2``, and so on up to `keep`."""
        self.path = path
        self._max_size = max_size
        self._keep = keep
        self._asked = False
        self._rotate_at = max_size
        self._said = False
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._descriptor = self._opened()
        except OSError as error:
            raise UserError(
                f"{variable} is {path}: it can't be written ({error.strerror}); "
                "name a file in a directory that this user may write to"
            ) from None

    def reopen(self) -> None:
        """Have the next lines go into the file that then has the name: logrotate has renamed this one."""
        self._asked = True

    def descriptor_for(self, size: int) -> int:
        """The descriptor to write that many bytes to."""
        if self._asked:
            self._asked = False
            self._open_again()
        if self._max_size:
            # Asked each time, because whoever rotates by copying truncates it behind our back.
            now = os.fstat(self._descriptor).st_size
            if now and now + size > self._rotate_at:
                self._rotate(now)
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)

    def _open_again(self) -> None:
        try:
            fresh = self._opened()
        except OSError as error:
            self._say("opened again", error)
            return
        os.close(self._descriptor)
        self._descriptor = fresh
        self._rotate_at = self._max_size
        self._said = False

    def _rotate(self, now: int) -> None:
        try:
            if self._keep:
                for number in range(self._keep - 1, 0, -1):
                    if (older := self._numbered(number)).exists():
                        older.rename(self._numbered(number + 1))
                self.path.rename(self._numbered(1))
            else:
                self.path.unlink()
        except OSError as error:
            self._say("rotated", error)
            self._rotate_at = now + self._max_size  # not tried again for each line
            return
        self._open_again()

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _say(self, what: str, error: OSError) -> None:
        if not self._said:
            self._said = True
            log.error(
                "%s can't be %s (%s): lines go on into the file that is open", self.path, what, error.strerror
            )
