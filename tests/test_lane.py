"""Plain requests past ASGI: what takes the lane, what does not, and that nobody can tell by the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from forwarding import ARTIFACT, BASIC, CREATE, FLASK, Client, Rig, head, response, rigged, told, until

LOG_METRIC = "/api/2.0/mlflow/runs/log-metric"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def tasks_of(rig: Rig, request: bytes, target: str) -> int:
    """How many tasks more there are while MLflow works on that request, which is answered with 200."""
    rig.ask("GET", FLASK)  # so that a connection to MLflow is idle
    until(lambda: rig.at_rest(clients=0))
    before = rig.standing()["tasks"]
    with rig.client() as client:
        client.send(request)
        rig.event("head", target=target)
        standing = rig.standing()
        assert client.answer(request.split(b" ")[0].decode()).status == 200
    assert standing["passages"] == 1
    more: int = standing["tasks"] - before
    return more


def test_a_plain_request_takes_no_task_of_its_own(rig: Rig) -> None:
    get = told(FLASK, wait="0.5", mark="get")
    assert tasks_of(rig, head("GET", get), get) == 0
    post = told(LOG_METRIC, wait="0.5", mark="post")
    assert tasks_of(rig, head("POST", post, body=b'{"key": "a"}') + b'{"key": "a"}', post) == 0


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("HEAD", FLASK, (), b""),
        ("GET", ARTIFACT, (), b""),
        ("GET", FLASK, ("Connection: close",), b""),
        ("GET", FLASK.replace("api", "%61pi", 1), (), b""),
        ("POST", LOG_METRIC, ("Transfer-Encoding: chunked",), b"2\r\n{}\r\n0\r\n\r\n"),
        ("POST", "/api/2.0/mlflow/runs/delete", ("Content-Length: 2",), b"{}"),
    ],
    ids=["HEAD", "a stream", "the last one", "an escape", "chunks", "for the audit log"],
)
def test_what_is_not_plain_has_a_task_as_ever(
    rig: Rig, method: str, path: str, headers: tuple[str, ...], body: bytes
) -> None:
    target = told(path, wait="0.5", mark=f"{method}{len(path)}{len(headers)}{len(body)}")
    arrives = target.replace("%61", "a")
    assert tasks_of(rig, head(method, target, *headers) + body, arrives) == 1


def test_requests_that_begin_alike_are_each_taken_at_their_word(rig: Rig) -> None:
    with rig.client() as client:
        ids = set()
        for n in range(5):
            answer = client.ask("GET", told(FLASK, mark=n))
            assert answer.json()["target"] == told(FLASK, mark=n)
            ids.add(answer.header("x-request-id"))
            body = json.dumps({"key": "ab"[n % 2]}).encode()
            answer = client.ask("POST", told(LOG_METRIC, mark=n), body=body)
            assert (answer.json()["target"], answer.json()["body"]) == (
                told(LOG_METRIC, mark=n),
                body.decode(),
            )
            assert answer.arrived("content-length") == [str(len(body))]
            assert answer.arrived("x-forwarded-user") == ["tester"]
            assert answer.arrived("authorization") == []
            ids.add(answer.header("x-request-id"))
        for path in ("/api/2.0/mlflow/experiments/get", "/a//b", "/livez", FLASK):
            client.request("GET", path)
            answer = client.answer()
            assert answer.status == (400 if path == "/a//b" else 200), path
            rig.logged(request_id=answer.header("x-request-id"), path=path)
    assert len(ids) == 10


def test_a_credential_is_judged_anew_with_each_request_of_a_connection(rig: Rig) -> None:
    wrong = "Authorization: Basic " + BASIC.decode().removeprefix("Basic ")[::-1]
    with rig.client() as client:
        statuses = []
        for headers, login in (
            ((), True),
            ((), True),
            ((wrong,), False),
            ((), True),
            ((), False),
            ((), True),
        ):
            statuses.append(client.ask("GET", FLASK, *headers, login=login).status)
    assert statuses == [200, 200, 401, 200, 401, 200]


def test_another_host_or_origin_on_the_same_connection_is_refused(rig: Rig) -> None:
    with rig.client() as client:
        assert client.ask("POST", LOG_METRIC, body=b"{}").status == 200
        assert client.ask("POST", LOG_METRIC, body=b"{}").status == 200
        assert client.ask("POST", LOG_METRIC, "Origin: https://evil.example", body=b"{}").status == 403
        assert client.ask("POST", LOG_METRIC, body=b"{}").status == 200
        client.send(head("POST", LOG_METRIC, body=b"{}").replace(b"localhost", b"evilhosts") + b"{}")
        assert client.answer().status == 421


def test_what_comes_behind_a_request_that_is_known_is_the_next_one(rig: Rig) -> None:
    def get(mark: str) -> bytes:
        return head("GET", told(FLASK, mark=mark))

    def post(mark: str, body: bytes) -> bytes:
        return head("POST", told(LOG_METRIC, mark=mark), body=body) + body

    with rig.client() as client:
        for request, marks in (
            (get("1") + get("2"), "12"),
            (get("1"), "1"),
            (get("1") + get("2") + post("3", b"{}") + get("4"), "1234"),
            (post("1", b"{}"), "1"),
            (post("1", b"{}") + post("2", b"{}"), "12"),
            (post("1", b"{}") + b"\r\n" + post("2", b"[]"), "12"),
        ):
            client.send(request)
            assert "".join(client.answer().json()["target"][-1] for _ in marks) == marks
        known = post("1", b'{"a": 1}')
        client.send(known)
        assert client.answer().status == 200
        for end in (-1, -8, -12, 10):  # it comes in two parts
            client.send(known[:end])
            until(lambda: rig.standing()["tasks"])  # the first part has been read
            client.send(known[end:])
            assert client.answer().json()["body"] == '{"a": 1}'


def test_requests_that_come_while_one_is_under_way_wait_their_turn(rig: Rig) -> None:
    slow = told(FLASK, wait="0.5", mark="slow")
    with rig.client() as client:
        client.ask("GET", FLASK)
        client.request("GET", slow)
        rig.event("head", target=slow)
        client.send(head("GET", told(FLASK, mark="a")) + head("GET", told(ARTIFACT, mark="b")))
        marks = [client.answer().json()["target"].rpartition("=")[2] for _ in range(3)]
    assert marks == ["slow", "a", "b"]
    until(lambda: rig.at_rest(clients=0))


@pytest.mark.parametrize("failure", ["unread", "lost", "crash", "away"])
def test_a_request_that_failed_at_mlflow_is_sent_again_from_the_lane(rig: Rig, failure: str) -> None:
    target = f"{told(FLASK, mark=failure)}&{failure}=1"
    with rig.client() as client:
        client.ask("GET", FLASK)
        answer = client.ask("GET", target)
        assert answer.json()["target"] == target
    line = rig.logged(request_id=answer.header("x-request-id"))
    assert (line["status"], line["error"]) == (200, None)
    assert line["resent"] == [
        {"lost": "reset", "crash": "crashed", "away": "unavailable"}.get(failure, failure)
    ]
    until(lambda: rig.at_rest(clients=0))


@pytest.fixture
def narrow() -> Iterator[Rig]:
    """With one place in MLflow, and a connection to it that is idle."""
    with rigged(mlflow_concurrency=1, hold_seconds=3) as rig:
        assert rig.ask("GET", FLASK).status == 200
        until(lambda: rig.at_rest(clients=0, idle=1))
        yield rig


def occupied(rig: Rig, wait: float) -> Client:
    """One whose request has the place for so long."""
    client = rig.client()
    client.request("GET", told(FLASK, wait=wait, mark="first"))
    until(lambda: rig.standing()["slots"] == 1)
    return client


def queued(rig: Rig, mark: str, body: bytes = b"{}") -> Client:
    """One whose request waits for it, without a task."""
    before = rig.standing()
    client = rig.client()
    client.request("POST", told(LOG_METRIC, mark=mark), body=body)
    now = until(lambda: (now := rig.standing())["waiting"] > before["waiting"] and now)
    assert (now["tasks"], now["bytes_held"]) == (before["tasks"], before["bytes_held"] + len(body))
    return client


def marks(rig: Rig) -> list[str]:
    """Of those that MLflow was asked, in their order."""
    return [event["target"].rpartition("=")[2] for event in rig.events("head") if "mark=" in event["target"]]


def test_who_waits_for_a_place_waits_in_the_lane_and_is_let_in_in_turn(narrow: Rig) -> None:
    first = occupied(narrow, 1)
    waiting = [queued(narrow, mark) for mark in "abc"]
    waiting[1].send(head("GET", told(FLASK, mark="d")))  # waits for the one before it, too
    assert first.answer().status == 200
    for client, mark in zip(waiting, "abc", strict=True):
        assert client.answer().json()["body"] == "{}"
        assert narrow.logged(path=LOG_METRIC)["status"] == 200, mark
    assert waiting[1].answer().json()["target"] == told(FLASK, mark="d")
    assert sorted(marks(narrow)) == ["a", "b", "c", "d", "first"]
    assert [mark for mark in marks(narrow) if mark in "ac"] == ["a", "c"]
    until(narrow.at_rest)


def test_who_leaves_while_waiting_is_never_heard_of_by_mlflow(narrow: Rig) -> None:
    first = occupied(narrow, 1)
    leaves, stays = queued(narrow, "leaves"), queued(narrow, "stays")
    leaves.sock.close()
    until(lambda: narrow.standing()["waiting"] == 1)
    assert (first.answer().status, stays.answer().status) == (200, 200)
    line = narrow.logged(error="client_gone")
    assert (line["path"], line["mlflow_ms"]) == (LOG_METRIC, None)
    assert marks(narrow) == ["first", "stays"]
    until(narrow.at_rest)


def test_whose_credential_is_revoked_while_waiting_is_refused(narrow: Rig) -> None:
    first = occupied(narrow, 1)
    waiting = queued(narrow, "revoked")
    narrow.standing(revoked=True)
    answer = waiting.answer()
    assert (answer.status, first.answer().status) == (401, 200)
    assert "was revoked" in answer.json()["message"]
    assert narrow.logged(path=LOG_METRIC)["error"] == "revoked"
    assert marks(narrow) == ["first"]
    until(narrow.at_rest)


def test_who_waits_too_long_is_told_to_try_again(narrow: Rig) -> None:
    first = occupied(narrow, 6)
    answer = queued(narrow, "late").answer()
    assert (answer.status, answer.header("retry-after")) == (503, "2")
    assert "1 requests of yours" in answer.json()["message"]
    line = narrow.logged(path=LOG_METRIC)
    assert (line["status"], line["refusal"], line["bytes_in"]) == (503, "overloaded", 2)
    assert first.answer().status == 200
    assert marks(narrow) == ["first"]
    until(narrow.at_rest)


def test_who_waits_for_a_place_waits_on_for_mlflow_where_that_goes_away(narrow: Rig) -> None:
    first = occupied(narrow, 1)
    waiting = [queued(narrow, mark) for mark in "ab"]
    narrow.standing(up=False)
    assert first.answer().status == 200
    until(lambda: narrow.metric('mlflow_proxy_held_requests{reason="mlflow"}') == 1)
    narrow.standing(up=True)
    assert [client.answer().status for client in waiting] == [200, 200]
    assert marks(narrow) == ["first", "a", "b"]
    until(narrow.at_rest)


def test_what_must_not_be_done_twice_is_not(rig: Rig) -> None:
    target = told(CREATE, mark="twice", lost=1)
    with rig.client() as client:
        client.ask("GET", FLASK)
        assert client.ask("POST", target, body=b'{"name": "x"}').status == 409
        assert client.ask("GET", FLASK).status == 200  # the connection can go on
    assert len(rig.events("head", target=target)) == 1


@pytest.mark.parametrize(
    ("answer", "arrives"),
    [
        (response(200, "Content-Length: 2", body=b"{}"), b"{}"),
        (response(200, "Content-Length: 0"), b""),
        (response(404, "Content-Length: 2", body=b"no"), b"no"),
        (response(500, "Content-Length: 2", body=b"no"), b"no"),
        (response(204), b""),
        (response(304), b""),
        (response(200, "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), b"{}"),
        (response(200, "Content-Length: 20000", body=b"x" * 20000), b"x" * 20000),
        (b"HTTP/1.1 103 Early\r\n\r\n" + response(200, "Content-Length: 2", body=b"{}"), b"{}"),
        (response(200, "Content-Length: 2", "Connection: X-Own", "X-Own: 1", body=b"{}"), b"{}"),
    ],
    ids=["short", "empty", "404", "500", "204", "304", "chunks", "long", "interim", "hop by hop"],
)
def test_an_answer_is_the_same_whichever_way_it_came(rig: Rig, answer: bytes, arrives: bytes) -> None:
    target = told(FLASK, raw=answer, mark=len(answer))
    seen = []
    with rig.client() as client:
        client.ask("GET", FLASK)
        for headers in ((), ("Connection: close",)):
            got = client.ask("GET", target, *headers)
            assert got.body == arrives
            kept = [(name, value) for name, value in got.headers if name not in ("date", "x-request-id")]
            seen.append((got.status, [header for header in kept if header != ("connection", "close")]))
    assert seen[0] == seen[1]
    assert not any(name == "x-own" for name, _ in seen[0][1])


def test_who_leaves_keeps_the_place_until_mlflow_has_answered(rig: Rig) -> None:
    target = told(FLASK, wait="1", mark="left")
    rig.ask("GET", FLASK)
    client = rig.client()
    client.request("GET", target)
    rig.event("head", target=target)
    client.leave()
    until(lambda: rig.standing()["clients"] == 0)
    assert rig.standing()["slots"] == 1
    until(rig.at_rest)
    line = rig.logged(path=FLASK, status=499)
    assert line["error"] == "client_gone"


def test_what_mlflow_does_not_answer_is_given_up() -> None:
    with rigged(answer_timeout=1) as rig, rig.client() as client:
        client.ask("GET", FLASK)
        answer = client.ask("GET", told(FLASK, then="hang", wait="30"))
        assert answer.status == 504
        assert client.ask("GET", FLASK).status == 200
        until(rig.at_rest)


def test_a_place_that_is_taken_is_waited_for() -> None:
    with rigged(mlflow_concurrency=1, user_concurrency=1) as rig:
        slow, quick = told(FLASK, wait="0.5", mark="slow"), told(FLASK, mark="quick")
        with rig.client() as first, rig.client() as second:
            second.ask("GET", FLASK)
            first.request("GET", slow)
            rig.event("head", target=slow)
            second.request("GET", quick)
            until(lambda: rig.standing()["waiting"] == 1)
            assert not rig.events("head", target=quick)
            assert [first.answer().status, second.answer().status] == [200, 200]
        until(rig.at_rest)


# Answers that begin as others did.

SAME = response(200, "content-type: application/json", "content-length: 5")


def test_behind_the_same_head_comes_another_body(rig: Rig) -> None:
    bodies = [b"first", b"again", b"\r\n\r\nx", b"again"]
    with rig.client() as client:
        assert [client.ask("GET", told(FLASK, SAME + body)).body for body in bodies] == bodies
        # The body comes later, as zeros: the head alone is there at first.
        assert client.ask("GET", told(FLASK, SAME, pieces=5, every="0.02", plain=1)).body == bytes(5)
        assert (
            client.ask("GET", told(FLASK, SAME + b"he", pieces=3, every="0.02", plain=1)).body == b"he\0\0\0"
        )
        assert client.ask("GET", told(FLASK, SAME + b"whole")).body == b"whole"


def test_what_comes_behind_an_answer_whose_head_is_known_is_nobody_s(rig: Rig) -> None:
    extra = told(FLASK, SAME + b"first" + SAME + b"wrong")
    with rig.client() as client:
        assert client.ask("GET", told(FLASK, SAME + b"whole")).body == b"whole"
        assert b"wrong" not in client.ask("GET", extra).body
        for n in range(4):
            assert client.ask("GET", told(FLASK, SAME + b"%05d" % n)).body == b"%05d" % n
    rig.event("end", connection=rig.event("head", target=extra)["connection"])


def test_a_known_head_that_says_the_connection_ends_says_so_each_time(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(rig.client()) for _ in range(5)]
        for n, client in enumerate(clients):  # five connections to MLflow
            client.request("GET", told(FLASK, wait="0.5", mark=f"at once {n}"))
        for client in clients:
            client.answer()
        raw = response(200, "connection: close", "content-length: 2", body=b"ok")
        targets = [told(FLASK, raw, mark=n) for n in range(4)]
        for target in targets:
            answer = clients[0].ask("GET", target)
            assert (answer.body, answer.header("connection")) == (b"ok", None)
    assert len({rig.event("head", target=target)["connection"] for target in targets}) == 4


def test_a_known_head_s_date_server_and_hop_by_hop_headers_are_mlflow_s_alone(rig: Rig) -> None:
    lines = ("date: x", "server: y", "keep-alive: 5", "x-mine: 1", "connection: x-mine", "content-length: 2")
    ids = set()
    for _ in range(3):
        answer = rig.ask("GET", told(FLASK, response(200, *lines, "x-kept: 1", body=b"ok")))
        names = [name for name, _ in answer.headers]
        assert sorted(names) == ["content-length", "date", "x-kept", "x-request-id"]
        assert answer.header("date") != "x"
        ids.add(answer.header("x-request-id"))
    assert len(ids) == 3
