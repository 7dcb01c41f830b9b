"""The service as seen from outside: its public address, and connections to it that go no other way."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proxy.doctor.case import Case, data_directory
from proxy.doctor.running import Visit

LANDINGS = 12
"""Connections that are tried until one leads to the very service that was asked to listen: a balancer may
lead to its replicas."""
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Address:
    """Where people and programs find the service."""

    url: str
    scheme: str
    host: str
    port: int
    prefix: str
    set_by: str
    """What it comes from."""

    @property
    def authority(self) -> str:
        """For the Host header (RFC 9110, 7.2): a port that is the scheme's own is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


def address_of(case: Case) -> Address:
    """By --url, PROXY_PUBLIC_URL, or the address listened on."""
    if case.asked.url is not None:
        url, set_by = case.asked.url, "--url"
    elif case.settings.public_url is not None:
        url, set_by = case.settings.public_url, "PROXY_PUBLIC_URL"
    else:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(case.settings.host, case.settings.host)  # noqa: S104
        scheme = "https" if case.settings.tls else "http"
        url, set_by = f"{scheme}://{host}:{case.settings.port}", "MLFLOW_HOST and MLFLOW_PORT"
    parts = urlsplit(url)
    return Address(
        url.rstrip("/"),
        parts.scheme,
        parts.hostname or "",
        parts.port or _default_port(parts.scheme),
        parts.path.rstrip("/"),
        set_by,
    )


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def authorities(case: Case) -> str | None:
    """The file of the service's own authority, where its certificate is of that one."""
    if not case.settings.tls or case.settings.tls_cert_file is not None:
        return None
    path = data_directory(case).path / "tls" / "ca.pem"
    return str(path) if path.exists() else None


def verifying(case: Case) -> ssl.SSLContext:
    """As a client verifies: the system's authorities, the service's own, and those of --ca."""
    context = ssl.create_default_context()
    for path in (authorities(case), case.asked.authorities):
        if path is not None:
            with contextlib.suppress(OSError, ssl.SSLError):
                context.load_verify_locations(path)
    return context


def trusting() -> ssl.SSLContext:
    """Believes any certificate: so that what is wrong with one keeps nothing else from being told."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    local: tuple[str, int]
    """Our end of the connection."""

    @property
    def ours(self) -> bool:
        """Whether an mlflow-proxy wrote it, as far as can be seen."""
        return "x-request-id" in self.headers

    def json(self) -> dict[str, Any]:
        """Empty where it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class Outside:
    """Requests at the public address. Each goes by a connection of its own. All raise OSError (of which
    http.client's are made here)."""

    def __init__(self, address: Address, visit: Visit, seconds: float) -> None:
        self.address = address
        self.visit = visit
        self._seconds = seconds

    def connect(self, seconds: float | None = None) -> socket.socket:
        return connect(self.address, seconds or self._seconds, trusting())

    def target(self, **fields: Any) -> str:
        query = "&".join(f"{name}={value}" for name, value in fields.items())
        return f"{self.address.prefix}{self.visit.path}{'?' if query else ''}{query}"

    @contextlib.contextmanager
    def begun(
        self,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] | bytes | None = None,
        seconds: float | None = None,
        **fields: Any,
    ) -> Iterator[tuple[http.client.HTTPResponse, tuple[str, int]]]:
        """An answer whose head has come, and our end of its connection."""
        connection = http.client.HTTPConnection(self.address.host, self.address.port)
        connection.sock = self.connect(seconds)
        try:
            name = connection.sock.getsockname()
            # Refused in the middle of the body: the answer may be there all the same.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    method,
                    self.target(**fields),
                    body=body,
                    headers={
                        "Host": self.address.authority,
                        "User-Agent": "mlflow-proxy-doctor",
                        **(headers or {}),
                    },
                    encode_chunked=body is not None and not isinstance(body, bytes),
                )
            yield connection.getresponse(), (str(name[0]), int(name[1]))
        except http.client.HTTPException as error:
            raise ConnectionError(str(error) or type(error).__name__) from None
        finally:
            connection.close()

    def ask(self, method: str = "GET", **more: Any) -> Answer:
        with self.begun(method, **more) as (response, local):
            body = response.read(_MOST)
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, body, local)

    def landed(self, method: str = "GET", **more: Any) -> Answer:
        """`ask`, again and again where another replica answers, which knows of no visit."""
        for _ in range(LANDINGS - 1):
            answer = self.ask(method, **more)
            if not elsewhere(answer):
                return answer
        return self.ask(method, **more)


def elsewhere(answer: Answer) -> bool:
    """Whether it is the answer of an mlflow-proxy that knows nothing at that path."""
    return answer.ours and answer.status in (401, 403, 404, 429)


def connect(address: Address, seconds: float, context: ssl.SSLContext) -> socket.socket:
    """A connection, with TLS where the address has it. Raises OSError."""
    plain = socket.create_connection((address.host, address.port), timeout=seconds)
    if address.scheme != "https":
        return plain
    try:
        context.set_alpn_protocols(["http/1.1"])
        return context.wrap_socket(plain, server_hostname=address.host)
    except BaseException:
        plain.close()
        raise


def continued(outside: Outside, size: int, seconds: float) -> int:
    """The status that a body of that size gets when it is declared and waits to be asked for (RFC 9110,
    10.1.1): 100 where it is welcome. Nothing of it is sent. 0 where nothing is said in time.

    Raises OSError.
    """
    head = (
        f"POST {outside.target()} HTTP/1.1\r\nHost: {outside.address.authority}\r\n"
        f"User-Agent: mlflow-proxy-doctor\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {size}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with outside.connect(seconds) as connection:
        connection.sendall(head.encode("ascii"))
        said = b""
        deadline = time.monotonic() + seconds
        while b"\r\n" not in said:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = connection.recv(4096)
            except TimeoutError:
                return 0
            if not piece:
                raise ConnectionError("the connection was closed without an answer")
            said += piece
    try:
        return int(said.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise ConnectionError("the answer is not HTTP") from None
