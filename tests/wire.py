"""Requests as an attacker writes them: exact bytes over a real connection, from any loopback address."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

from service import Service

Headers = tuple[tuple[str, str], ...]

# The loopback network is a /8: every test that sends wrong passwords comes from an address of its own.
HERE = "127.0.0.1"
TRUSTED = "127.0.0.2"
"""The one address that the services of tests/attacks take for a proxy of theirs (PROXY_TRUSTED_PROXIES)."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]


@contextlib.contextmanager
def connection(service: Service, source: str = HERE, patience: float = 20) -> Iterator[socket.socket]:
    """A connection to the service, through TLS where it speaks that."""
    plain = socket.create_connection(("127.0.0.1", service.port), patience, (source, 0))
    context = service.tls()
    with plain, contextlib.ExitStack() as stack:
        if context is None:
            yield plain
        else:
            yield stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))


def basic(user: str, password: str) -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def ask(
    service: Service,
    method: str,
    target: str,
    *headers: tuple[str, str],
    body: bytes = b"",
    host: str | None = None,
    source: str = HERE,
) -> Answer:
    """One request, its target and headers (in Latin-1) exactly as given."""
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: 127.0.0.1:{service.port}" if host is None else f"Host: {host}",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "Connection: close", "", ""])
    with connection(service, source) as wire:
        wire.sendall(head.encode("latin-1") + body)
        return read(wire, method)


def read(wire: socket.socket, method: str = "GET") -> Answer:
    answer = HTTPResponse(wire, method=method)
    answer.begin()
    with answer:
        return Answer(
            answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        )


def post(service: Service, target: str, what: Any, *headers: tuple[str, str], **more: Any) -> Answer:
    body = json.dumps(what).encode()
    return ask(service, "POST", target, ("Content-Type", "application/json"), *headers, body=body, **more)


def statuses(service: Service, data: bytes, source: str = HERE, patience: float = 5) -> list[int]:
    """Send these bytes; the status of every answer until the connection ends or is quiet for `patience`."""
    with connection(service, source, patience) as wire:
        wire.sendall(data)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := wire.recv(65536):
                received += piece
    return statuses_in(received)


def statuses_in(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
