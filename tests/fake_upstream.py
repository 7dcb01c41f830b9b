"""What stands in MLflow's place when it must misbehave: raw sockets, told by each request's query what to do.

    python fake_upstream.py SOCKET RECORD

Every connection has a thread. The query's arguments, all optional:

``take=N``      read N bytes of the body and no more (else the whole body)
``pause=S``     wait S seconds before the first of it
``wait=S``      wait S seconds before the answer
``hex=…``       answer with exactly these bytes (else with JSON that says what arrived)
``pieces=N``    then send N pieces (``every=S`` apart, each ``piece=BYTES`` of zeros), as chunks, or as they
                are with ``plain=1``
``then=…``      ``keep`` (the default), ``close`` the connection, or ``hang`` until the other side ends it
``file=N``      answer with the N bytes of `file_of`, or the Range of it that is asked for
``cut=N``       of them only the first N, and end the connection then
``lax=1``       a Range whatever If-Range says; ``shift=N`` one that begins N bytes later
``etag=…``      their ETag (``"e"`` unless told; empty for none); ``{}`` in it stands for the time it is asked

And what is only done the first N times that a target is asked for; after those it is as it would be without:

``unread=N``    end the connection with the request unread
``lost=N``      read the whole request and end the connection
``first=N``     only then answer with ``hex``, and do as ``then`` says
``away=N``      answer as MLflow does whose database takes no connection
``dropped=N``   and as it does where one broke in the middle
``crash=N``     answer with Flask's own 500
``cuts=N``      do as ``cut`` says

RECORD gets a JSON line for every request when its head is there (``head``), when its part here is over
(``over``), and when its connection ended (``end``).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import select
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

PIECE = 64 * 1024
AWAY = b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "(psycopg.OperationalError) connection failed"}'
DROPPED = AWAY.replace(b"connection failed", b"consuming input failed: server closed the connection")
CRASH = b"<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n"
lock = threading.Lock()
times: Counter[tuple[str, str]] = Counter()


def still(told: dict[str, str], what: str, target: str) -> bool:
    """Whether this is one of the first times, of which there are as many as `what` says."""
    with lock:
        times[what, target] += 1
        return times[what, target] <= int(told.get(what, 0))


def file_of(size: int) -> bytes:
    """Bytes that differ wherever one looks."""
    return hashlib.shake_128(b"file").digest(min(size, 1_000_003)) * (size // 1_000_003 + 1)


class Gone(Exception):
    """The other side ended the connection."""


class Peer:
    """One connection from the proxy."""

    def __init__(self, number: int, sock: socket.socket, record: Any) -> None:
        self.number = number
        self.sock = sock
        self.record = record
        self.buffer = b""

    def say(self, event: str, **more: Any) -> None:
        with lock:
            line = {"event": event, "connection": self.number, "time": time.time(), **more}
            self.record.write(json.dumps(line) + "\n")
            self.record.flush()

    def more(self) -> bytes:
        try:
            data = self.sock.recv(PIECE)
        except OSError:
            data = b""
        if not data:
            raise Gone
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.buffer += self.more()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def take(self, number: int) -> bytes:
        """At most that many bytes, at least one."""
        if not self.buffer:
            self.buffer = self.more()
        data, self.buffer = self.buffer[:number], self.buffer[number:]
        return data

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:
            raise Gone from None

    def idle(self, seconds: float) -> None:
        """Wait, and notice when the other side ends the connection; what it sends stays unread."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        if poll.poll(None if seconds < 0 else seconds * 1000):
            raise Gone

    def serve(self) -> None:
        self.say("connected")
        try:
            while self.exchange():
                pass
        except Gone:
            pass
        finally:
            self.sock.close()
            self.say("end")

    def exchange(self) -> bool:
        if not self.buffer and b"unread=" in (
            begin := self.sock.recv(PIECE, socket.MSG_PEEK).split(b"\r\n")[0]
        ):
            target = begin.decode("latin-1").split(" ")[1]
            if still(arguments(target), "unread", target):
                self.say("unread", target=target)
                return False
        request = self.line()
        method, target, _ = request.decode("latin-1").split(" ", 2)
        headers = []
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name, value.strip()))
        self.say("head", method=method, target=target, headers=headers)
        told = arguments(target)
        body = Body(self, dict(headers), float(told.get("pause", 0)))
        try:
            body.read(int(told.get("take", -1)))
            if "wait" in told:
                self.idle(float(told["wait"]))
            if still(told, "lost", target):
                return False
            if "first" in told and not still(told, "first", target):
                del told["hex"]
                told.pop("then", None)
            failures = (("away", 503, AWAY), ("dropped", 503, DROPPED), ("crash", 500, CRASH))
            for what, status, said in failures:
                if still(told, what, target):
                    self.send(b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n%s" % (status, len(said), said))
                    return True
            if "hex" in told:
                self.send(bytes.fromhex(told["hex"]))
            elif "file" in told:
                return self.serve_file(told, target, {name.lower(): value for name, value in headers})
            else:
                self.send(told_back(method, target, headers, body, self.number))
            self.pieces(told)
            if told.get("then") == "hang":
                self.idle(-1)
        finally:
            self.say("over", target=target, received=body.received, whole=body.whole)
        return told.get("then") != "close"

    def serve_file(self, told: dict[str, str], target: str, headers: dict[str, str]) -> bool:
        size = int(told["file"])
        data = file_of(size)[:size]
        with lock:
            times["asked", target] += 1
        etag = told.get("etag", '"e"').replace("{}", str(times["asked", target]))
        start, status, more = 0, "200 OK", told.get("more", "")
        if (asked := headers.get("range")) and (headers.get("if-range") == etag or "lax" in told):
            start = int(asked.removeprefix("bytes=").partition("-")[0]) + int(told.get("shift", 0))
            status, more = "206 Partial", more + f"content-range: bytes {start}-{size - 1}/{size}\r\n"
        if etag:
            more += f"etag: {etag}\r\n"
        end = size
        if "cut" in told and ("cuts" not in told or still(told, "cuts", target)):
            end = min(size, start + int(told["cut"]))
        self.send(f"HTTP/1.1 {status}\r\ncontent-length: {size - start}\r\n{more}\r\n".encode())
        self.send(data[start:end])
        return end == size

    def pieces(self, told: dict[str, str]) -> None:
        piece = bytes(int(told.get("piece", 1)))
        data = piece if "plain" in told else b"%x\r\n%s\r\n" % (len(piece), piece)
        sent = 0
        try:
            for _ in range(int(told.get("pieces", 0))):
                self.send(data)
                sent += len(piece)
                if every := float(told.get("every", 0)):
                    self.idle(every)
            if "pieces" in told and "plain" not in told:
                self.send(b"0\r\n\r\n")
        finally:
            if "pieces" in told:
                self.say("sent", bytes=sent)


def arguments(target: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(target.partition("?")[2], True).items()}


class Body:
    """A request's body, read piece by piece."""

    def __init__(self, peer: Peer, headers: dict[str, str], pause: float) -> None:
        self.peer = peer
        self.pause = pause
        self.chunked = headers.get("transfer-encoding") == "chunked"
        self.length = int(headers.get("content-length", 0))
        self.received = 0
        self.whole = False
        self.digest = hashlib.sha256()
        self.start = b""

    def read(self, most: int) -> None:
        """The whole, or `most` bytes of it and whatever chunk they end in."""
        if self.pause:
            time.sleep(self.pause)
        if not self.chunked:
            self._part(self.length if most < 0 else min(self.length, most))
            self.whole = self.received == self.length
            return
        while most < 0 or self.received < most:
            size = int(self.peer.line().partition(b";")[0], 16)
            self._part(size)
            while self.peer.line():  # after a chunk its line's end; after the last one, any trailers first
                pass
            if size == 0:
                self.whole = True
                return

    def _part(self, left: int) -> None:
        while left:
            piece = self.peer.take(min(left, PIECE))
            left -= len(piece)
            self.received += len(piece)
            self.digest.update(piece)
            self.start = (self.start + piece)[:1000]


def told_back(method: str, target: str, headers: list[tuple[str, str]], body: Body, connection: int) -> bytes:
    content = json.dumps(
        {
            "method": method,
            "target": target,
            "headers": headers,
            "connection": connection,
            "length": body.received,
            "sha256": body.digest.hexdigest(),
            "body": body.start.decode("latin-1"),
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else content)


def main(path: str, record: str) -> None:
    with suppress(FileNotFoundError):
        Path(path).unlink()
    with socket.socket(socket.AF_UNIX) as listener, Path(record).open("a") as file:
        listener.bind(path)
        listener.listen(512)
        print("here", flush=True)
        for number in itertools.count(1):
            sock, _ = listener.accept()
            threading.Thread(target=Peer(number, sock, file).serve, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
