"""Whatever MLflow may say arrives as it was said: a fake one is asked at its socket and through the proxy.

What differs on purpose is here, with the reason.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from differential_cases import OWN_HEADERS
from forwarding import ARTIFACT, FLASK, Answer, Client, Rig, response, rigged, told


@dataclass(frozen=True)
class Said:
    """An answer of the fake MLflow, its bytes."""

    name: str
    raw: bytes
    method: str = "GET"
    then: str = "keep"
    but: Mapping[str, str] = field(default_factory=dict)
    proxied: int = 0
    """What the proxy answers where that is something else on purpose, and the reason."""
    why: str = ""


def said(name: str, status: int, *headers: str, body: bytes | None = b"said", **more: Any) -> Said:
    """One with a length, unless `body` is None."""
    framed = headers if body is None else (*headers, f"content-length: {len(body)}")
    return Said(name, response(status, *framed, body=body or b""), **more)


CHUNKS = b"4\r\nsaid\r\n6\r\n again\r\n0\r\n"
ANSWERS = (
    said("200", 200, "content-type: text/plain"),
    said("no type of content", 200),
    said("201 with a place", 201, "location: /api/2.0/there", body=b"{}"),
    said("202", 202, body=b""),
    said("203", 203),
    said("204", 204, body=None),
    said("204 with a length", 204, "content-length: 0", body=None, but={"content-length": "RFC 9110, 8.6"}),
    said("205", 205, body=b""),
    said("207", 207, "content-type: application/xml", body=b"<a/>"),
    said("300", 300, "link: <a>; rel=alternate", "link: <b>; rel=alternate"),
    said("301 elsewhere", 301, "location: https://example.com/a?b=c#d"),
    said("302 with a path", 302, "location: /there?x=%2F"),
    said("303, relative", 303, "location: there"),
    said("304", 304, 'etag: "a"', "cache-control: max-age=5", body=None),
    said("304 with a length", 304, "content-length: 9", body=None, but={"content-length": "RFC 9110, 8.6"}),
    said("307", 307, "location: //example.com/a"),
    said("308 with nothing", 308, "location: /x", body=b""),
    said("401 with two ways", 401, "www-authenticate: Basic", "www-authenticate: Bearer realm=a"),
    said("404 with nothing", 404, body=b""),
    said("409", 409),
    said("410", 410),
    said("418", 418),
    said("429", 429, "retry-after: 7"),
    said("431", 431),
    said("451", 451),
    said("500", 500, body=b'{"error_code": "INTERNAL_ERROR"}'),
    said("501", 501),
    said("599", 599),
    said("cookies", 200, "set-cookie: a=1; Path=/", "set-cookie: b=2; HttpOnly", "set-cookie: a=3"),
    said("headers twice", 200, "x-a: 1", "x-a: 2", "x-b: 3", "x-a: 1"),
    said("vary twice", 200, "vary: Origin", "vary: Accept, Cookie"),
    said("an empty header", 200, "x-empty:", "x-more: a"),
    said("bytes beyond ASCII", 200, "x-latin: caf\xe9"),
    said("a tab", 200, "x-tab: a\tb"),
    said("a long header", 200, f"x-long: {'v' * 30_000}"),
    said("many headers", 200, *(f"x-{n}: {n}" for n in range(90))),
    said("names in capitals", 200, "X-Capital: A", 'ETag: W/"b"'),
    said("what may be kept", 200, "age: 5", "expires: 0", "pragma: no-cache", "cache-control: private"),
    said("a file's", 200, "content-disposition: attachment; filename*=UTF-8''%C3%BC", "accept-ranges: bytes"),
    said("a part", 206, "content-range: bytes 0-3/9"),
    said("an encoding", 200, "content-encoding: gzip", "vary: accept-encoding", body=b"\x1f\x8b not really"),
    said("a language", 200, "content-language: de", "content-location: /a"),
    said("a warning", 200, 'warning: 199 - "so"', "deprecation: @1", "sunset: never"),
    said("a policy", 200, "content-security-policy: default-src a", "strict-transport-security: max-age=1"),
    said("zero bytes", 200, body=b"\0" * 9000),
    said("the end of the connection said", 200, "connection: close", then="close"),
    Said("chunks", response(200, "transfer-encoding: chunked", body=CHUNKS + b"\r\n")),
    Said(
        "chunks with a trailer",
        response(200, "transfer-encoding: chunked", "trailer: x-sum", body=CHUNKS + b"x-sum: 1\r\n\r\n"),
        but={"trailer": "trailers are dropped, which RFC 9110, 6.5 allows"},
    ),
    Said("no chunk", response(200, "transfer-encoding: chunked", body=b"0\r\n\r\n")),
    Said(
        "until the end",
        response(200, "content-type: text/plain", body=b"until the end"),
        then="close",
        proxied=502,
        why="it can't be told from an answer that broke off, and MLflow's web server sends none",
    ),
    said("HEAD with a length", 200, "content-length: 12345", body=None, method="HEAD"),
    Said("HEAD in chunks", response(200, "transfer-encoding: chunked"), method="HEAD"),
    said("HEAD of an error", 404, "content-length: 5", body=None, method="HEAD"),
    said("DELETE", 200, method="DELETE"),
    said("DELETE with 204", 204, body=None, method="DELETE"),
    said("OPTIONS", 204, "allow: GET, OPTIONS", body=None, method="OPTIONS"),
    Said(
        "early hints",
        response(103, "link: </a>; rel=preload") + response(200, "content-length: 1", body=b"a"),
    ),
    Said("100 unasked", response(100) + response(200, "content-length: 1", body=b"a")),
    Said("102 twice", 2 * response(102) + response(200, "content-length: 1", body=b"a")),
)


class Inside(Client):
    """A client at the fake MLflow's own socket."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(path))
        self.buffer = b""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_whatever_mlflow_may_say_arrives_as_it_was_said(rig: Rig, answer: Said) -> None:
    path = FLASK if answer.method == "GET" else ARTIFACT
    target = told(path, answer.raw, then=answer.then)
    with Inside(rig.socket) as inside, rig.client() as client:
        direct, proxied = (_final(one, answer.method, target) for one in (inside, client))
    if answer.why:
        assert proxied.status == answer.proxied
        return
    assert proxied.status == direct.status
    assert proxied.body == direct.body
    assert in_order(proxied, answer.but) == in_order(direct, answer.but)


def _final(client: Client, method: str, target: str) -> Answer:
    """The answer after the interim ones, which are no business of the client's."""
    client.request(method, target)
    while (answer := client.answer(method)).status < 200:
        pass
    return answer


def in_order(answer: Answer, but: Mapping[str, str]) -> dict[str, list[str]]:
    """The values of each header in their order, how the body is framed left out where nothing is said of its
    length: that is a matter between two programs."""
    found: dict[str, list[str]] = {}
    for name, value in answer.headers:
        name = name.lower().rstrip(":")
        if name not in OWN_HEADERS and name not in but and name != "transfer-encoding":
            found.setdefault(name, []).append(value)
    return found
