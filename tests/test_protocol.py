"""What clients send, byte for byte: what is read, in which order it is answered, and what is refused how."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from forwarding import ARTIFACT, BASIC, FLASK, MIB, Rig, head, response, rigged, told, until

CHUNKED = "Transfer-Encoding: chunked"
LOGIN = b"Authorization: " + BASIC + b"\r\n"
HOST = b"Host: localhost\r\n"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged(head_seconds=1.0, keep_alive=1, body_limit=MIB) as rig:
        yield rig


def get(path: str, *more: bytes) -> bytes:
    return b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + LOGIN + b"".join(more) + b"\r\n"


def test_an_interim_answer_is_sent_only_to_whom_we_read(rig: Rig) -> None:
    with rig.client() as client:
        client.send(head("PUT", ARTIFACT, "Expect: 100-continue", "Content-Length: 3"))
        assert client.answer().status == 100
        client.send(b"abc")
        answer = client.answer()
        assert answer.json()["body"] == "abc"
        assert answer.arrived("expect") == []
    for path, status, login in ((ARTIFACT, 401, False), (FLASK, 413, True)):
        with rig.client() as client:
            client.send(
                head(
                    "PUT" if path is ARTIFACT else "POST",
                    path,
                    "Expect: 100-continue",
                    f"Content-Length: {20 * MIB}",
                    login=login,
                )
            )
            refused = client.answer()
            assert (refused.status, refused.header("connection")) == (status, "close")
            assert client.ended()  # the body, or the next request: who could tell?


def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    with rig.client() as client:
        client.send(
            get(told(FLASK, wait="0.3", mark=1)) + get(told(FLASK, mark=2)) + get(told(ARTIFACT, mark=3))
        )
        marks = [client.answer().json()["target"][-1] for _ in range(3)]
    assert marks == ["1", "2", "3"]


def test_a_refused_request_does_not_upset_the_ones_after_it(rig: Rig) -> None:
    too_large = b"POST " + FLASK.encode() + b" HTTP/1.1\r\n" + HOST + LOGIN + CHUNKED.encode() + b"\r\n\r\n"
    body = (b"%x\r\n%s\r\n" % (MIB, bytes(MIB))) * 2 + b"0\r\n\r\n"
    with rig.client() as client:
        client.send(get("/a//b") + get(told(FLASK, mark=1)) + too_large + body + get(told(FLASK, mark=2)))
        statuses = [client.answer().status for _ in range(4)]
    assert statuses == [400, 200, 413, 200]
    with rig.client() as client:
        client.send(b"GET " + FLASK.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n" + get(told(FLASK, mark=3)))
        assert client.answer().status == 401
        assert client.answer().json()["target"].endswith("3")


def test_garbage_behind_a_request_is_not_mixed_into_its_answer(rig: Rig) -> None:
    stream = response(200, "transfer-encoding: chunked")
    with rig.client() as client:
        client.send(get(told(ARTIFACT, stream, pieces=20, every="0.05", piece=100)))
        assert client.head().status == 200
        client.chunk()
        client.send(b"\x00\x01 garbage\r\n\r\n")
        seen = client.rest()
    assert b"HTTP/1.1" not in seen
    assert not seen.endswith(b"0\r\n\r\n")
    with rig.client() as client:
        client.send(get(FLASK) + b"\x00\x01 garbage\r\n\r\n")
        assert client.rest().count(b"HTTP/1.1 ") <= 1


def test_garbage_after_an_answer_is_refused(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(FLASK))
        assert client.answer().status == 200
        client.send(b"\x00\x01 garbage\r\n\r\n")
        assert client.answer().status == 400
        assert client.ended()


PARSER_REFUSES = {
    "a NUL in the target": (b"GET /a\x00b HTTP/1.1\r\n" + HOST + LOGIN + b"\r\n", 400),
    "a target too long": (get("/" + "a" * 65536), 414),
    "a query too long": (get(FLASK + "?" + "a" * 65536), 414),
    "headers too long": (get(FLASK, *(b"X-%d: %s\r\n" % (n, bytes(b"a" * 1000)) for n in range(70))), 431),
    "a header too long": (get(FLASK, b"X: " + b"a" * 70_000 + b"\r\n"), 431),
    "a header without an end": (get(FLASK)[:-2] + b"X: " + b"a" * 1_000_000, 431),
    "a bare LF": (b"GET " + FLASK.encode() + b" HTTP/1.1\nHost: localhost\n\n", 400),
    "length and chunks": (get(FLASK, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
    "chunks and length": (get(FLASK, b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400),
    "two lengths": (get(FLASK, b"Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
    "two equal lengths": (get(FLASK, b"Content-Length: 5\r\nContent-Length: 5\r\n"), 400),
    "a list of lengths": (get(FLASK, b"Content-Length: 5, 5\r\n"), 400),
    "a signed length": (get(FLASK, b"Content-Length: +5\r\n"), 400),
    "a folded header": (get(FLASK, b"X-A: b\r\n c\r\n"), 400),
    "a space before the colon": (get(FLASK, b"Content-Length : 5\r\n"), 400),
    "chunks not last": (get(FLASK, b"Transfer-Encoding: chunked, gzip\r\n"), 400),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + LOGIN + b"\r\n", 400),
    "no path": (b"GET http://example.com HTTP/1.1\r\n" + HOST + LOGIN + b"\r\n", 400),
}


@pytest.mark.parametrize("what", PARSER_REFUSES)
def test_what_is_not_http_is_refused_in_mlflows_shape_and_counted(rig: Rig, what: str) -> None:
    data, status = PARSER_REFUSES[what]
    counted = _unparsed(rig)
    with rig.client() as client:
        client.send(data)
        answer = client.answer()
        assert client.ended()
    assert answer.status == status
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert answer.json()["message"]
    assert answer.header("connection") == "close"
    line = rig.logged(request_id=answer.header("x-request-id"))
    assert (line["operation"], line["status"], line["refusal"]) == ("unparsed", status, "unparsed")
    assert _unparsed(rig) == counted + 1


def _unparsed(rig: Rig) -> float:
    return rig.metric('mlflow_proxy_refusals_total{reason="unparsed"}')


@pytest.mark.parametrize(
    "target", [b"http://example.com" + FLASK.encode(), FLASK.encode() + b"#x", b"*", b"?a"]
)
def test_a_target_that_is_no_path_is_refused(rig: Rig, target: bytes) -> None:
    with rig.client() as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\n" + HOST + LOGIN + b"\r\n")
        answer = client.answer()
    assert answer.status == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"
    line = rig.logged(request_id=answer.header("x-request-id"))
    assert (line["operation"], line["refusal"]) == ("unparsed", "unparsed")


def test_another_transfer_coding_is_refused(rig: Rig) -> None:
    with rig.client() as client:
        client.send(head("POST", FLASK, "Transfer-Encoding: gzip, chunked") + b"3\r\nabc\r\n0\r\n\r\n")
        assert client.answer().status == 501


def test_a_chunk_that_is_none_ends_the_upload_and_not_well(rig: Rig) -> None:
    target = told(ARTIFACT, test="no-chunk")
    with rig.client() as client:
        client.send(head("PUT", target, CHUNKED) + b"3\r\nabc\r\n")
        rig.event("head", target=target)
        client.send(b"nonsense\r\n")
        assert b"HTTP/1.1 200" not in client.rest()
    assert rig.event("over", target=target)["whole"] is False


@pytest.mark.parametrize("path", [ARTIFACT, FLASK])
def test_a_trailer_is_no_header(rig: Rig, path: str) -> None:
    method = "PUT" if path is ARTIFACT else "POST"
    with rig.client() as client:
        client.send(
            head(method, path, CHUNKED, login=False)
            + b"3\r\nabc\r\n0\r\n"
            + LOGIN
            + b"X-Forwarded-For: 6.6.6.6\r\nX-Late: 1\r\n\r\n"
        )
        assert client.answer().status == 401
        client.send(head(method, path, CHUNKED) + b"3\r\nabc\r\n0\r\nX-Late: 1\r\n\r\n")
        answer = client.answer()
    assert answer.json()["body"] == "abc"
    assert answer.arrived("x-late") == []


def test_a_trailer_without_an_end_takes_no_memory(rig: Rig) -> None:
    before = rig.memory()
    with rig.client() as client:
        client.send(head("PUT", ARTIFACT, CHUNKED, login=False) + b"0\r\nX-Late: ")
        assert client.answer().status == 401
        with pytest.raises(ConnectionError):
            client.send(b"a" * 64 * MIB)
    assert rig.memory() - before < 20


def test_a_head_that_trickles_in_is_ended(rig: Rig) -> None:
    began = time.monotonic()
    with rig.client() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        client.sock.settimeout(0.3)
        while not client.buffer and time.monotonic() - began < 10:
            client.send(b"X-A: b\r\n")
            with contextlib.suppress(TimeoutError):
                client.more()
        assert client.buffer.startswith(b"HTTP/1.1 408 ")
        assert client.ended()
    assert rig.logged(status=408)["operation"] == "unparsed"


def test_a_connection_that_says_nothing_is_ended(rig: Rig) -> None:
    with rig.client() as silent, rig.client() as empty, rig.client() as idle:
        empty.send(b"\r\n")
        idle.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.answer()
        began = time.monotonic()
        for client in (silent, empty, idle):
            assert client.ended(10)
        assert 0.5 < time.monotonic() - began < 5


def test_a_connection_whose_refused_body_never_comes_is_ended(rig: Rig) -> None:
    with rig.client() as client:
        client.send(head("PUT", ARTIFACT, "Content-Length: 100000", login=False) + b"some")
        assert client.answer().status == 401
        client.send(b"more")
        assert client.ended(10)


def test_an_upgrade_gets_an_ordinary_answer_and_the_connection_ends(rig: Rig) -> None:
    with rig.client() as client:
        client.send(get(FLASK, b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"))
        answer = client.answer()
        assert answer.status == 200
        assert answer.header("connection") == "close"
        assert client.ended()
    assert answer.arrived("upgrade") == answer.arrived("connection") == []


def test_a_1_0_client_gets_no_chunks(rig: Rig) -> None:
    stream = response(200, "transfer-encoding: chunked")
    with rig.client() as client:
        target = told(ARTIFACT, stream, pieces=3, piece=4)
        client.send(b"GET " + target.encode() + b" HTTP/1.0\r\n" + HOST + LOGIN + b"\r\n")
        answer = client.answer()
    assert answer.header("transfer-encoding") is None
    assert answer.body == bytes(12)
    with rig.client() as client:
        client.send(
            b"POST " + FLASK.encode() + b" HTTP/1.0\r\nExpect: 100-continue\r\n"
            b"Content-Length: 3\r\n" + HOST + LOGIN + b"\r\nabc"
        )
        answer = client.answer()
        assert client.ended()
    assert (answer.status, answer.json()["body"]) == (200, "abc")
    assert int(answer.header("content-length") or 0) == len(answer.body)
    with rig.client() as client:
        client.send(b"HEAD " + FLASK.encode() + b" HTTP/1.0\r\n" + HOST + LOGIN + b"\r\n")
        assert client.answer("HEAD").status == 200
        assert client.rest() == b""


def test_a_long_query_and_an_encoded_path_arrive_as_they_were(rig: Rig) -> None:
    query = "?q=" + "a%20b+c%2F" * 6000
    assert rig.ask("GET", FLASK + query).json()["target"] == FLASK + query
    path = "/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/a%20b/%C3%A9/c%25/d;e=1,2@x:y!$&'()*"
    assert rig.ask("GET", path).json()["target"] == path


def test_refusals_leave_nothing_behind(rig: Rig) -> None:
    until(lambda: rig.at_rest(clients=0))
    assert "Traceback" not in rig.log()
