"""The sockets that are listened on, and uvicorn's servers on them as we run those."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import uvicorn

from proxy import certificates
from proxy.edge import Edge
from proxy.errors import UserError
from proxy.house import Door
from proxy.protocol import ProxyProtocol
from proxy.settings import Settings

# Longer than any client's pool keeps a connection, so that it is the client that ends an idle one.
KEEP_ALIVE_SECONDS = 75


class Server(uvicorn.Server):
    """A uvicorn server on a socket that is already bound, which leaves the signals to us."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self.listener = listener
        self.asked_to_stop_at: float | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or [self.listener])

    def stop(self) -> None:
        """Take no new connection, finish the requests under way within the grace period, and return."""
        if self.asked_to_stop_at is None:
            self.asked_to_stop_at = time.monotonic()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def config(app: Door | Edge, settings: Settings, tls: certificates.TlsContext | None) -> uvicorn.Config:
    """How uvicorn serves that application: no lifespan, no log and no headers of its own."""
    return uvicorn.Config(
        app,
        http=ProxyProtocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        # Who the client is, addresses.py decides; uvicorn would believe every local peer's headers.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.grace_seconds),
        ssl_context_factory=None if tls is None else lambda config, _default: tls.context,
    )


@contextlib.contextmanager
def listening(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    """A bound socket, listening before anything slow begins, so that nothing is started in vain.

    Raises UserError, in which `setting` is named.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"MLFLOW_HOST: {host!r} is no address to listen on ({error.strerror})") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and setting == "MLFLOW_PORT":
                setting = "MLFLOW_HOST"
            why = {
                errno.EADDRINUSE: "another program listens there; stop it or choose another port",
                errno.EACCES: "this user may not; ports below 1024 are root's, choose a higher one",
                errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 stands for all it has",
            }.get(error.errno or 0, str(error.strerror))
            raise UserError(f"{setting}: {host}, port {port}, can't be listened on: {why}") from None
        listener.setblocking(False)
        yield listener
    finally:
        listener.close()


def url_of(settings: Settings, main: socket.socket) -> str:
    """Where people and programs find the service."""
    if settings.public_url:
        return settings.public_url
    host = settings.host
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not listened on
        host = "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    scheme = "https" if settings.tls else "http"
    port = main.getsockname()[1]
    return urlsplit(f"{scheme}://{host}:{port}").geturl()
