"""Which of MLflow's answers are compressed on the way, and that all others stay as they are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest
from fake_upstream import file_of
from forwarding import ARTIFACT, EVENTS, FLASK, MIB, WHOLE, Answer, Rig, response, rigged, told

from proxy import compression
from proxy.codings import zstd

ALL = "Accept-Encoding: gzip, deflate, br, zstd"
GZIP = "Accept-Encoding: gzip"
JSON = "Content-Type: application/json"
LARGE = json.dumps({"runs": [{"run_id": f"{n:032x}", "status": "FINISHED"} for n in range(200)]}).encode()
SMALL = LARGE[: compression.LEAST - 1]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def ask(rig: Rig, *asked: str, path: str = FLASK, said: tuple[str, ...] = (JSON,), body: bytes = LARGE,
        status: int = 200, method: str = "GET") -> Answer:  # fmt: skip
    """One request that MLflow answers like that."""
    raw = response(status, *said, f"Content-Length: {len(body)}", body=body)
    return rig.ask(method, told(path, raw), *asked, body=b"" if method == "POST" else None)


def unpacked(answer: Answer) -> bytes:
    coding = answer.header("content-encoding")
    if coding == "zstd":
        return zstd.decompress(answer.body)
    return gzip.decompress(answer.body) if coding == "gzip" else answer.body


@pytest.mark.parametrize(
    ("asked", "coding"), [(ALL, "zstd"), (GZIP, "gzip"), ("Accept-Encoding: br, zstd;q=0.1", "zstd")]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_larger_json_answer_is_compressed_as_the_client_wants_it(
    rig: Rig, asked: str, coding: str, method: str
) -> None:
    answer = ask(rig, asked, method=method)
    assert answer.all("content-encoding") == [coding]
    assert answer.all("vary") == ["Accept-Encoding"]
    assert answer.header("content-length") is None
    assert len(answer.body) < len(LARGE) / 4
    assert unpacked(answer) == LARGE


@pytest.mark.parametrize(
    "asked", [(), ("Accept-Encoding: identity",), ("Accept-Encoding: br",), ("Accept-Encoding: gzip;q=0",)]
)
def test_a_client_that_takes_nothing_else_gets_it_as_it_is_and_caches_learn_why(
    rig: Rig, asked: tuple[str, ...]
) -> None:
    answer = ask(rig, *asked)
    assert answer.header("content-encoding") is None
    assert answer.all("vary") == ["Accept-Encoding"]
    assert answer.header("content-length") == str(len(LARGE))
    assert answer.body == LARGE


@pytest.mark.parametrize(
    ("why", "said", "path", "status"),
    [
        ("events", ("Content-Type: text/event-stream",), EVENTS, 200),
        ("events on any route", ("Content-Type: text/event-stream",), FLASK, 200),
        ("a download", (JSON,), ARTIFACT, 200),
        ("a download that MLflow reads whole", (JSON,), WHOLE, 200),
        ("not JSON", ("Content-Type: text/html",), FLASK, 200),
        ("compressed already", (JSON, "Content-Encoding: gzip"), FLASK, 200),
        ("not to be transformed", (JSON, "Cache-Control: private, No-Transform"), FLASK, 200),
        ("a part", (JSON, "Content-Range: bytes 0-9999/20000"), FLASK, 206),
        ("with a digest", (JSON, "Content-Digest: sha-256=:x:"), FLASK, 200),
        ("an error", (JSON,), FLASK, 400),
    ],
)  # fmt: skip
def test_what_stays_as_it_is(rig: Rig, why: str, said: tuple[str, ...], path: str, status: int) -> None:
    answer = ask(rig, ALL, path=path, said=said, status=status)
    assert answer.status == status
    assert answer.body == LARGE, why
    assert answer.header("content-length") == str(len(LARGE))
    assert answer.header("vary") is None


def test_a_small_answer_stays_as_it_is(rig: Rig) -> None:
    answer = ask(rig, ALL, body=SMALL)
    assert (answer.header("content-encoding"), answer.header("vary")) == (None, None)
    assert answer.body == SMALL
    assert ask(rig, ALL, body=LARGE[: compression.LEAST]).header("content-encoding") == "zstd"


@pytest.mark.parametrize(
    ("site", "coding"), [("cross-site", None), ("same-site", None), ("same-origin", "zstd"), ("none", "zstd")]
)
def test_what_another_site_asks_for_tells_nothing_by_its_length(
    rig: Rig, site: str, coding: str | None
) -> None:
    answer = ask(rig, ALL, f"Sec-Fetch-Site: {site}")
    assert answer.status == 200
    assert answer.header("content-encoding") == coding
    assert answer.header("vary") == "Accept-Encoding"


def test_an_etag_says_that_the_bytes_are_others(rig: Rig) -> None:
    assert ask(rig, ALL, said=(JSON, 'ETag: "abc"')).all("etag") == ['W/"abc"']
    assert ask(rig, ALL, said=(JSON, 'ETag: W/"abc"')).all("etag") == ['W/"abc"']
    assert ask(rig, said=(JSON, 'ETag: "abc"')).all("etag") == ['"abc"']


def test_vary_keeps_what_mlflow_says(rig: Rig) -> None:
    assert ask(rig, ALL, said=(JSON, "Vary: Origin")).all("vary") == ["Origin, Accept-Encoding"]
    assert ask(rig, ALL, said=(JSON, "Vary: *")).all("vary") == ["*"]
    assert ask(rig, ALL, said=(JSON, "Vary: accept-encoding")).all("vary") == ["accept-encoding"]


def test_head_says_what_get_would(rig: Rig) -> None:
    answer = rig.ask("HEAD", told("/get-artifact", response(200, JSON, f"Content-Length: {len(LARGE)}")), ALL)
    assert answer.header("content-length") == str(len(LARGE)), "a download is never compressed"
    with rig.client() as client:
        raw = f"HTTP/1.1 200 OK\r\n{JSON}\r\nContent-Length: {len(LARGE)}\r\n\r\n".encode()
        answer = client.ask("HEAD", told("/api/2.0/mlflow/runs/get", raw), ALL)
        assert answer.header("content-encoding") == "zstd"
        assert answer.header("content-length") is None
        assert client.ask("GET", FLASK).status == 200, "nothing of a body came before it"
    assert rig.logged(request_id=answer.header("x-request-id"))["bytes_out"] == 0


@pytest.mark.parametrize("asked", [ALL, GZIP])
def test_megabytes_in_pieces_are_one_body_and_the_connection_stays(rig: Rig, asked: str) -> None:
    size = 5 * MIB
    raw = f"HTTP/1.1 200 OK\r\n{JSON}\r\nContent-Length: {size}\r\n\r\n".encode()
    with rig.client() as client:
        answer = client.ask("GET", told(FLASK, raw, pieces=80, piece=65536, plain=1), asked)
        assert unpacked(answer) == bytes(size)
        assert len(answer.body) < size / 100
        assert client.ask("GET", FLASK).status == 200
    assert rig.at_rest()


def test_what_breaks_off_is_seen_to_be_broken_off(rig: Rig) -> None:
    raw = f"HTTP/1.1 200 OK\r\n{JSON}\r\nContent-Length: {9 * MIB}\r\n\r\n".encode()
    with rig.client() as client:
        client.request("GET", told(FLASK, raw, pieces=40, piece=65536, plain=1, then="close"), ALL)
        answer = client.head()
        assert answer.header("content-encoding") == "zstd"
        with pytest.raises(Exception):  # noqa: B017 - the connection ends, one way or another
            client.answer_of_chunks()


def test_what_goes_on_where_it_broke_off_is_one_compressed_body(rig: Rig) -> None:
    more = "content-type: application/json\r\n"
    target = told(FLASK, file=3 * MIB, cut=2 * MIB, cuts=1, more=more)
    answer = rig.ask("GET", target, ALL)
    assert answer.header("content-encoding") == "zstd"
    assert unpacked(answer) == file_of(3 * MIB)[: 3 * MIB]
    assert len(rig.events("over", target=target)) == 2


def test_the_log_counts_the_bytes_that_were_sent(rig: Rig) -> None:
    answer = ask(rig, ALL)
    line = rig.logged(request_id=answer.header("x-request-id"))
    assert line["bytes_out"] == len(answer.body)


def test_a_person_may_switch_it_off() -> None:
    with rigged(compression=False) as rig:
        answer = ask(rig, ALL)
        assert (answer.header("content-encoding"), answer.header("vary")) == (None, None)
        assert answer.body == LARGE
