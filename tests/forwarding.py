"""What the tests of the forwarding path share: a rig of fake MLflow and real proxy, and a raw client."""

from __future__ import annotations

import base64
import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

USER, PASSWORD = "tester", "correct-horse-battery"
BASIC = b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode())
HERE = Path(__file__).parent
# Routes of each kind, by how MLflow serves them.
FLASK = "/api/2.0/mlflow/experiments/search"
CREATE = "/api/2.0/mlflow/experiments/create"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/file.bin"
WHOLE = "/get-artifact"
EVENTS = "/gateway/openai/v1/responses"
GATEWAY = "/gateway/openai/v1/chat/completions"
SERVER_INFO = "/api/3.0/mlflow/server-info"
MIB = 1024 * 1024


class Answer:
    """One answer, as raw as it came."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def json(self) -> Any:
        return json.loads(self.body)

    def arrived(self, name: str) -> list[str]:
        """The values of a header as the fake MLflow got it."""
        return [value for key, value in self.json()["headers"] if key == name]


class Truncated(Exception):
    """The connection ended before the answer did."""


class Client:
    """A raw HTTP/1.1 client: sends what it is told, reads by the book."""

    def __init__(self, port: int, *, receive_buffer: int = 0, timeout: float = 20) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(
        self, method: str, target: str, *headers: str, body: bytes | None = None, login: bool = True
    ) -> None:
        self.send(head(method, target, *headers, body=body, login=login) + (body or b""))

    def ask(self, method: str, target: str, *headers: str, body: bytes | None = None, **more: Any) -> Answer:
        self.request(method, target, *headers, body=body, **more)
        return self.answer(method)

    def more(self) -> bytes:
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise Truncated
        self.buffer += data
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.more()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def exactly(self, number: int) -> bytes:
        while len(self.buffer) < number:
            self.more()
        data, self.buffer = self.buffer[:number], self.buffer[number:]
        return data

    def head(self) -> Answer:
        """Status and headers; the body stays to be read."""
        status = int(self.line().split(b" ")[1])
        headers = []
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(": ")
            headers.append((name, value))
        return Answer(status, headers, b"")

    def answer(self, method: str = "GET") -> Answer:
        answer = self.head()
        if method == "HEAD" or answer.status < 200 or answer.status in (204, 304):
            return answer
        length = answer.header("content-length")
        if length is not None:
            answer.body = self.exactly(int(length))
        elif answer.header("transfer-encoding") == "chunked":
            answer.body = self.answer_of_chunks()
        else:
            answer.body = self.rest()
        return answer

    def answer_of_chunks(self) -> bytes:
        body = b""
        while piece := self.chunk():
            body += piece
        return body

    def chunk(self) -> bytes:
        data = self.exactly(int(self.line(), 16))
        self.line()
        return data

    def rest(self) -> bytes:
        """Everything until the connection ends."""
        try:
            while True:
                self.more()
        except Truncated:
            data, self.buffer = self.buffer, b""
            return data

    def ended(self, seconds: float = 5) -> bool:
        """Whether the server ends the connection, and says nothing more, within that time."""
        self.sock.settimeout(seconds)
        try:
            return not self.sock.recv(1)
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def leave(self) -> None:
        """End the connection as a killed program does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def head(method: str, target: str, *headers: str, body: bytes | None = None, login: bool = True) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    if login:
        lines.append("Authorization: " + BASIC.decode())
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def told(path: str, raw: bytes | None = None, **how: Any) -> str:
    """A target that tells the fake MLflow what to do; `raw` are the bytes it answers with."""
    if raw is not None:
        how["hex"] = raw.hex()
    return path + "?" + "&".join(f"{name}={quote(str(value))}" for name, value in how.items())


class Rig:
    """A fake MLflow and the real proxy before it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.socket = folder / "m.sock"
        self.upstreams: list[subprocess.Popen[bytes]] = []
        self.start_upstream()
        ours, theirs = socket.socketpair()
        told = {
            "upstream": str(self.socket),
            "data_dir": str(folder / "data"),
            "tls": False,
            "username": USER,
            "password": PASSWORD,
            **settings,
        }
        with (folder / "access.log").open("wb") as access, (folder / "application.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "forward_driver.py"), str(theirs.fileno()), json.dumps(told)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=access,
                stderr=log,
                cwd=HERE.parent,
            )
        theirs.close()
        ours.settimeout(30)
        self.control = ours.makefile("rw")
        ours.close()
        self.port = int(self.control_line()["port"])
        with self.client() as client:
            client.ask("GET", FLASK)  # the password's hash is paid here, once

    def control_line(self) -> dict[str, Any]:
        line = self.control.readline()
        assert line, (self.folder / "application.log").read_text()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def standing(self, **told: Any) -> dict[str, Any]:
        """How things stand in the proxy; `up` sets whether MLflow is, `revoked` revokes the credentials
        of all that is under way."""
        self.control.write(json.dumps(told) + "\n")
        self.control.flush()
        return self.control_line()

    def start_upstream(self) -> None:
        self.upstreams.append(
            subprocess.Popen(
                [
                    sys.executable,
                    str(HERE / "fake_upstream.py"),
                    str(self.socket),
                    str(self.folder / "record"),
                ],
                stdout=subprocess.PIPE,
            )
        )
        stdout = self.upstreams[-1].stdout
        assert stdout is not None
        stdout.readline()

    def end_upstream(self) -> None:
        self.upstreams[-1].kill()
        self.upstreams[-1].wait()

    def client(self, **how: Any) -> Client:
        return Client(self.port, **how)

    def ask(self, method: str, target: str, *headers: str, body: bytes | None = None, **more: Any) -> Answer:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.ask(method, target, *headers, body=body, **more)

    def events(self, event: str, **what: Any) -> list[dict[str, Any]]:
        """What the fake MLflow recorded."""
        text = (self.folder / "record").read_text()
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [
            line for line in lines if line["event"] == event and all(line[key] == what[key] for key in what)
        ]

    def event(self, event: str, **what: Any) -> dict[str, Any]:
        """The first such event; waits for it."""
        found = until(lambda: self.events(event, **what))
        return found[0]  # type: ignore[no-any-return]

    def logged(self, **what: Any) -> dict[str, Any]:
        """The access log's last line with those values; waits for it."""

        def look() -> dict[str, Any] | None:
            lines = (self.folder / "access.log").read_text().splitlines(keepends=True)
            for text in reversed(lines):
                if text.endswith("\n"):
                    line: dict[str, Any] = json.loads(text)
                    if all(line[key] == value for key, value in what.items()):
                        return line
            return None

        return until(look)  # type: ignore[no-any-return]

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/metrics").body.decode()
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            if series == name:
                return float(value)
        return 0.0

    def at_rest(self, **more: int) -> bool:
        """Whether nothing is under way, held or waiting."""
        now = self.standing()
        nothing = {"passages": 0, "waiting": 0, "bytes_held": 0, "slots": 0, **more}
        return all(now[name] == value for name, value in nothing.items())

    def memory(self) -> float:
        """The proxy's resident memory, in MiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")

    def log(self) -> str:
        return (self.folder / "application.log").read_text()

    def end(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()
        for upstream in self.upstreams:
            upstream.kill()
            upstream.communicate()


@contextmanager
def rigged(**settings: Any) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="mp-") as folder:
        rig = Rig(Path(folder), **settings)
        try:
            yield rig
        finally:
            rig.end()


def until(true: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)
    return value


def response(status: int, *headers: str, body: bytes = b"") -> bytes:
    """An answer's bytes, for `told`."""
    lines = [f"HTTP/1.1 {status} Whatever", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
