"""A load balancer in front of replicas: TCP connections in turn to each, TLS and all bytes as they are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def balancing(port: int, replicas: Sequence[int]) -> Iterator[list[int]]:
    """Listen on the loopback `port`; gives how many connections each of those ports has got so far."""
    counts = [0] * len(replicas)
    turns = itertools.cycle(range(len(replicas)))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = next(turns)
        try:
            behind_reader, behind = await asyncio.open_connection("127.0.0.1", replicas[turn])
        except OSError:
            writer.close()
            return
        counts[turn] += 1
        try:
            await asyncio.gather(carry(reader, behind), carry(behind_reader, writer))
        finally:
            behind.close()
            writer.close()

    async def run(listener: socket.socket, over: asyncio.Event) -> None:
        server = await asyncio.start_server(connection, sock=listener)
        await over.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=lambda: loop.run_until_complete(run(listener, over)))
        thread.start()
        try:
            yield counts
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join(10)
            loop.close()
