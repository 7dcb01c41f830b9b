"""The connections to MLflow: what is kept and used again, and what is made of a broken answer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forwarding import ARTIFACT, CREATE, FLASK, MIB, Rig, Truncated, head, response, rigged, told, until

from proxy.http1 import Broken, Connection

STREAM = response(200, "transfer-encoding: chunked")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def connection(rig: Rig) -> int:
    return int(rig.ask("GET", FLASK).json()["connection"])


def test_a_connection_is_used_again(rig: Rig) -> None:
    first = connection(rig)
    assert [connection(rig) for _ in range(5)] == [first] * 5
    rig.ask("PUT", ARTIFACT, body=b"x" * 200_000)
    rig.ask("GET", told(ARTIFACT, STREAM, pieces=3, piece=100_000))
    assert connection(rig) == first


@pytest.mark.parametrize(
    "headers", [("content-length: 1000",), ("transfer-encoding: chunked",), ("content-length: 0",)]
)
def test_a_head_request_leaves_its_connection_usable(rig: Rig, headers: tuple[str, ...]) -> None:
    first = connection(rig)
    with rig.client() as client:
        for _ in range(2):
            client.send(head("HEAD", told(FLASK, response(200, *headers))))
            assert client.answer("HEAD").status == 200
        assert client.ask("GET", FLASK).json()["connection"] == first
        client.send(head("HEAD", FLASK))
        client.answer("HEAD")
        assert client.ask("GET", told(FLASK, response(404, "content-length: 2", body=b"no"))).body == b"no"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_leaves_its_connection_usable(rig: Rig, status: int) -> None:
    first = connection(rig)
    assert rig.ask("GET", told(FLASK, response(status, "content-length: 10"))).status == status
    assert connection(rig) == first


def test_interim_answers_are_passed_over(rig: Rig) -> None:
    raw = response(100) + response(103, "link: </a>") + response(200, "content-length: 2", body=b"ok")
    answer = rig.ask("GET", told(FLASK, raw))
    assert (answer.status, answer.body, answer.header("link")) == (200, b"ok", None)


def test_a_connection_that_mlflow_ends_is_not_used_again(rig: Rig) -> None:
    for raw in (
        response(200, "connection: close", "content-length: 2", body=b"ok"),
        response(200, "content-length: 2", body=b"ok"),
    ):
        assert rig.ask("GET", told(FLASK, raw, then="close")).body == b"ok"
        assert rig.ask("GET", FLASK).status == 200


@pytest.mark.parametrize("then", ["keep", "close"])
@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        response(999, "content-length: 0"),
        response(101, "upgrade: websocket", "connection: upgrade"),
        response(200, "content-length: 2", "content-length: 3", body=b"ok"),
        response(200, "content-length: two"),
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_a_502(rig: Rig, raw: bytes, then: str) -> None:
    answer = rig.ask("GET", told(FLASK, raw, then=then))
    assert answer.status == 502
    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert rig.logged(request_id=answer.header("x-request-id"))["error"] == "bad_answer"
    until(rig.at_rest)


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Le", response(100)])
def test_an_mlflow_that_dies_before_it_answers_is_a_502(rig: Rig, raw: bytes) -> None:
    answer = rig.ask("GET", told(FLASK, raw, then="close", x=1))
    assert answer.status == 502
    assert rig.logged(request_id=answer.header("x-request-id"))["error"] == "reset"


BROKEN_OFF = (
    STREAM + b"4\r\nhalf\r\n",
    STREAM + b"9\r\nhalf",
    response(200, "content-length: 9", body=b"half"),
)


@pytest.mark.parametrize("raw", BROKEN_OFF)
def test_a_stream_that_breaks_off_is_seen_to_be_broken(rig: Rig, raw: bytes) -> None:
    with rig.client() as client:
        client.request("GET", told(ARTIFACT, raw, then="close"))
        with pytest.raises(Truncated):
            client.answer()
    until(rig.at_rest)


@pytest.mark.parametrize("raw", BROKEN_OFF)
def test_a_plain_answer_that_breaks_off_is_told_as_what_may_have_been_done(rig: Rig, raw: bytes) -> None:
    answer = rig.ask("POST", told(CREATE, raw, then="close"))
    assert answer.status == 409
    assert rig.logged(request_id=answer.header("x-request-id"))["error"] == "reset"
    until(rig.at_rest)


def test_a_chunk_that_is_none_breaks_the_answer_off(rig: Rig) -> None:
    with rig.client() as client:
        client.request("GET", told(ARTIFACT, STREAM + b"4\r\nhalf\r\nnonsense\r\n"))
        with pytest.raises(Truncated):
            client.answer()


def test_an_mlflow_that_is_killed_in_mid_answer_is_seen_to_have_broken_off() -> None:
    with rigged() as rig, rig.client() as client:
        client.request("GET", told(ARTIFACT, STREAM, pieces=1000, every="0.05", piece=5))
        client.head()
        client.chunk()
        rig.end_upstream()
        with pytest.raises(Truncated):
            client.answer_of_chunks()
        assert rig.logged(operation="artifact-download")["error"] == "reset"


def test_bytes_behind_an_answer_reach_nobody(rig: Rig) -> None:
    first = connection(rig)
    second = response(403, "content-length: 6", "x-second: 1", body=b"second")
    raw = response(200, "content-length: 5", body=b"first") + second
    answer = rig.ask("GET", told(FLASK, raw))
    assert (answer.status, answer.body, answer.header("x-second")) == (200, b"first", None)
    assert connection(rig) != first
    # And such as come later, to a connection that nobody uses.
    rig.ask("GET", told(FLASK, response(200, "content-length: 0"), pieces=2, plain=1, every="0.1"))
    time.sleep(0.2)
    assert rig.ask("GET", FLASK).status == 200


def test_a_trailer_of_mlflows_is_no_header(rig: Rig) -> None:
    raw = STREAM + b"2\r\nok\r\n0\r\nset-cookie: late=1\r\n\r\n"
    answer = rig.ask("GET", told(FLASK, raw))
    assert (answer.body, answer.header("set-cookie")) == (b"ok", None)


def test_a_new_generations_socket_is_used_at_once() -> None:
    with rigged() as rig:
        clients = [rig.client() for _ in range(3)]
        for client in clients:
            client.request("GET", told(FLASK, wait="0.2"))
        for client in clients:
            client.answer()
        old = {event["connection"] for event in rig.events("head")}
        assert rig.standing()["idle"] == 3
        # As a new generation does: bind a path of its own, then rename it over the shared one.
        shared, aside = rig.socket, rig.socket.with_name("n.sock")
        rig.socket = aside
        rig.start_upstream()
        aside.rename(shared)
        assert rig.ask("GET", FLASK).status == 200
        assert until(lambda: {event["connection"] for event in rig.events("end")} >= old)
        assert rig.standing()["idle"] == 1


def test_idle_connections_of_a_dead_mlflow_are_not_used() -> None:
    with rigged() as rig:
        connection(rig)
        rig.end_upstream()
        until(lambda: rig.standing()["idle"] >= 0)
        rig.start_upstream()
        assert rig.ask("GET", FLASK).status == 200


def test_more_than_one_piece_waits_for_nobody(rig: Rig) -> None:
    size = 5_000_000
    raw = response(200, f"content-length: {size}")
    with rig.client() as client:
        client.request("GET", told(ARTIFACT, raw, pieces=5, piece=size // 5, plain=1))
        assert len(client.answer().body) == size
        assert client.ask("GET", FLASK).status == 200


def test_a_long_answer_that_is_lost_while_nothing_of_it_is_wanted_is_broken(tmp_path: Path) -> None:
    """MLflow answers an upload early and is gone, while the client takes none of that answer."""

    async def mlflow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(413, f"content-length: {MIB}", body=b"begun"))
        await begun.wait()
        writer.write(bytes(1000))
        await refused.wait()
        writer.transport.abort()  # with most of the upload unread

    async def exchange() -> None:
        server = await asyncio.start_unix_server(mlflow, str(tmp_path / "s"), limit=1000)
        loop = asyncio.get_running_loop()
        _, one = await loop.create_unix_connection(Connection, str(tmp_path / "s"))
        one.send_head(b"PUT / HTTP/1.1\r\n\r\n", head_only=False)
        one.write(bytes(4 * MIB))
        await one.head()
        assert await one.piece() == b"begun"
        begun.set()
        await asyncio.wait_for(one.hand_on(lambda _: False), 30)
        refused.set()
        with pytest.raises(Broken):
            await asyncio.wait_for(one.drain(), 30)
        with pytest.raises(Broken):
            await asyncio.wait_for(one.hand_on(lambda _: False), 30)
        server.close()

    begun, refused = asyncio.Event(), asyncio.Event()
    asyncio.run(exchange())


def test_no_tcp_connection_is_made_to_mlflow(rig: Rig) -> None:
    assert rig.socket.is_socket()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 5999)) != 0


def test_an_answer_that_breaks_off_ends_the_requests_behind_it(rig: Rig) -> None:
    broken = told(ARTIFACT, STREAM + b"4\r\nhalf\r\n", then="close", wait="0.1")
    behind = told(FLASK, test="behind")
    with rig.client() as client:
        client.send(head("GET", broken) + head("GET", behind))
        assert b"HTTP/1.1 200" not in client.rest()[20:]
    until(rig.at_rest)
    assert rig.events("head", target=behind) == []
    assert "ASGI callable" not in rig.log()
