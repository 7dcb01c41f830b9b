"""A small exchange of our own with MLflow, for probes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from proxy.http1.connection import Broken
from proxy.http1.pool import Pool


async def fetch(
    path: Path,
    method: str,
    target: str,
    *,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    timeout: float,  # noqa: ASYNC109 - one deadline for the whole, seen by the caller
) -> tuple[int, bytes]:
    """One small exchange on a connection of its own: status and body, `timeout` seconds in all.

    For our own probes, not for what is forwarded. Raises TimeoutError, and OSError where MLflow takes no
    connection or breaks off.
    """
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method not in ("GET", "HEAD"):
        lines.append(f"content-length: {len(body)}")
    pool = Pool(path)
    async with asyncio.timeout(timeout):
        try:
            connection = await pool.acquire()
            try:
                connection.send_head(
                    ("\r\n".join(lines) + "\r\n\r\n").encode() + body, head_only=method == "HEAD"
                )
                await connection.head()
                pieces = []
                while piece := await connection.piece():
                    pieces.append(piece)
                return connection.status, b"".join(pieces)
            finally:
                connection.close()
        except Broken as error:
            raise ConnectionError(str(error)) from None
