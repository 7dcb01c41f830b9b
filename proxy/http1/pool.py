"""The idle connections to MLflow's socket, and who gets which."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from pathlib import Path

from proxy.http1.connection import Broken, Connection

# MLflow keeps an idle connection for 75 s (mlflow_server/command.py). We end ours well before: of 400 POSTs
# sent at the edge of an equal keep-alive time, up to 26 met a closing connection.
IDLE_SECONDS = 30.0
# How old what is known of the socket's inode may be, in seconds. An older MLflow takes requests for a second.
LOOK_SECONDS = 0.0005


class Pool:
    """The idle connections to one Unix socket, the latest used first."""

    def __init__(self, path: Path) -> None:
        self._socket = str(path)
        self._inode_now = 0
        self._looked = -math.inf
        self._idle: deque[Connection] = deque()

    async def acquire(self) -> Connection:
        """An idle connection, or a new one. Raises Broken("refused") where nothing accepts."""
        idle = self.idle()
        if idle is not None:
            return idle
        inode = self._inode()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(Connection, self._socket)
        except OSError as error:
            raise Broken("refused", f"MLflow's socket takes no connection: {error.strerror}") from None
        connection.inode = inode
        return connection

    def idle(self) -> Connection | None:
        """An idle connection, where there is one.

        The socket is replaced by rename when a new generation of MLflow is ready: a connection to the old
        one is not used again, which its inode tells.
        """
        if not self._idle:
            return None
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._inode_now, self._looked = self._inode(), now
        inode = self._inode_now
        while self._idle:
            connection = self._idle.pop()
            if not connection.open:
                continue
            if connection.inode == inode and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def release(self, connection: Connection) -> None:
        """Give a connection back after its exchange, however it went."""
        if connection.finish():
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
            # The oldest stand at the left: end those that were idle for too long, at most two a call.
            for _ in range(2):
                oldest = self._idle[0]
                if oldest is connection or connection.idle_since - oldest.idle_since < IDLE_SECONDS:
                    break
                self._idle.popleft().close()
        else:
            connection.close()

    def close(self) -> None:
        """End the idle connections; those in use end when they are given back."""
        while self._idle:
            self._idle.pop().close()

    def _inode(self) -> int:
        try:
            return os.stat(self._socket).st_ino  # noqa: PTH116 - a Path's stat() costs four times as much
        except OSError:
            return 0
