"""Runs MlflowServer alone, as a process that a test may kill.

    python mlflow_driver.py DATA_DIR RUNTIME_DIR JOBS_PORT [VARIABLE=VALUE...]

What MlflowServer observes goes to standard output, one JSON object a line. SIGTERM stops it in good order. In
place of the proxy's own listener the port carries bytes to MLflow's socket, whoever connects.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from proxy.mlflow_server import MlflowServer
from proxy.settings import load

TOKEN = "the-jobs-token-of-a-test"


def observe(event: str, what: dict[str, Any]) -> None:
    print(json.dumps({"event": event, **what}), flush=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main() -> None:
    data, runtime, port, *given = sys.argv[1:]
    os.environ.update(entry.split("=", 1) for entry in given)
    loaded = load({"PROXY_DATA_DIR": data}, directory=Path(data))
    server = MlflowServer(loaded.settings, loaded.passthrough, Path(runtime), int(port), TOKEN, observe)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inside = await asyncio.open_unix_connection(str(server.socket))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, inside[1]), pump(inside[0], writer))

    await asyncio.start_server(carry, "127.0.0.1", int(port))
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []
    loop.add_signal_handler(signal.SIGTERM, lambda: stopping.append(loop.create_task(server.stop(10))))
    await server.run()
    observe("finished", {"restarts": dict(server.restarts)})


uvloop.run(main())
