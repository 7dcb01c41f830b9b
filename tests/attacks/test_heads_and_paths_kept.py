"""What is kept of heads and paths, so that they need not be read again: no body's end, and never much."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from forwarding import BASIC, FLASK, Rig, head, rigged

LOG_METRIC = "/api/2.0/mlflow/runs/log-metric"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def test_the_end_of_a_body_is_no_head_that_is_known(rig: Rig) -> None:
    """A request is refused before its body is there. What ends that body looks like a head's beginning, and
    comes together with a right request: that is no head of two Hosts and two lengths to be taken later."""
    tail = (
        f"POST {LOG_METRIC} HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\nX-Rest: ".encode()
    )
    right = head("POST", LOG_METRIC, body=b"hello") + b"hello"
    rig.ask("GET", FLASK)  # so that a connection to MLflow is idle
    with rig.client() as client:
        client.send(head("POST", LOG_METRIC, body=tail, login=False))
        assert client.answer().status == 401
        client.send(tail + right)
        assert client.answer().status == 200
        client.send(tail + right)
        assert client.answer().status == 400
        assert client.ended()


def test_what_anybody_asks_for_fills_no_memory(rig: Rig) -> None:
    before = rig.memory()
    with rig.client() as client:
        for number in range(3_000):
            path = f"/api/{number:06d}{'x' * 60_000}"
            assert client.ask("GET", path, login=False).status == 401
    assert rig.memory() - before < 64  # MiB; kept, they are 180


def test_what_a_user_calls_this_hop_s_own_fills_no_memory(rig: Rig) -> None:
    before = rig.memory()
    authorization = "Authorization: " + BASIC.decode()
    with rig.client() as client:
        for number in range(256):
            names = ",".join(f"{number:03x}{name:04x}" for name in range(7_000))
            answer = client.ask("GET", FLASK, f"Connection: {names}", authorization, login=False)
            assert answer.status == 200
    assert rig.memory() - before < 64  # kept, they are 200
