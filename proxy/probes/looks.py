"""One look each at what the service hangs on; a look returns where all is well."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from proxy.http1 import fetch

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
FOLDER = ".mlflow-proxy-probe"
"""Where in the artifact storage the canary is put."""
LEAST_FREE = 0.05
"""The part of a disk that is to be free, and LEAST_BYTES of it where that is less."""
LEAST_BYTES = 2 * 2**30
OWN = "our own"


class Failed(Exception):
    """What was looked at is not well; the message is for anybody to read."""


class NotNow(Exception):
    """It can't be told now, and what was found before stands."""


class InThread:
    """A look that blocks, in a thread: a second one is not begun while the first one hangs."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._under_way: asyncio.Future[None] | None = None

    async def __call__(self) -> None:
        if self._under_way is not None and not self._under_way.done():
            raise Failed("the look before this one has had no answer yet")
        self._under_way = asyncio.ensure_future(asyncio.to_thread(self._look))
        await asyncio.shield(self._under_way)


def storage(socket: Callable[[], Path | None], seconds: float) -> Callable[[], Awaitable[None]]:
    """Put a small file into the artifact storage through MLflow, which has the credentials, read it and
    remove it; `socket` gives MLflow's, None while MLflow is away."""

    async def look() -> None:
        path = socket()
        if path is None:
            raise NotNow
        target = f"{ARTIFACTS}{FOLDER}/{secrets.token_hex(8)}"
        canary = secrets.token_bytes(32)
        kind = [("content-type", "application/octet-stream")]
        for method, body, what in (
            ("PUT", canary, "written"),
            ("GET", b"", "read"),
            ("DELETE", b"", "removed"),
        ):
            try:
                status, answer = await fetch(path, method, target, body=body, headers=kind, timeout=seconds)
            except TimeoutError:
                raise Failed(f"a small file was not {what} within {seconds:g} s") from None
            except OSError:
                raise NotNow from None  # MLflow's end, which is told of elsewhere
            if status != 200:
                raise Failed(f"a small file can't be {what} (MLflow answers {status}; its log says why)")
            if method == "GET" and answer != canary:
                raise Failed("what is read is not what was written")

    return look


def space(path: Path) -> tuple[int, int]:
    """Bytes free for us and in all, where `path` is. Raises Failed."""
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        raise Failed(f"the data directory can't be looked at ({error.strerror})") from None
    return usage.free, usage.total


def enough(free: int, total: int) -> None:
    """Whether there is room on a disk of so many bytes. Raises Failed where there is not."""
    if free <= min(LEAST_FREE * total, LEAST_BYTES):
        raise Failed(f"{free / 2**20:.0f} MiB are free where the data directory is")


def certificates(
    own: Callable[[], float | None],
    targets: Callable[[], tuple[tuple[str, int], ...]],
    ends: Callable[[str, int, float], float],
    found: dict[str, float],
    seconds: float,
    now: Callable[[], float],
) -> Callable[[], Awaitable[None]]:
    """When our certificate ends, and those of `targets`, put into `found` by name (OWN, "host:port").

    `ends` asks another server and raises OSError.
    """

    async def look() -> None:
        problems = []
        ours = own()
        if ours is not None:
            found[OWN] = ours
        wanted = targets()
        for name in found.keys() - {OWN, *(f"{host}:{port}" for host, port in wanted)}:
            del found[name]
        for host, port in wanted:
            name = f"{host}:{port}"
            try:
                found[name] = await asyncio.to_thread(ends, host, port, seconds)
            except OSError as error:
                problems.append(f"{name} gave no certificate ({_said(error)})")
        problems += [f"that of {name} has expired" for name, end in sorted(found.items()) if end < now()]
        if problems:
            raise Failed("; ".join(problems))

    return look


def _said(error: Any) -> str:
    return str(error.strerror or error) or type(error).__name__
