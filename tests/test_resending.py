"""Requests that are sent to MLflow again, and those that are not: the policy, each kind of failure alone."""

from __future__ import annotations

import hashlib
import itertools
import json
import resource
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_upstream import file_of
from forwarding import (
    ARTIFACT,
    CREATE,
    FLASK,
    GATEWAY,
    MIB,
    Client,
    Rig,
    Truncated,
    head,
    response,
    rigged,
    told,
    until,
)

from proxy.forward.answers import failure_of
from proxy.forward.resending import Decision, Failure, Kept, Phase, given_up, may_resend
from proxy.operations import operation_of

LOG = "/api/2.0/mlflow/runs/log-metric"
CREATE_VERSION = "/api/2.0/mlflow/model-versions/create"
CREATE_RUN = "/api/2.0/mlflow/runs/create"
CHUNKED = "Transfer-Encoding: chunked"
numbers = itertools.count()


def one(path: str, raw: bytes | None = None, **how: Any) -> str:
    """A target that no other test asks for."""
    return told(path, raw, test=next(numbers), **how)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged(hold_seconds=3.0) as rig:
        yield rig


@pytest.fixture(scope="module")
def small() -> Iterator[Rig]:
    """Little is kept: 4 MiB of a body, and 6 MiB of all of them in files."""
    with rigged(resend_body_limit=4 * MIB, resend_spool_bytes=6 * MIB) as rig:
        yield rig


# The policy.

SAFE, UNSAFE = operation_of("POST", LOG), operation_of("POST", CREATE_VERSION)
RUN = operation_of("POST", CREATE_RUN)
HAVE = (Kept.NONE, Kept.MEMORY, Kept.FILE)
AGAIN, NOT_DONE, UNKNOWN = Decision.AGAIN, Decision.NOT_DONE, Decision.UNKNOWN
PASS, CUT = Decision.PASS, Decision.CUT
N, P, W, B = Phase.NOTHING, Phase.PART, Phase.WHOLE, Phase.BEGUN
TABLE = [
    # failure, phases, what becomes of a safe one, an unsafe one, and the same where the body is gone
    (Failure.REFUSED, (N, P, W), AGAIN, AGAIN, NOT_DONE, NOT_DONE),
    (Failure.UNREAD, (N, P, W), AGAIN, AGAIN, NOT_DONE, NOT_DONE),
    (Failure.RESET, (N, P), AGAIN, AGAIN, NOT_DONE, NOT_DONE),
    (Failure.RESET, (W,), AGAIN, UNKNOWN, UNKNOWN, UNKNOWN),
    (Failure.NOT_TAKEN, (N, P, W), AGAIN, PASS, PASS, PASS),
    (Failure.LOST, (N, P, W), AGAIN, UNKNOWN, PASS, UNKNOWN),
    (Failure.CRASHED, (N, P, W), AGAIN, UNKNOWN, PASS, UNKNOWN),
    (Failure.BAD_ANSWER, (N, P), NOT_DONE, NOT_DONE, NOT_DONE, NOT_DONE),
    (Failure.BAD_ANSWER, (W,), UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (Failure.SILENT, (N, P), NOT_DONE, NOT_DONE, NOT_DONE, NOT_DONE),
    (Failure.SILENT, (W,), UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    *((failure, (B,), CUT, CUT, CUT, CUT) for failure in Failure),
]


def test_the_whole_policy() -> None:
    rows = {(failure, phase): row for failure, phases, *row in TABLE for phase in phases}
    assert rows.keys() == set(itertools.product(Failure, Phase))
    for (failure, phase), (safe, unsafe, safe_gone, unsafe_gone) in rows.items():
        for kept in HAVE:
            assert may_resend(SAFE, phase, failure, kept) is safe, (failure, phase, kept)
            assert may_resend(UNSAFE, phase, failure, kept) is unsafe, (failure, phase, kept)
            # A run is made by one transaction, committed last.
            run = AGAIN if failure is Failure.NOT_TAKEN and phase is not B else unsafe
            assert may_resend(RUN, phase, failure, kept) is run, (failure, phase, kept)
        for operation, gone in ((SAFE, safe_gone), (UNSAFE, unsafe_gone), (RUN, unsafe_gone)):
            assert may_resend(operation, phase, failure, Kept.GONE) is gone, (failure, phase)
            assert given_up(operation, phase, failure) is gone, (failure, phase)


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ('(psycopg.OperationalError) connection failed: connection to server at "x" failed', "NOT_TAKEN"),
        ('(psycopg2.OperationalError) connection to server at "x", port 5432 failed', "NOT_TAKEN"),
        ("(psycopg.errors.DeadlockDetected) deadlock detected", "NOT_TAKEN"),
        ("(sqlite3.OperationalError) database is locked", "NOT_TAKEN"),
        ('(pymysql.err.OperationalError) (2003, "Can\'t connect to MySQL server")', "NOT_TAKEN"),
        ("(pymysql.err.OperationalError) (1213, 'Deadlock found')", "NOT_TAKEN"),
        ("(psycopg.OperationalError) consuming input failed: server closed the connection", "LOST"),
        ("(psycopg2.OperationalError) server closed the connection unexpectedly", "LOST"),
        ("(pymysql.err.OperationalError) (2013, 'Lost connection to MySQL server during query')", "LOST"),
        ("(MySQLdb.OperationalError) (2006, 'Server has gone away')", "LOST"),
        ("(pyodbc.OperationalError) ('08S01', 'Communication link failure')", "LOST"),
    ],
)
def test_what_the_databases_drivers_say(message: str, failure: str) -> None:
    said = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": message}).encode()
    assert failure_of(503, said) is Failure[failure]
    assert failure_of(500, said) is None
    assert failure_of(503, said.replace(b"TEMPORARILY", b"FOR_EVER")) is None


# What breaks off before it is answered.


def test_what_may_be_sent_again_is_answered_by_the_next_mlflow(rig: Rig) -> None:
    before = rig.metric('mlflow_proxy_resent_requests_total{operation="log-metric",reason="reset"}')
    body = b'{"run_id": "1"}'
    for lost in (1, 3):
        target = one(LOG, lost=lost)
        answer = rig.ask("POST", target, body=body)
        assert (answer.status, answer.json()["body"]) == (200, body.decode())
        assert len(rig.events("head", target=target)) == lost + 1
    after = rig.metric('mlflow_proxy_resent_requests_total{operation="log-metric",reason="reset"}')
    assert after - before == 4
    until(rig.at_rest)


def test_what_ends_mlflow_each_time_is_not_sent_for_ever(rig: Rig) -> None:
    target = one(LOG, lost=100)
    answer = rig.ask("POST", target, body=b"{}")
    assert answer.status == 502
    assert "may have acted" in answer.json()["message"]
    assert "does no harm" in answer.json()["message"]
    assert answer.header("retry-after") is None
    assert len(rig.events("head", target=target)) == 4
    assert rig.logged(request_id=answer.header("x-request-id"))["error"] == "reset"


@pytest.mark.parametrize("path", [CREATE_RUN, CREATE, GATEWAY])
def test_what_must_not_be_done_twice_is_sent_once_and_the_client_is_told(rig: Rig, path: str) -> None:
    target = one(path, lost=1)
    answer = rig.ask("POST", target, body=b"{}")
    assert answer.status == 409  # MLflow's client would repeat a 502
    assert answer.json()["error_code"] == "ABORTED"
    assert "may have acted" in answer.json()["message"]
    assert answer.header("retry-after") is None
    assert len(rig.events("head", target=target)) == 1
    until(rig.at_rest)


@pytest.mark.parametrize("path", [CREATE, GATEWAY, LOG])
def test_what_mlflow_has_not_read_is_sent_again_whatever_it_is(rig: Rig, path: str) -> None:
    for size in (2, 100_000):
        target = one(path, unread=2)
        answer = rig.ask("POST", target, body=b"x" * size)
        assert (answer.status, answer.json()["length"]) == (200, size)
        assert len(rig.events("unread", target=target)) == 2
        assert len(rig.events("head", target=target)) == 1


def test_what_mlflow_never_reads_has_not_been_done(rig: Rig) -> None:
    target = one(CREATE_RUN, unread=100)
    answer = rig.ask("POST", target, body=b"{}")
    assert answer.status == 503
    assert "has not acted" in answer.json()["message"]
    assert answer.header("retry-after")
    assert len(rig.events("unread", target=target)) == 4


def test_a_create_that_mlflow_read_a_part_of_is_not_taken_for_done(rig: Rig) -> None:
    """It is killed in the middle of reading: what is unread tells that it had not the whole."""
    target = one(CREATE, b"", take=10, pause="0.2", first=1, then="close")
    answer = rig.ask("POST", target, body=b"x" * 3_000_000)
    assert (answer.status, len(rig.events("head", target=target))) == (200, 2)


def test_what_mlflow_began_to_answer_may_have_been_done(rig: Rig) -> None:
    target = one(CREATE, b"HTTP/1.1 500 Int", take=10, first=1, then="close")
    answer = rig.ask("POST", target, body=b"x" * 3_000_000)
    assert (answer.status, len(rig.events("head", target=target))) == (409, 1)


def test_an_idle_connection_that_mlflow_has_closed_costs_no_request(rig: Rig) -> None:
    """Also where its end and the next request cross on the way."""
    for n in range(300):
        raw = response(200, "content-length: 2", body=b"ok")
        with rig.client() as client:
            assert client.ask("GET", told(FLASK, raw, then="close", n=n)).status == 200
            target = one(CREATE_RUN)
            assert client.ask("POST", target, body=b"{}").status == 200
            assert len(rig.events("head", target=target)) == 1 if n % 50 == 0 else True


def test_an_answer_that_breaks_off_before_the_client_saw_it_is_asked_for_again(rig: Rig) -> None:
    half = response(200, "content-length: 100") + b"x" * 50
    target = one(FLASK, half, first=2, then="close")
    answer = rig.ask("GET", target)
    assert answer.status == 200
    assert answer.json()["target"] == target
    assert len(rig.events("head", target=target)) == 3


def test_where_the_answer_to_a_create_breaks_off_it_may_have_been_done(rig: Rig) -> None:
    half = response(200, "content-length: 100") + b"x" * 50
    for raw in (half, half[:-50]):
        target = one(CREATE_RUN, raw, then="close")
        answer = rig.ask("POST", target, body=b"{}")
        assert (answer.status, len(rig.events("head", target=target))) == (409, 1)
        assert "may have acted" in answer.json()["message"]


def test_a_client_that_has_left_is_not_sent_again(rig: Rig) -> None:
    target = one(LOG, wait="0.5", lost=1)
    client = rig.client()
    client.request("POST", target, body=b"{}")
    rig.event("head", target=target)
    client.leave()
    until(rig.at_rest)
    assert len(rig.events("head", target=target)) == 1


def test_while_it_waits_to_be_sent_again_it_holds_no_place_and_notices_that_its_client_leaves() -> None:
    with rigged(mlflow_concurrency=1, hold_seconds=20) as rig:
        target = one(LOG, wait="0.3", lost=1)
        client = rig.client()
        client.request("POST", target, body=b"x" * 1000)
        rig.event("head", target=target)
        rig.standing(up=False)
        until(lambda: rig.standing()["waiting"] == 1)
        assert rig.standing()["bytes_held"] == 1000
        client.leave()
        until(rig.at_rest, 1)


def test_it_waits_so_long_for_mlflow_to_be_back_and_no_longer() -> None:
    with rigged(hold_seconds=1.0) as rig, rig.client() as client:
        target = one(LOG, wait="0.3", lost=1)
        began = time.monotonic()
        client.request("POST", target, body=b"{}")
        rig.event("head", target=target)
        rig.standing(up=False)
        answer = client.answer()
        assert 1.2 < time.monotonic() - began < 6
        assert answer.status == 502
        assert "may have acted" in answer.json()["message"]
        until(rig.at_rest)


# MLflow says that its database is away.


def test_a_database_that_is_away_for_a_moment_is_waited_for(rig: Rig) -> None:
    target = one(LOG, away=3)
    began = time.monotonic()
    answer = rig.ask("POST", target, body=b"{}")
    assert answer.status == 200
    assert 1.0 < time.monotonic() - began < 5
    assert len(rig.events("head", target=target)) == 4
    assert rig.metric('mlflow_proxy_resent_requests_total{operation="log-metric",reason="unavailable"}') >= 3


def test_mlflows_last_word_passes_where_the_database_stays_away(rig: Rig) -> None:
    target = one(LOG, away=100)
    answer = rig.ask("POST", target, body=b"{}")
    assert answer.status == 503
    assert "psycopg.OperationalError" in answer.json()["message"]
    assert 4 <= len(rig.events("head", target=target)) < 12
    until(rig.at_rest)


@pytest.mark.parametrize("path", [CREATE, CREATE_RUN])
def test_a_run_that_the_database_certainly_did_not_take_is_made_when_it_is_back(rig: Rig, path: str) -> None:
    target = one(path, away=2)
    assert rig.ask("POST", target, body=b"{}").status == 200
    assert len(rig.events("head", target=target)) == 3


def test_of_what_may_do_more_than_one_thing_mlflows_503_passes(rig: Rig) -> None:
    target = one(CREATE_VERSION, away=1)
    assert rig.ask("POST", target, body=b"{}").status == 503
    assert len(rig.events("head", target=target)) == 1


@pytest.mark.parametrize("how", ["dropped", "crash"])
def test_where_the_database_is_lost_on_the_way_only_what_may_be_is_asked_again(rig: Rig, how: str) -> None:
    first: dict[str, Any] = {how: 2}
    target = one(LOG, **first)
    assert rig.ask("POST", target, body=b"{}").status == 200
    assert len(rig.events("head", target=target)) == 3
    for path in (CREATE_RUN, CREATE_VERSION):
        target = one(path, **(first | {how: 1}))
        answer = rig.ask("POST", target, body=b"{}")
        assert (answer.status, answer.json()["error_code"]) == (409, "ABORTED")
        assert "may have acted" in answer.json()["message"]
        assert len(rig.events("head", target=target)) == 1


def test_a_defect_of_mlflows_is_asked_three_times_and_passes(rig: Rig) -> None:
    target = one(FLASK, crash=100)
    answer = rig.ask("GET", target)
    assert (answer.status, b"<title>500 Internal" in answer.body) == (500, True)
    assert len(rig.events("head", target=target)) == 3


def test_another_503_of_mlflows_passes(rig: Rig) -> None:
    target = one(FLASK, response(503, "content-length: 4", body=b"busy"))
    assert rig.ask("GET", target).body == b"busy"
    assert len(rig.events("head", target=target)) == 1


def test_while_the_database_is_away_nobody_keeps_a_place() -> None:
    with rigged(mlflow_concurrency=1, hold_seconds=10) as rig, rig.client() as client:
        client.request("POST", one(LOG, away=4), body=b"{}")
        until(lambda: rig.standing()["waiting"] == 1)
        assert rig.standing()["slots"] == 0
        assert rig.ask("GET", FLASK).status == 200
        assert client.answer().status == 200


def test_where_as_many_wait_as_may_mlflows_503_passes() -> None:
    with rigged(hold_requests=1, hold_seconds=20) as rig, rig.client() as client:
        client.request("POST", one(LOG, away=6), body=b"{}")
        until(lambda: rig.standing()["waiting"] == 1)
        statuses = [rig.ask("POST", one(LOG, away=1), body=b"{}").status for _ in range(5)]
        assert 503 in statuses
        assert "psycopg" in rig.ask("POST", one(CREATE_VERSION, away=1), body=b"{}").json()["message"]
        assert client.answer().status == 200
        until(rig.at_rest)


# Uploads.


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("size", [1000, 900_000, 3 * MIB + 17])
def test_an_upload_that_mlflow_did_not_answer_is_sent_again(rig: Rig, size: int, chunked: bool) -> None:
    data = file_of(size)[:size]
    target = one(ARTIFACT, lost=2)
    with rig.client() as client:
        if chunked:
            client.send(head("PUT", target, CHUNKED))
            for at in range(0, size, 70_000):
                piece = data[at : at + 70_000]
                client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
        else:
            client.request("PUT", target, body=data)
        answer = client.answer()
    assert (answer.json()["length"], answer.json()["sha256"]) == (size, digest(data))
    assert rig.logged(request_id=answer.header("x-request-id"))["bytes_in"] == size
    assert len(rig.events("head", target=target)) == 3
    until(rig.at_rest)
    assert rig.metric("mlflow_proxy_resend_spool_bytes") == 0


def test_an_upload_that_the_database_did_not_take_is_sent_again(rig: Rig) -> None:
    data = file_of(3 * MIB)
    for how in ("away", "dropped", "crash"):
        times: dict[str, Any] = {how: 1}
        target = one(ARTIFACT, **times)
        assert rig.ask("PUT", target, body=data).json()["sha256"] == digest(data)
        assert len(rig.events("head", target=target)) == 2
    until(rig.at_rest)


def test_an_upload_goes_on_with_the_next_mlflow_from_where_the_client_is() -> None:
    size = 12 * MIB
    data = file_of(size)[:size]
    with rigged() as rig, rig.client() as client:
        for turn in range(3):
            target = one(ARTIFACT)
            client.send(head("PUT", target, f"Content-Length: {size}") + data[: 5 * MIB])
            rig.event("head", target=target)
            until(lambda: rig.metric("mlflow_proxy_resend_spool_bytes") > 3 * MIB)
            rig.end_upstream()
            rig.start_upstream()
            client.send(data[5 * MIB : 9 * MIB])
            if turn == 1:
                time.sleep(0.2)
                rig.end_upstream()
                rig.start_upstream()
            client.send(data[9 * MIB :])
            answer = client.answer()
            assert (answer.status, answer.json()["sha256"]) == (200, digest(data))
        until(rig.at_rest)
        assert rig.metric("mlflow_proxy_resend_spool_bytes") == 0
        assert not list(rig.folder.glob("tmp*"))


def test_an_upload_that_is_too_large_to_keep_passes_and_fails_with_its_mlflow(small: Rig) -> None:
    data = bytes(5 * MIB)
    for framing in (f"Content-Length: {len(data)}", CHUNKED):
        target = one(ARTIFACT)
        with small.client() as client:
            client.send(head("PUT", target, framing))
            client.send(data if framing is not CHUNKED else b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
            assert client.answer().json()["length"] == len(data)
        target = one(ARTIFACT, take=MIB, wait="0.2", hex="", then="close")
        with small.client() as client:
            client.send(head("PUT", target, framing))
            sent = data if framing is not CHUNKED else b"%x\r\n%s\r\n" % (len(data), data)
            threading.Thread(target=client.send, args=(sent,), daemon=True).start()
            answer = client.answer()
        assert answer.status == 503
        assert "PROXY_RESEND_BODY_LIMIT" in answer.json()["message"]
        assert answer.header("retry-after")
        # Of chunks nobody knows how many come: as long as there are few, they are kept.
        assert len(small.events("head", target=target)) == (4 if framing is CHUNKED else 1)
    until(small.at_rest)


def test_of_an_upload_in_chunks_no_more_is_kept_than_of_another(small: Rig) -> None:
    data = bytes(5 * MIB)
    target = one(ARTIFACT, lost=1)
    with small.client() as client:
        client.send(head("PUT", target, CHUNKED) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        assert client.answer().status == 502
    assert len(small.events("head", target=target)) == 1


def test_the_files_of_all_uploads_together_have_a_bound(small: Rig) -> None:
    data = bytes(3 * MIB)
    clients: list[tuple[Client, str]] = []
    for _ in range(4):
        client, target = small.client(), one(ARTIFACT, wait=1, lost=1)
        clients.append((client, target))
        client.request("PUT", target, body=data)
        small.event("head", target=target)
    assert until(lambda: small.metric("mlflow_proxy_resend_spool_bytes") > 3 * MIB)
    assert small.metric("mlflow_proxy_resend_spool_bytes") <= 6 * MIB
    statuses = [client.answer().status for client, _ in clients]
    assert statuses.count(200) >= 2
    assert set(statuses) <= {200, 502}
    until(small.at_rest)
    assert small.metric("mlflow_proxy_resend_spool_bytes") == 0


def test_who_leaves_in_the_middle_of_an_upload_leaves_nothing_in_files() -> None:
    with rigged() as rig:
        until(lambda: rig.standing()["clients"] == 0)
        before = rig.standing()
        for n in range(30):
            client = rig.client()
            client.send(head("PUT", one(ARTIFACT), f"Content-Length: {9 * MIB}") + bytes(n * 300_000))
            client.leave()
        until(lambda: rig.at_rest(clients=0))
        assert rig.metric("mlflow_proxy_resend_spool_bytes") == 0
        after = until(lambda: (now := rig.standing())["tasks"] <= before["tasks"] and now)
        assert after["descriptors"] - after["idle"] <= before["descriptors"] - before["idle"] + 1


def test_where_the_files_can_not_be_written_uploads_pass_all_the_same() -> None:
    with rigged() as rig:
        # As a full disk: no file of the proxy's may grow beyond that, its logs have room.
        resource.prlimit(rig.process.pid, resource.RLIMIT_FSIZE, (MIB // 2, MIB // 2))
        data = bytes(3 * MIB)
        for _ in range(3):
            assert rig.ask("PUT", one(ARTIFACT), body=data).json()["length"] == len(data)
        assert rig.log().count("uploads are not kept") == 1
        assert rig.ask("PUT", one(ARTIFACT, lost=1), body=data).status == 502
        until(rig.at_rest)
        assert rig.metric("mlflow_proxy_resend_spool_bytes") == 0


# Downloads.


@pytest.mark.parametrize("cut", [1, 60_000, 65_536, 999_999])
def test_a_download_that_breaks_off_goes_on_where_it_was(rig: Rig, cut: int) -> None:
    size = 3_000_001 if cut > 1 else 3
    target = one(ARTIFACT, file=size, cut=cut)
    answer = rig.ask("GET", target)
    assert answer.status == 200
    assert answer.header("content-length") == str(size)
    assert answer.header("content-range") is None
    assert answer.body == file_of(size)[:size]
    ranges = [dict(event["headers"]).get("range") for event in rig.events("head", target=target)]
    assert ranges == [None, *(f"bytes={at}-" for at in range(cut, size, cut))]
    until(rig.at_rest)


@pytest.mark.parametrize(
    "how",
    [
        {"etag": 'W/"weak"'},
        {"etag": ""},
        {"etag": '"changes-{}"'},
        {"etag": '"changes-{}"', "lax": 1},
        {"etag": 'W/"weak"', "lax": 1},
        {"shift": 1},
        {"more": "content-encoding: gzip\r\n"},
        {"more": 'etag: "another"\r\n'},
    ],
)
def test_a_download_that_may_be_of_something_else_by_now_is_cut(rig: Rig, how: dict[str, Any]) -> None:
    target = one(ARTIFACT, file=200_000, cut=100_000, **how)
    with rig.client() as client:
        client.request("GET", target)
        client.head()
        body = client.rest()
    assert body == file_of(200_000)[:100_000]
    until(rig.at_rest)


def test_a_part_that_was_asked_for_is_cut_where_it_breaks_off(rig: Rig) -> None:
    target = one(ARTIFACT, file=200_000, cut=1000)
    with rig.client() as client:
        client.request("GET", target, "Range: bytes=100-", 'If-Range: "e"')
        assert client.head().status == 206
        assert client.rest() == file_of(200_000)[100:1100]


def test_a_download_goes_on_over_the_death_of_mlflow() -> None:
    size = 40 * MIB
    with rigged() as rig, rig.client(receive_buffer=64 * 1024) as client:
        client.request("GET", one(ARTIFACT, file=size))
        client.head()
        hasher = hashlib.sha256()
        for _ in range(4):
            hasher.update(client.exactly(6 * MIB))
            rig.end_upstream()
            rig.start_upstream()
        hasher.update(client.exactly(size - 24 * MIB))
        assert hasher.hexdigest() == digest(file_of(size)[:size])
        assert rig.logged(operation="artifact-download")["error"] is None
        assert rig.metric(
            'mlflow_proxy_resent_requests_total{operation="artifact-download",reason="continued"}'
        ) in (3, 4)


def test_a_download_that_gets_nowhere_is_cut_in_the_end(rig: Rig) -> None:
    target = one(ARTIFACT, file=200_000, cut=0)
    with rig.client() as client:
        client.request("GET", target)
        client.head()
        with pytest.raises(Truncated):
            client.exactly(1)
    assert len(rig.events("head", target=target)) <= 5


# What is answered here.


def test_the_version_is_answered_while_mlflow_is_away(rig: Rig) -> None:
    rig.standing(up=False)
    try:
        for method in ("GET", "HEAD"):
            began = time.monotonic()
            answer = rig.ask(method, "/version", login=False)
            assert answer.status == 200
            assert rig.ask(method, "/health", login=False).status == 503
            assert time.monotonic() - began < 1
        assert rig.ask("GET", "/version", login=False).body.startswith(b"3.")
    finally:
        rig.standing(up=True)
    assert rig.ask("GET", "/health", login=False).body == b"OK"
