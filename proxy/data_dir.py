"""The data directory: what lies where in it, and the lock that keeps a second instance out."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import UserError


@dataclass(frozen=True, slots=True)
class DataDir:
    """The places in a data directory that are ours to name; always absolute."""

    path: Path

    @property
    def database(self) -> Path:
        """MLflow's SQLite file, where no other database was set (as proxy/settings/database.py has it)."""
        return self.path / "mlflow.db"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def running_file(self) -> Path:
        """What is running, so that the next start can end what a killed instance left."""
        return self.path / "running.json"

    @property
    def ui(self) -> Path:
        """The files of MLflow's UI, compressed."""
        return self.path / "ui"

    @property
    def kek_file(self) -> Path:
        """The passphrase that encrypts the secrets of MLflow's gateway (``MLFLOW_CRYPTO_KEK_PASSPHRASE``)."""
        return self.path / "gateway-secrets.passphrase"


def layout(path: Path) -> DataDir:
    """The places in the data directory at that path; touches nothing."""
    return DataDir(Path(os.path.abspath(path)))  # noqa: PTH100 - no link is followed: the name stays the person's


def prepare(path: Path) -> DataDir:
    """The same, with the directory made (mode 0700) where it is missing.

    Raises UserError where it can't be made or written, or where its name could not be part of a URI.
    """
    places = layout(path)
    if bad := set("?#%") & set(str(places.path)):
        raise UserError(
            f"PROXY_DATA_DIR is {places.path}: {' '.join(sorted(bad))} can't be part of it, because MLflow "
            "reads it as a URI; choose another path"
        )
    try:
        places.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"PROXY_DATA_DIR is {places.path}: it can't be made ({error.strerror}); "
            "name a directory that this user may write to"
        ) from None
    if not os.access(places.path, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(
            f"PROXY_DATA_DIR is {places.path}: this user may not write there; "
            "change its owner or name another directory"
        )
    return places


@contextlib.contextmanager
def lock(path: Path, address: str, control: Path | None = None) -> Iterator[DataDir]:
    """Hold the data directory for this process; `address` is where it serves, for whoever comes second, and
    `control` the socket that takes commands (proxy/control.py).

    The kernel drops the lock however we end, so a stale one can't be. Raises UserError, naming the holder,
    where another process has it.
    """
    places = prepare(path)
    # Not "w": the file says who holds it, and we may not be the one.
    try:
        file = os.open(places.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"PROXY_DATA_DIR is {places.path}: {error.strerror} on {places.lock_file}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"PROXY_DATA_DIR is {places.path}: another mlflow-proxy uses it ({_holder(file)}); "
                "stop that one, or name another directory"
            ) from None
        held = {"pid": os.getpid(), "address": address, "since": time.time()}
        if control is not None:
            held["control"] = str(control)
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(held).encode() + b"\n", 0)
        yield places
        # The file stays: were it removed, two could hold two files of one name.
        os.ftruncate(file, 0)
    finally:
        os.close(file)


def control_socket(path: Path) -> Path | None:
    """The control socket of the service on that data directory; None where none runs."""
    lock_file = layout(path).lock_file
    try:
        file = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None  # nobody holds it: what stands in it is a dead one's
    except OSError:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return Path(json.loads(os.pread(file, 4096, 0))["control"])
        return None
    finally:
        os.close(file)


def _holder(file: int) -> str:
    try:
        held = json.loads(os.pread(file, 4096, 0))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held["since"]))
        return f"pid {held['pid']}, {held['address']}, since {since}"
    except (ValueError, KeyError, TypeError):
        return "it has not said yet which"
