"""The lock at a place: one backup at a time, over all hosts that share it; a dead one's is taken over."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from proxy.backup.places import Place, PlaceFailed
from proxy.errors import UserError

NAME = "lock.json"
SECONDS = 120.0
"""How long a lease holds that nobody renews."""


class LeaseLost(UserError):
    """Another one has the place by now: nothing may be written to it any more."""


class Lease:
    """Held while its thread renews it."""

    def __init__(self, place: Place, etag: str, body: dict[str, Any], seconds: float) -> None:
        self._place = place
        self._etag = etag
        self._body = body
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._lost = False
        self._end = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Before what must not be done by two. Raises LeaseLost."""
        if self._lost or time.monotonic() >= self._until:
            raise LeaseLost(
                f"{self._place.text}: the lock was lost meanwhile (it could not be renewed for "
                f"{self._seconds:g} s, or another backup took it): nothing was finished; run it again"
            )

    def _renew(self) -> None:
        while not self._end.wait(self._seconds / 4):
            with self._turn:
                if self._end.is_set() or self._lost:
                    return
                began = time.monotonic()
                try:
                    etag = self._place.exchange(NAME, _written(self._body, self._seconds), self._etag)
                except PlaceFailed:
                    if (found := self._found()) is not None:
                        # It was written, and the answer was lost.
                        self._etag, self._until = found, began + self._seconds
                    continue
                if etag is None and (found := self._found()) is None:
                    self._lost = True
                    return
                self._etag, self._until = etag or found or "", began + self._seconds

    def _found(self) -> str | None:
        """The etag of ours, where it is ours that stands there."""
        with contextlib.suppress(PlaceFailed, ValueError, KeyError, TypeError):
            found = self._place.get(NAME)
            if found is not None and json.loads(found[0])["id"] == self._body["id"]:
                return found[1]
        return None

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        # Where another has it, it is not ours to remove; where the place is away, it runs out by itself.
        with contextlib.suppress(PlaceFailed):
            if self._found() is not None:
                self._place.remove(NAME)


@contextlib.contextmanager
def held(place: Place, say: Callable[[str], None], seconds: float = SECONDS) -> Iterator[Lease]:
    """The lock of that place. Raises UserError, naming the holder, where another backup runs.

    The lock of one that died on this machine is taken at once; that of another machine when nobody has
    renewed it for `seconds`, as we see it: its clock need not be ours.
    """
    body = {"id": secrets.token_hex(8), **_me()}
    while True:
        etag = place.put_new(NAME, _written(body, seconds))
        if etag is not None:
            break
        found = place.get(NAME)
        if found is None:
            continue  # it was given back just now
        holder = _read(found[0])
        lives = _lives(holder)
        if lives:
            raise UserError(
                f"{place.text} is locked: another backup runs ({_name(holder)}); let that one end"
            )
        if lives is None:
            say(f"{place.text} is locked by {_name(holder)}; waiting to see whether that one lives")
            found = _unchanged(place, found, seconds)
            if found is None:
                raise UserError(
                    f"{place.text} is locked: another backup runs ({_name(holder)}); let that one end"
                )
        etag = place.exchange(NAME, _written(body, seconds), found[1])
        if etag is not None:
            say(f"the lock of {_name(holder)}, which did not end in order, was taken over")
            break
    with Lease(place, etag, body, seconds) as lease:
        yield lease


def _unchanged(place: Place, found: tuple[bytes, str], seconds: float) -> tuple[bytes, str] | None:
    """The same, where it stays so for as long as a lease holds; None as soon as it is renewed."""
    deadline = time.monotonic() + seconds * 1.25
    while time.monotonic() < deadline:
        time.sleep(min(seconds / 8, 5))
        now = place.get(NAME)
        if now is None:
            return found  # given back: the exchange fails, and it is asked for anew
        if now[1] != found[1]:
            return None
    return found


def _me() -> dict[str, Any]:
    """Who this process is, so that another one on this machine can tell whether it still runs."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started("self"),
        "machine": _machine(),
        "since": time.time(),
    }


def _lives(holder: dict[str, Any]) -> bool | None:
    """Whether that process runs; None where it is of another boot, machine or pid namespace."""
    if holder.get("machine") != _machine() or not isinstance(holder.get("pid"), int):
        return None
    return _started(str(holder["pid"])) == holder.get("started")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return secrets.token_hex(8)  # no other has it: then the lease alone tells


def _started(pid: str) -> str:
    """When a process was started, in the kernel's ticks; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _written(body: dict[str, Any], seconds: float) -> bytes:
    # The time makes each renewal another content, and so another ETag, wherever that is a digest.
    return json.dumps({**body, "renewed": time.time(), "seconds": seconds}).encode() + b"\n"


def _read(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["since"]))
        return f"process {holder['pid']} on {holder['host']}, since {since}"
    except (KeyError, TypeError, ValueError):
        return "one that does not say its name"
