"""Requests that wait: for MLflow, for a place in it; how long, how many, and that they leave no trace."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from forwarding import ARTIFACT, FLASK, MIB, Rig, head, rigged, told, until


@pytest.fixture
def down() -> Iterator[Rig]:
    """MLflow is away, for longer than anybody waits."""
    with rigged(hold_seconds=1.0, hold_requests=3, mlflow_concurrency=2) as rig:
        rig.standing(up=False)
        yield rig


def test_a_call_waits_for_mlflow_and_is_then_answered(down: Rig) -> None:
    with down.client() as get, down.client() as put:
        get.request("POST", FLASK, body=b"{}")
        put.request("PUT", ARTIFACT, body=b"x" * 1000)
        until(lambda: down.standing()["waiting"] == 2)
        assert down.standing(up=True)["passages"] == 2
        assert get.answer().json()["body"] == "{}"
        assert put.answer().json()["length"] == 1000
    until(down.at_rest)


def test_a_call_waits_so_long_and_no_longer(down: Rig) -> None:
    began = time.monotonic()
    answer = down.ask("POST", FLASK, body=b"{}")
    assert answer.status == 503
    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert "the stand-in is down" in answer.json()["message"]
    assert int(answer.header("retry-after") or 0) >= 1
    assert 0.7 < time.monotonic() - began < 6
    assert down.logged(request_id=answer.header("x-request-id"))["refusal"] == "not_ready"
    until(down.at_rest)


def test_all_that_wait_are_refused_in_time_whatever_stands_before_them() -> None:
    with rigged(hold_seconds=1, mlflow_concurrency=1) as rig:
        rig.standing(up=False)
        began = time.monotonic()
        clients = [rig.client() for _ in range(6)]
        for client in clients:
            client.request("GET", FLASK)
        assert [client.answer().status for client in clients] == [503] * 6
        assert time.monotonic() - began < 3
        until(rig.at_rest)


def test_a_slow_upload_has_its_own_time_and_the_wait_for_mlflow_its_own(down: Rig) -> None:
    with down.client() as client:
        client.send(head("POST", FLASK, "Content-Length: 4") + b"a")
        for _ in range(3):
            time.sleep(0.4)  # longer, all in all, than a request may wait
            client.send(b"a")
        until(lambda: down.standing()["waiting"] == 1)
        down.standing(up=True)
        assert client.answer().status == 200


def test_only_so_many_wait(down: Rig) -> None:
    clients = [down.client() for _ in range(3)]
    for client in clients:
        client.request("GET", ARTIFACT)
    until(lambda: down.standing()["waiting"] == 3)
    answer = down.ask("GET", ARTIFACT)
    assert answer.status == 503
    assert "PROXY_HOLD_REQUESTS" in answer.json()["message"]
    assert down.logged(request_id=answer.header("x-request-id"))["refusal"] == "overloaded"
    assert down.standing()["waiting"] == 3
    clients[0].leave()
    until(lambda: down.standing()["waiting"] == 2)
    down.standing(up=True)
    assert [client.answer().status for client in clients[1:]] == [200, 200]
    until(down.at_rest)


def test_who_leaves_while_waiting_for_mlflow_is_forgotten_at_once(down: Rig) -> None:
    client = down.client()
    client.request("POST", told(FLASK, test="left"), body=b"x" * 10_000)
    until(lambda: down.standing()["waiting"] == 1)
    assert down.standing()["bytes_held"] == 10_000
    client.leave()
    until(down.at_rest, 1)
    down.standing(up=True)
    assert down.ask("GET", FLASK).status == 200
    assert down.events("head", target=told(FLASK, test="left")) == []
    assert down.logged(error="client_gone")["status"] == 499


@pytest.mark.parametrize("killed", [True, False])
def test_who_leaves_while_an_upload_is_held_back_is_noticed_within_seconds(killed: bool) -> None:
    with rigged(hold_seconds=30, stall_timeout=30) as rig:
        rig.standing(up=False)
        client, other = rig.client(), rig.client()
        for each in (client, other):
            each.send(head("PUT", ARTIFACT, f"Content-Length: {8 * MIB}"))
            each.sock.setblocking(False)
            with suppress(BlockingIOError):  # as much as the kernel and the proxy take
                while each.sock.send(bytes(MIB)):
                    time.sleep(0.05)
        until(lambda: rig.standing()["waiting"] == 2)
        if killed:
            client.leave()
        else:
            client.sock.close()
        until(lambda: rig.standing()["waiting"] == 1, 12)
        time.sleep(1.5)
        assert rig.standing()["waiting"] == 1, "the other one is still there"
        assert rig.logged(error="client_gone")["status"] == 499
        other.leave()
        until(rig.at_rest, 4)


def test_who_leaves_while_waiting_for_a_place_frees_it_at_once() -> None:
    with rigged(mlflow_concurrency=1) as rig, rig.client() as first:
        first.request("GET", told(FLASK, wait=1))
        until(lambda: rig.standing()["slots"] == 1)
        second, third = rig.client(), rig.client()
        second.request("GET", told(FLASK, test="second"))
        until(lambda: rig.standing()["waiting"] == 1)
        third.request("GET", told(FLASK, test="third"))
        until(lambda: rig.standing()["waiting"] == 2)
        second.leave()
        until(lambda: rig.standing()["waiting"] == 1, 1)
        assert third.answer().status == 200
        assert first.answer().status == 200
        assert rig.events("head", target=told(FLASK, test="second")) == []
        until(rig.at_rest)


def test_first_come_first_served_and_never_more_than_there_are_places() -> None:
    with rigged(mlflow_concurrency=2, user_concurrency=2) as rig:
        clients = []
        for n in range(8):
            client = rig.client()
            client.request("GET", told(FLASK, wait="0.15", n=n))
            clients.append(client)
            until(lambda n=n: rig.standing()["passages"] >= min(n + 1, 2))
            time.sleep(0.01)
        most = 0
        while not rig.at_rest():
            most = max(most, rig.standing()["slots"])
        assert most == 2
        assert [client.answer().status for client in clients] == [200] * 8
        order = [event["target"][-1] for event in rig.events("head") if "n=" in event["target"]]
        assert order == list("01234567")


def test_streams_need_no_place_in_mlflows_threads() -> None:
    with rigged(mlflow_concurrency=1) as rig, rig.client() as client:
        client.request("GET", told(FLASK, wait=1))
        until(lambda: rig.standing()["slots"] == 1)
        assert rig.ask("PUT", ARTIFACT, body=b"x").status == 200
        assert rig.standing()["slots"] == 1


def test_a_socket_that_takes_no_connection_is_waited_for() -> None:
    with rigged(hold_seconds=1.0, hold_requests=2) as rig:
        rig.end_upstream()
        until(lambda: rig.standing()["idle"] == 0 or rig.standing())
        began = time.monotonic()
        answer = rig.ask("GET", FLASK)
        assert answer.status == 503
        assert "was not sent" in answer.json()["message"]
        assert answer.header("retry-after")
        assert time.monotonic() - began > 0.7
        rig.socket.unlink()
        assert rig.ask("POST", FLASK, body=b"{}").status == 503
        clients = [rig.client() for _ in range(2)]
        for client in clients:
            client.request("PUT", ARTIFACT, body=b"abc")
        until(lambda: rig.standing()["waiting"] == 2)
        assert rig.ask("GET", FLASK).status == 503
        threading.Timer(0.2, rig.start_upstream).start()
        assert [client.answer().status for client in clients] == [200, 200]
        until(rig.at_rest)


def test_no_interim_answer_invites_a_body_that_can_not_be_sent_on(down: Rig) -> None:
    with down.client() as client:
        client.send(head("PUT", ARTIFACT, "Expect: 100-continue", f"Content-Length: {MIB}"))
        assert client.answer().status == 503
