"""The service that runs on a data directory: its process, its environment, and what it tells by its control
socket."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy import control, data_dir
from proxy.errors import UserError
from proxy.settings import options as known_options


@dataclass(frozen=True)
class Running:
    """A service that holds its data directory."""

    data: Path
    pid: int
    address: str
    environ: Mapping[str, str] | None = field(repr=False)
    """Its environment; None where this user may not look."""
    directory: Path | None
    """Its working directory."""
    options: Mapping[str, str] = field(repr=False)
    """The settings that were given on its command line, by variable."""

    @property
    def user(self) -> int | None:
        """The user id of its process; None where that can't be seen."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}").stat().st_uid
        return None

    def limit(self, name: str) -> int | None:
        """A soft limit of its process (proc(5), limits); None where there is none, or it can't be seen."""
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{self.pid}/limits").read_text().splitlines():
                if line.startswith(name):
                    return int(line.removeprefix(name).split()[0])
        return None


def name_of(user: int) -> str:
    """A user's name, or what sudo takes for one that has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"


def running_on(directory: Path) -> Running | None:
    """The service on that data directory; None where none runs."""
    lock = data_dir.layout(directory).lock_file
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            # Shared, and at once given up: that disturbs a start less than an exclusive one.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except OSError:
            held = json.loads(os.pread(file, 4096, 0))
            pid = int(held["pid"])
            return Running(directory, pid, str(held["address"]), *_process(pid))
    except (ValueError, KeyError, TypeError):
        return None  # it has not said yet where it is
    finally:
        os.close(file)


def _process(pid: int) -> tuple[Mapping[str, str] | None, Path | None, Mapping[str, str]]:
    """Environment, working directory and options (proc(5)); none of them where this user may not look."""
    place = Path(f"/proc/{pid}")
    try:
        environ = dict(
            pair.split("=", 1) for pair in _texts(place / "environ") if "=" in pair and pair[0] != "="
        )
        return environ, (place / "cwd").readlink(), _options(_texts(place / "cmdline"))
    except OSError:
        return None, None, {}


def _texts(path: Path) -> list[str]:
    return [os.fsdecode(part) for part in path.read_bytes().split(b"\0") if part]


def _options(arguments: list[str]) -> dict[str, str]:
    flags = {flag: variable for flag, variable, _ in known_options()}
    found: dict[str, str] = {}
    left = iter(arguments[arguments.index("serve") + 1 :] if "serve" in arguments else ())
    for argument in left:
        flag, separator, value = argument.partition("=")
        if flag in flags:
            found[flags[flag]] = value if separator else next(left, "")
    return found


class Visit:
    """A visit that the service has opened for this doctor (proxy/doctor/visits.py); `with` ends it."""

    def __init__(self, service: Running, seconds: float) -> None:
        self._service = service
        self.told: dict[str, Any] = json.loads(self._ask("doctor", seconds=seconds))

    @property
    def path(self) -> str:
        """Where it answers, below the public URL: a path that nobody can guess and that ends with it."""
        return str(self.told["path"])

    def got(self, number: int) -> None:
        """Tell the service that a piece of a stream has arrived."""
        self._ask("doctor-got", path=self.path, number=number)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(UserError):  # it ends by itself
            self._ask("doctor-end", path=self.path)

    def _ask(self, do: str, **more: Any) -> str:
        said, succeeded = [], False
        for told in control.ask(self._service.data, do=do, **more):
            if isinstance(told, bool):
                succeeded = told
            else:
                said.append(told)
        if not succeeded:
            raise UserError(" ".join(said) or "the service refuses")
        return said[-1] if said else ""


@contextlib.contextmanager
def visit(service: Running, seconds: float) -> Iterator[Visit]:
    """Raises UserError where the service can't be asked, or is of a version that knows no doctor."""
    with Visit(service, seconds) as opened:
        yield opened
