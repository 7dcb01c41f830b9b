"""Between a running service and its real MLflow: what goes over the Unix socket, and the processes there."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from service import Service

HEAD = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n((?:[^\r\n]+\r\n)*)\r\n")


class Tap:
    """Keeps every byte that the service sends to MLflow."""

    def __init__(self) -> None:
        self._sent: list[bytearray] = []

    @property
    def now(self) -> list[int]:
        """How far it has come, for `heads`."""
        return [len(sent) for sent in self._sent]

    def heads(self, since: Sequence[int] = ()) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Every request but the service's own probes: method, target, headers."""
        found = []
        for sent, start in zip_longest(self._sent, since, fillvalue=0):
            for method, target, block in HEAD.findall(bytes(sent)[start:] if sent else b""):
                lines = block.decode("latin-1").split("\r\n")[:-1]
                headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
                if headers[:2] != [("host", "localhost"), ("connection", "close")]:
                    found.append((method.decode(), target.decode("latin-1"), headers))
        return found

    def forwarded(self, request_id: str) -> tuple[str, str, dict[str, str]] | None:
        """The request of that id as MLflow got it, or None; " + " joins a repeated header's values."""
        for method, target, headers in self.heads():
            if ("x-request-id", request_id) in headers:
                joined: dict[str, str] = {}
                for name, value in headers:
                    joined[name] = f"{joined[name]} + {value}" if name in joined else value
                return method, target, joined
        return None

    def serve(self, listener: socket.socket, mlflow: str) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(mlflow)
            sent = bytearray()
            self._sent.append(sent)
            threading.Thread(target=_pump, args=(client, server, sent), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, None), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if kept is not None:
                kept += data
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tapped(service: Service) -> Iterator[Tap]:
    """Put a tap into the service's socket to MLflow, as a new generation of MLflow takes it: by rename."""
    path = socket_of(service)
    mlflow, ours = path.with_name("tapped.sock"), path.with_name("tap.sock")
    tap = Tap()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ours))
        listener.listen(64)
        path.rename(mlflow)
        ours.rename(path)
        threading.Thread(target=tap.serve, args=(listener, str(mlflow)), daemon=True).start()
        try:
            yield tap
        finally:
            mlflow.rename(path)
            listener.shutdown(socket.SHUT_RDWR)


def socket_of(service: Service) -> Path:
    """The socket on which MLflow listens, which it was started on as another name of the same directory."""
    command = arguments(web_server(service))
    return Path(command[command.index("--uds") + 1]).with_name("mlflow.sock")


def arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]


def environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def descendants(pid: int) -> list[int]:
    """Every process below that one."""
    below = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            below += [int(child), *descendants(int(child))]
    return below


def web_server(service: Service, patience: float = 30) -> int:
    """The pid of MLflow's uvicorn."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for pid in descendants(service.process.pid):
            with contextlib.suppress(OSError):
                if arguments(pid)[1:3] == ["-m", "uvicorn"]:
                    return pid
        time.sleep(0.05)
    raise AssertionError("MLflow's web server is not there")
