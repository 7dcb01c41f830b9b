"""Two readings of where a request ends: none reaches MLflow as more, or as other, than was let through."""

from __future__ import annotations

import time

import pytest
import wire
from attacked import PASSWORDS, Target

SEARCH = "/api/2.0/mlflow/experiments/search"
HIDDEN = "/api/2.0/mlflow/hidden-in-a-body"
CREDENTIAL = "{}: {}\r\n".format(*wire.basic("edda", PASSWORDS["edda"])).encode()
START = (
    f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n".encode() + CREDENTIAL
)
INSIDE = f"GET {HIDDEN} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


END = b"0\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(INSIDE)
AMBIGUOUS = {
    "CL.TE": START + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + END + INSIDE,
    "TE.CL": START + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunk(INSIDE) + END,
    "TE.TE x": START + b"Transfer-Encoding: xchunked\r\n\r\n" + END + INSIDE,
    "TE.TE identity": START + b"Transfer-Encoding: chunked, identity\r\n\r\n" + END + INSIDE,
    "TE.TE twice": START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + END + INSIDE,
    "TE.TE first x": START
    + b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n"
    + LENGTH
    + b"\r\n"
    + END
    + INSIDE,
    "TE with a space": START + b"Transfer-Encoding : chunked\r\n\r\n" + END + INSIDE,
    "TE with a tab": START + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + END + INSIDE,
    "TE in quotes": START + b'Transfer-Encoding: "chunked"\r\n' + LENGTH + b"\r\n" + END + INSIDE,
    "TE folded": START + b"X: y\r\n Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + END + INSIDE,
    "TE with NUL": START + b"Transfer-Encoding: chunked\x00\r\n" + LENGTH + b"\r\n" + END + INSIDE,
    "TE after a bare LF": START + b"X: y\nTransfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + END + INSIDE,
    "TE after a bare CR": START + b"X: y\rTransfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + END + INSIDE,
    "TE of identity": START + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + INSIDE,
    "CL twice": START + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + INSIDE,
    "CL twice the same": START + LENGTH + LENGTH + b"\r\n" + INSIDE,
    "CL as a list": START + b"Content-Length: 0, %d\r\n\r\n" % len(INSIDE) + INSIDE,
    "CL with a sign": START + b"Content-Length: +0\r\n\r\n" + INSIDE,
    "CL below nothing": START + b"Content-Length: -1\r\n\r\n" + INSIDE,
    "CL in hexadecimal": START + b"Content-Length: 0x0\r\n\r\n" + INSIDE,
    "CL with a space in it": START + b"Content-Length: 0 0\r\n\r\n" + INSIDE,
    "CL beyond 64 bits": START + b"Content-Length: 18446744073709551616\r\n\r\n" + INSIDE,
    "CL empty": START + b"Content-Length:\r\n\r\n" + INSIDE,
    "a chunk's size beyond 64 bits": START
    + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n"
    + END
    + INSIDE,
    "a chunk's size with a sign": START + b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n" + INSIDE,
    "a chunk's size as 0x": START + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + INSIDE,
    "a chunk's end by LF": START + b"Transfer-Encoding: chunked\r\n\r\n0\n\n" + INSIDE,
    "an extension with LF": START + b"Transfer-Encoding: chunked\r\n\r\n2;a\nxx\r\n{}\r\n" + END + INSIDE,
    "a chunk longer than said": START + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx\r\n" + END + INSIDE,
    "a trailer of CL": START + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n" + INSIDE,
    "lines by LF": START.replace(b"\r\n", b"\n") + b"\n" + INSIDE,
    "lines by CR": START.replace(b"\r\n", b"\r") + b"\r" + INSIDE,
    "a header without a name": START + b": x\r\n\r\n" + INSIDE,
    "a header without a colon": START + b"GET / HTTP/1.1\r\n\r\n" + INSIDE,
    "a name with NUL": START + b"X\x00Y: z\r\n\r\n" + INSIDE,
    "a space before the first header": START.replace(b"\r\nHost", b"\r\n Host") + b"\r\n" + INSIDE,
    "HTTP/1.2": START.replace(b"HTTP/1.1", b"HTTP/1.2") + b"\r\n" + INSIDE,
    "HTTP/0.9": b"GET " + HIDDEN.encode() + b"\r\n\r\n" + INSIDE,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INSIDE,
    "a space in the target": START.replace(SEARCH.encode(), b"/a /b") + b"\r\n" + INSIDE,
    "CRLF in the target": START.replace(SEARCH.encode(), b"/a\r\nX: y") + b"\r\n" + INSIDE,
}


@pytest.mark.parametrize("attack", AMBIGUOUS)
def test_an_ambiguous_end_ends_the_connection(target: Target, attack: str) -> None:
    before = target.tap.now
    with wire.connection(target.service, patience=4) as connection:
        connection.sendall(AMBIGUOUS[attack])
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except TimeoutError:
            pytest.fail(f"the connection stays open: {received!r}")
        except ConnectionError:
            pass
    statuses = wire.statuses_in(received)
    assert len(statuses) <= 1
    assert all(400 <= status < 500 for status in statuses), received
    assert HIDDEN.encode() not in received
    new = [(method, path) for method, path, _ in target.tap.heads(before) if path != SEARCH]
    assert [path for _, path in new if HIDDEN in path] == []


def test_a_request_within_a_body_stays_a_body(target: Target) -> None:
    """Read as it should be, and forwarded with the one Content-Length that is ours to write."""
    for data in (
        START + b"Connection: close\r\n" + LENGTH + b"\r\n" + INSIDE,
        START + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(INSIDE, b';a="b"') + END,
        START + b"Connection: close\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunk(INSIDE) + END,
    ):
        before = target.tap.now
        with wire.connection(target.service) as connection:
            connection.sendall(data)
            answer = wire.read(connection, "POST")
        sent = target.forwarded(answer)
        assert sent is not None
        assert sent[2]["content-length"] == str(len(INSIDE))
        assert "transfer-encoding" not in sent[2]
        time.sleep(0.2)
        # The recorder finds the head inside the body too; what matters is that MLflow answered one request.
        assert len([head for head in target.tap.heads(before) if head[1] == SEARCH]) == 1


def test_each_of_two_requests_on_a_connection_is_judged_for_itself(target: Target) -> None:
    admins = b"GET /api/3.0/mlflow/gateway/secrets/list HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    first = f"GET {SEARCH}?max_results=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    ada = "{}: {}\r\n".format(*wire.basic("ada", PASSWORDS["ada"])).encode()
    close = b"Connection: close\r\n\r\n"
    assert wire.statuses(target.service, first + ada + b"\r\n" + admins + close) == [200, 401]
    assert wire.statuses(target.service, first + ada + b"\r\n" + admins + CREDENTIAL + close) == [200, 403]
    evil = first.replace(b"127.0.0.1", b"evil.example")
    assert wire.statuses(target.service, first + ada + b"\r\n" + evil + ada + close) == [200, 421]


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0, HTTP/1.1"])
def test_an_upgrade_opens_no_tunnel(target: Target, protocol: str) -> None:
    before = target.tap.now
    upgrade = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    upgrade += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    start = f"GET {SEARCH}?max_results=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + CREDENTIAL
    statuses = wire.statuses(target.service, start + upgrade.encode() + INSIDE, patience=2)
    assert len(statuses) == 1
    assert statuses[0] in (200, 400)
    for _, path, headers in target.tap.heads(before):
        assert HIDDEN not in path
        assert not {"upgrade", "connection", "http2-settings"} & {name for name, _ in headers}


def test_a_value_splits_no_answer(target: Target) -> None:
    for path in (
        "/%0d%0aX-Split:%20y",
        f"{SEARCH}?max_results=%0d%0aX-Split:%20y",
        "/build/x%0d%0aX-Split:y",
    ):
        answer = target.ask("vera", "GET", path)
        assert "x-split" not in answer.headers
    answer = target.ask("vera", "GET", SEARCH, ("X-Request-Id", "x%0d%0aX-Split: y"), source=wire.TRUSTED)
    assert "x-split" not in answer.headers
