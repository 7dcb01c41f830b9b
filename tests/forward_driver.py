"""The forwarding path in a process of its own, with a fake MLflow's socket behind it.

    python forward_driver.py CONTROL-FD SETTINGS-JSON

Everything of ours is the real thing, put together by `app.applications` and served by uvicorn as in
serve.py; only MLflow's supervisor is a stand-in, which says "up" when it is told to. A line of JSON on the
control socket is answered by one: ``{"up": false}`` sets that, ``{}`` asks how things stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from proxy.app import Applications, applications
from proxy.auth import Authenticator
from proxy.callers import Callers
from proxy.hold import Hold
from proxy.house import Door, House
from proxy.logs import AccessLog
from proxy.metrics import Metrics
from proxy.mlflow_server.jobs import Submissions
from proxy.protocol import ProxyProtocol
from proxy.servers import Server, config
from proxy.settings import Settings
from proxy.watchdog import Watchdog


class StandIn:
    """MLflow's state, as hold, the pages and the metrics see it."""

    def __init__(self, path: Path) -> None:
        self.socket = path
        self.reason = "the stand-in is down"
        self.generation = 1
        self.started_at = None
        self.restarts: Counter[str] = Counter()
        self.rolls: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.problem = None
        self.probe_seconds = None
        self.submissions = Submissions()
        self.is_up = asyncio.Event()

    @property
    def up(self) -> bool:
        return self.is_up.is_set()

    ready = up

    async def wait_up(self, timeout: float) -> bool:  # noqa: ASYNC109
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.is_up.wait(), timeout)
        return self.up

    def checks(self) -> dict[str, str | None]:
        return {"process": None}


class Ordinary:
    """A door without a lane: every request goes by way of ASGI."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.unparsed = door.unparsed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._door(scope, receive, send)


async def main(control: int, told: dict[str, Any]) -> None:
    upstream, head_seconds = Path(told.pop("upstream")), told.pop("head_seconds", None)
    keep_alive = told.pop("keep_alive", None)
    past_asgi = told.pop("lane", True)
    settings = Settings(**told)
    mlflow = StandIn(upstream)
    mlflow.is_up.set()
    metrics = Metrics(version="0", mlflow_version="0")
    access_log = AccessLog("json")
    password = settings.password.get_secret_value() if settings.password else ""
    callers = Callers(Authenticator(settings, password, "the-jobs-own-token", metrics.authentication))
    watchdog = Watchdog()
    apps = applications(
        settings,
        mlflow,  # type: ignore[arg-type]
        callers,
        metrics,
        access_log,
        watchdog,
        jobs_port=5999,
        certificate_names=(),
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)
    door = Door("public")
    lanes = {"public": apps.lane}
    door.lead_to(House(callers, {"public": apps.public}, lanes, apps.ways, contextlib.AsyncExitStack()))
    of_uvicorn = config(door if past_asgi else Ordinary(door), settings, None)  # type: ignore[arg-type]
    if head_seconds is not None:
        of_uvicorn.http = type("Hurried", (ProxyProtocol,), {"head_seconds": head_seconds})
    if keep_alive is not None:
        of_uvicorn.timeout_keep_alive = keep_alive
    server = Server(of_uvicorn, listener)
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=control))
    tasks = [asyncio.create_task(server.serve()), asyncio.create_task(watchdog.run())]
    hold = next(thing for thing in gc.get_objects() if isinstance(thing, Hold))
    writer.write(json.dumps({"port": listener.getsockname()[1]}).encode() + b"\n")
    while line := await reader.readline():
        if "up" in (asked := json.loads(line)):
            (mlflow.is_up.set if asked["up"] else mlflow.is_up.clear)()
        if "revoked" in asked:
            for passage in list(watchdog.passages):
                passage.revoke()
        writer.write(json.dumps(standing(apps, watchdog, hold, metrics, server)).encode() + b"\n")
    for task in tasks:
        task.cancel()


def standing(
    apps: Applications, watchdog: Watchdog, hold: Hold, metrics: Metrics, server: Server
) -> dict[str, Any]:
    return {
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "passages": len(watchdog.passages),
        "idle": len(apps.ways.pool._idle),
        "waiting": hold.waiting,
        "bytes_held": hold.bytes_held,
        "slots": sum(metrics.slots().values()),
        "clients": len(server.server_state.connections),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(main(int(sys.argv[1]), json.loads(sys.argv[2])))
