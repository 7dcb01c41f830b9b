"""Carrying requests to MLflow and answers back: streams, bounds, and what happens when somebody leaves."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from fake_upstream import file_of
from forwarding import (
    ARTIFACT,
    CREATE,
    EVENTS,
    FLASK,
    MIB,
    SERVER_INFO,
    WHOLE,
    Client,
    Rig,
    Truncated,
    head,
    response,
    rigged,
    told,
    until,
)
from service import Service

CHUNKED = "Transfer-Encoding: chunked"
STREAM = response(200, "transfer-encoding: chunked")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged(body_limit=MIB, buffer_bytes=4 * MIB) as rig:
        yield rig


@pytest.fixture(scope="module")
def hurried() -> Iterator[Rig]:
    """Short patience on all sides."""
    with rigged(stall_timeout=1.0, answer_timeout=2.0) as rig:
        yield rig


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# Streams.


def test_a_big_download_to_a_slow_client_takes_no_memory(rig: Rig) -> None:
    size = 300 * MIB
    before = rig.memory()
    target = told(
        ARTIFACT,
        response(200, f"content-length: {size}"),
        pieces=size // MIB,
        piece=MIB,
        plain=1,
        wait="0.01",
    )
    with rig.client(receive_buffer=256 * 1024) as client:
        client.request("GET", target)
        assert client.head().status == 200
        time.sleep(0.7)  # nothing is read now: MLflow must be held back
        held_back = rig.memory()
        received = len(client.buffer)
        client.buffer = b""
        most = held_back
        while received < size:
            received += len(client.sock.recv(MIB))
            if received % (16 * MIB) < 65536:
                most = max(most, rig.memory())
    assert received == size
    assert max(most, held_back) - before < 20


def test_a_long_download_is_what_mlflow_sent_however_it_is_taken(rig: Rig) -> None:
    size = 24 * MIB
    whole = file_of(size)[:size]
    target = told(ARTIFACT, file=size, test="however")
    with rig.client(receive_buffer=128 * 1024, timeout=60) as client:
        for pause in (0.0, 0.02):  # as fast as it can, and with what it does not take waiting for it
            client.request("GET", target)
            answer = client.head()
            received = bytearray(client.buffer)
            client.buffer = b""
            while len(received) < size:
                received += client.sock.recv(min(MIB, size - len(received)))
                time.sleep(pause if len(received) % 7 == 0 else 0)
            assert received == whole
            assert rig.logged(request_id=answer.header("x-request-id"))["bytes_out"] == size
    assert len({event["connection"] for event in rig.events("head", target=target)}) == 1


def test_a_short_request_after_a_long_download_is_understood(rig: Rig) -> None:
    with rig.client() as client:
        for _ in range(3):
            assert len(client.ask("GET", told(ARTIFACT, file=MIB)).body) == MIB
            assert client.ask("POST", CREATE, body=b"{}").json()["body"] == "{}"


def test_of_a_long_answer_no_more_passes_than_it_said(rig: Rig) -> None:
    raw = response(200, f"content-length: {2 * MIB}")
    target = told(ARTIFACT, raw, pieces=1, piece=2 * MIB + 10, plain=1)
    with rig.client() as client:
        assert len(client.ask("GET", target).body) == 2 * MIB
        rig.event("end", connection=rig.event("head", target=target)["connection"])
        assert client.ask("POST", CREATE, body=b"{}").json()["body"] == "{}"


@pytest.mark.parametrize("chunked", [True, False])
def test_a_big_upload_to_a_slow_mlflow_takes_no_memory(rig: Rig, chunked: bool) -> None:
    number = 150
    before = rig.memory()
    target = told(ARTIFACT, pause=1)
    piece = bytes(2 * MIB)
    with rig.client(timeout=60) as client:
        framing = CHUNKED if chunked else f"Content-Length: {number * len(piece)}"
        client.send(head("PUT", target, framing))
        most = 0.0
        for _ in range(number):
            client.send(chunk(piece) if chunked else piece)
            most = max(most, rig.memory())
        if chunked:
            client.send(b"0\r\n\r\n")
        assert client.answer().json()["length"] == number * len(piece)
    assert most - before < 20


def test_an_artifact_s_chunks_pass_as_they_come(rig: Rig) -> None:
    target = told(ARTIFACT, test="as-they-come")
    with rig.client() as client:
        client.send(head("PUT", target, CHUNKED) + chunk(b"first"))
        assert rig.event("head", target=target)["headers"][-1] == ["transfer-encoding", "chunked"]
        client.send(chunk(b"second") + b"0\r\n\r\n")
        assert client.answer().json()["body"] == "firstsecond"


def test_an_empty_artifact_in_chunks_is_an_empty_artifact(rig: Rig) -> None:
    with rig.client() as client:
        client.send(head("PUT", ARTIFACT, CHUNKED) + b"0\r\n\r\n")
        answer = client.answer()
    assert answer.json()["length"] == 0
    assert answer.arrived("transfer-encoding") == ["chunked"]


def test_an_artifact_with_a_length_keeps_it(rig: Rig) -> None:
    answer = rig.ask("PUT", ARTIFACT, body=b"x" * 100_000)
    assert answer.json()["length"] == 100_000
    assert answer.arrived("content-length") == ["100000"]
    assert answer.arrived("transfer-encoding") == []


@pytest.mark.parametrize("path", [FLASK, EVENTS, "/v1/traces", "/graphql"])
def test_other_routes_get_a_chunked_body_with_its_length(rig: Rig, path: str) -> None:
    with rig.client() as client:
        client.send(head("POST", path, CHUNKED) + chunk(b'{"name":') + chunk(b'"x"}'))
        time.sleep(0.05)
        client.send(b"0\r\n\r\n")
        answer = client.answer()
    assert answer.json()["body"] == '{"name":"x"}'
    assert answer.arrived("content-length") == ["12"]
    assert answer.arrived("transfer-encoding") == []


def test_a_slow_upload_to_a_thread_of_mlflow_takes_none_until_it_is_whole(rig: Rig) -> None:
    target = told(FLASK, test="slow-upload")
    with rig.client() as client:
        client.send(head("POST", target, "Content-Length: 6") + b"abc")
        time.sleep(0.2)
        assert rig.events("head", target=target) == []
        assert rig.standing()["slots"] == 0
        client.send(b"def")
        assert client.answer().json()["body"] == "abcdef"


def test_events_arrive_one_by_one(rig: Rig) -> None:
    with rig.client() as client:
        client.request("POST", told(EVENTS, STREAM, pieces=5, every="0.3", piece=10), body=b"{}")
        assert client.head().status == 200
        times = []
        while client.chunk():
            times.append(time.monotonic())
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert len(times) == 5
    assert min(gaps) > 0.1, gaps


def test_a_trickle_has_all_the_time_it_needs(hurried: Rig) -> None:
    with hurried.client() as down, hurried.client() as up:
        down.request("GET", told(ARTIFACT, STREAM, pieces=6, every="0.5", piece=1))
        up.send(head("PUT", ARTIFACT, CHUNKED))
        for _ in range(6):
            up.send(chunk(b"x"))
            time.sleep(0.5)
        up.send(b"0\r\n\r\n")
        assert up.answer().json()["length"] == 6
        assert len(down.answer().body) == 6


def test_a_client_that_takes_little_at_a_time_is_not_stalled(hurried: Rig) -> None:
    size = 8 * MIB
    target = told(
        ARTIFACT, response(200, f"content-length: {size}"), pieces=8, piece=MIB, plain=1, then="close"
    )
    with hurried.client(receive_buffer=16 * 1024) as client:
        client.request("GET", target)
        client.head()
        deadline = time.monotonic() + 3
        received = len(client.buffer)
        while time.monotonic() < deadline:
            received += len(client.sock.recv(8192))
            time.sleep(0.1)
        while received < size and (data := client.sock.recv(MIB)):
            received += len(data)
    assert received == size


# Nothing moves.


def test_a_client_that_sends_nothing_more_is_told_so(hurried: Rig) -> None:
    with hurried.client() as one, hurried.client() as other:
        one.send(head("POST", FLASK, "Content-Length: 10") + b"abc")
        other.send(head("PUT", ARTIFACT, "Content-Length: 10") + b"abc")
        for answer in (one.answer(), other.answer()):
            assert answer.status == 408
            assert answer.json()["error_code"] == "DEADLINE_EXCEEDED"
            assert hurried.logged(request_id=answer.header("x-request-id"))["error"] == "client_stalled"
    until(hurried.at_rest)


def test_a_client_that_takes_nothing_more_is_cut_off(hurried: Rig) -> None:
    size = 64 * MIB
    target = told(ARTIFACT, response(200, f"content-length: {size}"), pieces=64, piece=MIB, plain=1)
    with hurried.client(receive_buffer=64 * 1024) as client:
        client.request("GET", target)
        client.head()
        line = hurried.logged(error="client_stalled", operation="artifact-download")
        assert line["status"] == 200
        assert len(client.rest()) < size
    until(hurried.at_rest)


def test_an_mlflow_that_says_nothing_is_given_up(hurried: Rig) -> None:
    began = time.monotonic()
    answer = hurried.ask("GET", told(FLASK, wait=30))
    assert answer.status == 504
    assert answer.json()["error_code"] == "DEADLINE_EXCEEDED"
    assert 1.5 < time.monotonic() - began < 15
    assert hurried.logged(request_id=answer.header("x-request-id"))["error"] == "stalled"


def test_a_download_that_stops_half_way_is_cut_off_and_not_ended(hurried: Rig) -> None:
    with hurried.client() as client:
        client.request("GET", told(ARTIFACT, STREAM + chunk(b"half"), then="hang"))
        client.head()
        assert client.chunk() == b"half"
        with pytest.raises(Truncated):
            client.chunk()
    assert hurried.logged(error="stalled", operation="artifact-download")["status"] == 200


def test_an_mlflow_that_takes_nothing_more_of_an_upload_is_given_up(hurried: Rig) -> None:
    target = told(ARTIFACT, take=1000, wait=60)
    with hurried.client() as client:
        client.send(head("PUT", target, f"Content-Length: {64 * MIB}"))
        threading.Thread(target=_send_quietly, args=(client, bytes(64 * MIB)), daemon=True).start()
        assert client.answer().status == 504
    assert hurried.event("over", target=target)["whole"] is False


def _send_quietly(client: Client, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(data)


# Bounds on bodies.


def test_a_body_that_says_it_is_too_large_is_refused_unread(rig: Rig) -> None:
    target = told(FLASK, test="too-large")
    with rig.client() as client:
        client.send(head("POST", target, f"Content-Length: {MIB + 1}"))  # and nothing of it
        answer = client.answer()
    assert answer.status == 413
    assert "PROXY_BODY_LIMIT" in answer.json()["message"]
    assert rig.events("head", target=target) == []
    assert rig.logged(request_id=answer.header("x-request-id"))["refusal"] == "body_too_large"


def test_a_body_of_the_largest_size_passes(rig: Rig) -> None:
    assert rig.ask("POST", FLASK, body=bytes(MIB)).json()["length"] == MIB


def test_chunks_beyond_the_bound_are_refused(rig: Rig) -> None:
    target = told(FLASK, test="chunks-beyond")
    with rig.client() as client:
        client.send(head("POST", target, CHUNKED))
        for _ in range(17):
            client.send(chunk(bytes(MIB // 16)))
        assert client.answer().status == 413
    assert rig.events("head", target=target) == []
    until(rig.at_rest)


def test_bodies_in_memory_are_counted_and_bounded_and_given_back(rig: Rig) -> None:
    half = bytes(MIB // 2)
    clients = [rig.client() for _ in range(7)]
    for client in clients:
        client.send(head("POST", FLASK, f"Content-Length: {MIB}") + half)
    until(lambda: rig.standing()["bytes_held"] == 7 * len(half))
    with rig.client() as eighth:
        eighth.send(head("POST", FLASK, f"Content-Length: {MIB}") + bytes(MIB))
        answer = eighth.answer()
    assert answer.status == 503
    assert answer.header("retry-after")
    assert "PROXY_BUFFER_BYTES" in answer.json()["message"]
    clients[0].send(half)
    assert clients[0].answer().status == 200
    for client in clients[1:4]:
        client.leave()
    until(lambda: rig.standing()["bytes_held"] == 3 * len(half))
    for client in clients[4:]:
        client.send(half)
        assert client.answer().json()["length"] == MIB
    until(rig.at_rest)


# The client leaves.


@pytest.mark.parametrize("chunked", [True, False])
def test_an_upload_that_breaks_off_is_never_completed(rig: Rig, chunked: bool) -> None:
    target = told(ARTIFACT, test=f"breaks-off-{chunked}")
    with rig.client() as client:
        client.send(head("PUT", target, CHUNKED if chunked else "Content-Length: 10"))
        client.send(chunk(b"abc") if chunked else b"abc")
        connection = rig.event("head", target=target)["connection"]
        time.sleep(0.1)
        left = time.time()
        client.leave()
    over = rig.event("over", target=target)
    assert over["whole"] is False
    assert over["time"] - left < 1
    assert rig.event("end", connection=connection)
    until(rig.at_rest)
    assert rig.logged(operation="artifact-upload", error="client_gone")["status"] == 499


def test_a_download_nobody_waits_for_ends_at_once(rig: Rig) -> None:
    target = told(ARTIFACT, STREAM, pieces=1000, every="0.05", piece=10)
    with rig.client() as client:
        client.request("GET", target)
        client.head()
        client.chunk()
        left = time.time()
        client.leave()
    assert rig.event("over", target=target)["time"] - left < 1
    until(rig.at_rest)


def test_a_download_that_fills_the_pipe_ends_at_once_too(rig: Rig) -> None:
    target = told(ARTIFACT, response(200, f"content-length: {1000 * MIB}"), pieces=1000, piece=MIB, plain=1)
    with rig.client(receive_buffer=64 * 1024) as client:
        client.request("GET", target)
        client.head()
        time.sleep(0.3)
        client.leave()
    rig.event("over", target=target)
    assert rig.events("sent")[-1]["bytes"] < 100 * MIB
    until(rig.at_rest)


def test_an_event_stream_nobody_listens_to_ends_at_once(rig: Rig) -> None:
    target = told(EVENTS, wait=30, test="nobody-listens")
    with rig.client() as client:
        client.request("POST", target, body=b"{}")
        rig.event("head", target=target)
        left = time.time()
        client.leave()
    assert rig.event("over", target=target)["time"] - left < 1


def test_a_client_that_leaves_while_its_password_is_looked_at_costs_mlflow_nothing() -> None:
    target = told(ARTIFACT, STREAM, pieces=100, every="0.1", test="left-early")
    # The password is remembered so shortly that each request pays its hash.
    with rigged(credential_cache=0.001) as forgetful:
        client = forgetful.client()
        time.sleep(0.05)
        client.request("GET", target)
        time.sleep(0.005)
        client.leave()
        assert forgetful.logged(operation="artifact-download")["status"] == 499
        assert forgetful.events("head", target=target) == []


def test_a_thread_of_mlflow_that_nobody_waits_for_keeps_its_slot_until_it_answers(rig: Rig) -> None:
    abandoned = rig.metric("mlflow_proxy_abandoned_requests_total")
    target = told(FLASK, wait="1.5", test="abandoned")
    with rig.client() as client:
        client.request("GET", target)
        connection = rig.event("head", target=target)["connection"]
        client.leave()
    time.sleep(0.3)
    assert rig.standing()["slots"] == 1
    assert rig.events("over", target=target) == []
    until(rig.at_rest)
    assert rig.event("over", target=target)["whole"] is True
    assert rig.events("end", connection=connection) == []
    assert rig.ask("GET", FLASK).json()["connection"] == connection
    assert rig.metric("mlflow_proxy_abandoned_requests_total") == abandoned + 1
    line = rig.logged(operation="search-experiments", method="GET", error="client_gone")
    assert line["status"] == 499
    assert line["duration_ms"] > 1000


def test_an_abandoned_thread_is_waited_for_so_long_and_no_longer() -> None:
    target = told(FLASK, wait=60)
    with rigged(abandoned_timeout=1.0) as rig:
        with rig.client() as client:
            client.request("GET", target)
            rig.event("head", target=target)
            left = time.time()
            client.leave()
        assert 0.5 < rig.event("over", target=target)["time"] - left < 8
        until(rig.at_rest)


# MLflow's answers that are not what they should be.


def test_an_early_413_of_mlflow_reaches_the_client_in_mid_upload(rig: Rig) -> None:
    refusal = response(413, "content-length: 9", body=b"too large")
    for then in ("hang", "close"):
        with rig.client() as client:
            client.send(head("PUT", told(ARTIFACT, refusal, take=100_000, then=then), CHUNKED))
            client.send(chunk(bytes(100_000)))
            answer = client.answer()
        assert (answer.status, answer.body) == (413, b"too large")
    until(rig.at_rest)


def test_an_early_413_reaches_a_client_that_sends_as_fast_as_it_can(rig: Rig) -> None:
    refusal = response(413, "content-length: 9", body=b"too large")
    for _ in range(20):
        with rig.client() as client:
            client.send(
                head(
                    "PUT",
                    told(ARTIFACT, refusal, take=1_000_000, then="close"),
                    f"Content-Length: {16 * MIB}",
                )
            )
            sender = threading.Thread(target=_send_quietly, args=(client, bytes(16 * MIB)), daemon=True)
            sender.start()
            assert client.answer().status == 413
            client.sock.shutdown(2)
            sender.join()


def test_the_connection_of_an_early_answer_is_not_used_again(rig: Rig) -> None:
    refusal = response(413, "content-length: 0")
    target = told(ARTIFACT, refusal, take=10, then="hang", test="early")
    with rig.client() as client:
        client.send(head("PUT", target, CHUNKED) + chunk(bytes(10)))
        assert client.answer().status == 413
    assert rig.event("end", connection=rig.event("head", target=target)["connection"])


def test_server_info_names_no_way_past_us(rig: Rig) -> None:
    body = b'{"store_type":"SqlStore","multipart_uploads_enabled":true,"presigned_downloads_enabled":true}'
    raw = response(200, "content-type: application/json", f"content-length: {len(body)}", body=body)
    answer = rig.ask("GET", told(SERVER_INFO, raw))
    assert answer.json() == {
        "store_type": "SqlStore",
        "multipart_uploads_enabled": False,
        "presigned_downloads_enabled": False,
    }
    assert answer.header("content-type") == "application/json"
    odd = response(200, "content-length: 7", body=b"no json")
    assert rig.ask("GET", told(SERVER_INFO, odd)).body == b"no json"
    failed = response(500, "content-length: 4", body=b'"no"')
    assert rig.ask("GET", told(SERVER_INFO, failed)).status == 500
    with rigged(direct_artifacts=True) as direct:
        assert direct.ask("GET", told(SERVER_INFO, raw)).body == body


def test_an_endless_server_info_is_no_answer(rig: Rig) -> None:
    assert rig.ask("GET", told(SERVER_INFO, STREAM, pieces=20, piece=MIB // 10)).status == 502


def test_sixty_four_at_once_each_get_their_own_answer(rig: Rig) -> None:
    wrong = []

    def ask(number: int) -> None:
        with rig.client() as client:
            for turn in range(10):
                mark = f"{number}-{turn}"
                answer = client.ask("POST", told(FLASK, mark=mark), body=mark.encode())
                if answer.json()["body"] != mark:
                    wrong.append(mark)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    until(rig.at_rest)


def test_a_storm_of_broken_requests_leaves_nothing_behind() -> None:
    with rigged(abandoned_timeout=2.0, mlflow_concurrency=4) as rig:
        until(lambda: rig.standing()["clients"] == 0)
        before = rig.standing()
        for n in range(300):
            client = rig.client()
            match n % 6:
                case 0:
                    client.send(head("PUT", ARTIFACT, CHUNKED) + chunk(bytes(5000)))
                case 1:
                    client.request("GET", told(ARTIFACT, STREAM, pieces=1000, piece=9000, every="0.01"))
                case 2:
                    client.request("GET", told(FLASK, wait="0.2"))
                case 3:
                    client.send(head("POST", FLASK, "Content-Length: 100000") + bytes(5000))
                case 4:
                    client.request("POST", told(EVENTS, wait=5), body=b"{}")
                case 5:
                    client.send(b"GET /half HTTP/1.1\r\nHo")
            if n % 4:
                time.sleep(0.002)
            client.leave()
        until(lambda: rig.at_rest(clients=0), seconds=30)
        after = until(lambda: (now := rig.standing())["tasks"] == before["tasks"] and now)
        assert after["descriptors"] - after["idle"] <= before["descriptors"] - before["idle"]
        assert rig.ask("GET", FLASK).status == 200
        assert "Traceback" not in rig.log()


# With the real MLflow.


def test_the_real_mlflow_gets_a_chunked_body_whole(service: Service) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"name":'
        yield b' "in chunks"}'

    answer = service.session().post(
        service.url + CREATE, data=pieces(), headers={"Content-Type": "application/json"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["experiment_id"]


def test_the_real_mlflow_publishes_no_upload_that_broke_off(service: Service) -> None:
    address = service.url + "/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/broken.bin"

    def broken() -> Iterator[bytes]:
        yield bytes(MIB)
        raise ConnectionError("pulled the plug")

    with pytest.raises(requests.ConnectionError):
        service.session().put(address, data=broken(), timeout=30)
    line = until(lambda: [line for line in service.access_log() if line["operation"] == "artifact-upload"])[0]
    assert (line["status"], line["error"]) == (499, "client_gone")
    assert service.session().get(address, timeout=30).status_code in (404, 500)
    assert not [path for path in service.data.rglob("*broken.bin*") if path.is_file()]


def test_the_real_mlflow_serves_ranges_through_us(service: Service) -> None:
    session = service.session()
    address = service.url + "/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/some%20file.txt"
    assert session.put(address, data=bytes(range(256)) * 4, timeout=30).status_code == 200
    part = session.get(address, headers={"Range": "bytes=10-19"}, timeout=30)
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/1024"
    parts = session.get(address, headers={"Range": "bytes=0-1,100-101"}, timeout=30)
    assert parts.status_code == 206
    assert parts.headers["content-type"].startswith("multipart/byteranges")
    assert b"content-range: bytes 100-101/1024" in parts.content.lower()
    assert session.get(address, headers={"Range": "bytes=5000-"}, timeout=30).status_code == 416
    header = session.head(address, timeout=30)
    assert header.status_code == 200
    assert header.headers["content-length"] == "1024"
    assert header.content == b""


def test_the_real_mlflow_names_no_way_past_us(service: Service) -> None:
    answer: requests.Response = service.session().get(service.url + SERVER_INFO, timeout=30)
    ways = [value for key, value in answer.json().items() if key.startswith(("multipart", "presigned"))]
    assert ways
    assert not any(ways)


def test_whole_downloads_have_places_of_their_own() -> None:
    with (
        rigged(whole_downloads=1, mlflow_concurrency=1) as rig,
        rig.client() as first,
        rig.client() as second,
    ):
        first.request("GET", told(WHOLE, wait="0.7"))
        second.request("GET", told(WHOLE, wait="0"))
        until(lambda: rig.standing()["waiting"] == 1)
        assert rig.ask("GET", FLASK).status == 200
        assert (first.answer().status, second.answer().status) == (200, 200)
