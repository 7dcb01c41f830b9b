"""The UI's files by themselves, over a real connection: a small folder of them, and nothing of MLflow."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from proxy.exchange import Exchange
from proxy.pages import answers
from proxy.protocol import ProxyProtocol
from proxy.ui.keeper import Keeper
from proxy.ui.serving import Ui

SCRIPT = "main.c2f5f8d4.js"
INDEX = f'<!doctype html><html><head><script src="static-files/static/js/{SCRIPT}"></script></head></html>'
CODE = "".join(f"export const name{n} = () => {n % 97};\n" for n in range(20_000))
PICTURE = bytes(range(256)) * 16


def files(folder: Path) -> Path:
    """Such a folder as MLflow's build has, smaller."""
    for name, content in {
        "index.html": INDEX.encode(),
        f"static/js/{SCRIPT}": CODE.encode(),
        "static/js/plain.js": CODE[:5000].encode(),
        "static/media/picture.0fd4a63680fba840a7b69fbf.png": PICTURE,
        "static/media/empty.0fd4a63680fba840a7b69fbf.txt": b"",
        "lib/notebook-trace-renderer/index.html": INDEX.encode() * 3,
        "manifest.json": json.dumps({"name": "x" * 400}).encode(),
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


class UiSite:
    """The application, its keeper, and whoever is asked where it has no answer."""

    def __init__(self, root: Path, data: Path, *, compress: bool = True, best_after: float = 3600) -> None:
        self.root = root
        self.data = data
        self.keeper = Keeper(data, root, best_after)
        self.compress = compress
        self.away = False
        self.frames = "SAMEORIGIN"
        self.exchanges: list[Exchange] = []
        self.port = 0
        self.ui = Ui(
            self.keeper,
            self._mlflow,
            changed=lambda page: page.replace(b"</head>", b"<script src=ours></script></head>"),
            left_to_mlflow=lambda scope: self.away,
            frame_options=lambda: self.frames,
            stall=20,
            compress=compress,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope["method"], scope["path"], time.perf_counter(), time.time())
        self.exchanges.append(exchange)
        await self.ui({**scope, "exchange": exchange}, receive, send)

    async def _mlflow(self, scope: Any, receive: Any, send: Any) -> None:
        await answers.answer(scope, send, 404, b"MLflow was asked", answers.TEXT)

    def ask(self, method: str, path: str, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def coded(self) -> bool:
        return (
            self.get("/manifest.json".replace("/", "/static-files/", 1), Accept_Encoding="gzip").coding
            is not None
        )


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()

    @property
    def coding(self) -> str | None:
        return self.headers.get("content-encoding")

    @property
    def etag(self) -> str:
        return self.headers["etag"]


@contextmanager
def serving(site: UiSite) -> Iterator[UiSite]:
    """On a loopback port of its own, with its keeper at work."""
    with socket.socket() as listener:
        # Else the whole of an answer may lie in the kernel, and nobody sees that its client has gone.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        site.port = listener.getsockname()[1]
        config = uvicorn.Config(site, http=ProxyProtocol, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)

        async def live() -> None:
            keeping = asyncio.create_task(site.keeper.run())
            await server.serve([listener])
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

        thread = threading.Thread(target=lambda: asyncio.run(live()))
        thread.start()
        try:
            until(lambda: site.keeper.files is not None, "the files were looked at")
            yield site
        finally:
            server.should_exit = True
            thread.join()


def until(true: Callable[[], Any], what: str, patience: float = 120) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
