"""The control socket: commands to the running service from its own user on this machine, one JSON a line.

The client sends one line, ``{"do": "reload"}``, and gets lines ``{"say": TEXT}`` while the command is carried
out and one last ``{"done": true}``, or false where it failed. The socket lies in the runtime directory, which
nobody else may enter; where it is, the data directory's lock file says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from proxy import data_dir
from proxy.errors import UserError
from proxy.tasks import ended

log = logging.getLogger("proxy.control")

NAME = "control.sock"
_LONGEST = 65536  # bytes of a command
_LAST_SECONDS = 5.0

Say = Callable[[str], None]
Command = Callable[[dict[str, Any], Say], Awaitable[bool]]


@contextlib.asynccontextmanager
async def listening(path: Path, commands: dict[str, Command]) -> AsyncIterator[None]:
    """Carry out commands, by name, for whoever may connect to `path`.

    A command gets the line as it was sent, with the client's user id as ``uid``, and a function that tells
    the client something; it returns whether it succeeded. The client's leaving ends no command.
    """
    under_way: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_one(reader, writer, commands))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    mask = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(serve, path, limit=_LONGEST)
    finally:
        os.umask(mask)
    try:
        yield
    finally:
        server.close()
        await ended(under_way)
        path.unlink(missing_ok=True)


async def _one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: dict[str, Command]
) -> None:
    def tell(**what: Any) -> None:
        if not writer.is_closing():
            writer.write(json.dumps(what).encode() + b"\n")

    try:
        asked = json.loads(await asyncio.wait_for(reader.readline(), 10))
        command = commands.get(asked["do"])
        asked["uid"] = _uid(writer)  # Linux says so, whatever the line does
        if command is None:
            tell(say=f"this service knows no command {asked['do']!r}", done=False)
            return
        tell(done=await command(asked, lambda text: tell(say=text)))
    except (ValueError, KeyError, TypeError, TimeoutError, OSError):
        tell(say="that is no command", done=False)
    except Exception:
        log.exception("a command failed")
        tell(say="the service failed over this; its log says more", done=False)
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):  # a client that reads nothing any more
                await writer.drain()
        writer.close()


def _uid(writer: asyncio.StreamWriter) -> int:
    """Of the process that connected (unix(7), SO_PEERCRED)."""
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return struct.unpack("3i", credentials)[1]  # type: ignore[no-any-return]


def ask(directory: Path, **command: Any) -> Iterator[str | bool]:
    """Have the service on that data directory carry out a command: what it says, then whether it succeeded.

    For commands, without an event loop. Raises UserError where no service runs there, or it breaks off.
    """
    path = data_dir.control_socket(directory)
    if path is None:
        raise UserError(f"PROXY_DATA_DIR is {directory}: no mlflow-proxy runs on it")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(json.dumps(command).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    told = json.loads(line)
                    if "say" in told:
                        yield told["say"]
                    if "done" in told:
                        yield bool(told["done"])
                        return
    except OSError as error:
        raise UserError(f"{path}: the service can't be asked ({error.strerror})") from None
    raise UserError("the service ended before it had answered; its log says more")
