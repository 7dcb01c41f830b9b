"""More requests than MLflow takes: never more inside it than may be, and nobody shut out by another."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forwarding import FLASK, PASSWORD, WHOLE, Client, Rig, head, rigged, told, until

from proxy.auth.passwords import hash_password

BROWSER = "User-Agent: Mozilla/5.0"


def login(user: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()


@contextmanager
def shared(tmp_path: Path, **settings: Any) -> Iterator[Rig]:
    """A rig that the users sweeper and person have, too, their passwords known already."""
    users = tmp_path / "users"
    line = hash_password(PASSWORD)
    users.write_text(f"sweeper:{line}:editor\nperson:{line}:editor\n")
    users.chmod(0o600)
    with rigged(users_file=str(users), **settings) as rig:
        for user in ("sweeper", "person"):
            assert rig.ask("GET", FLASK, login(user), login=False).status == 200
        yield rig


def asks(rig: Rig, user: str, target: str, *headers: str) -> Client:
    """A client that has asked and waits."""
    client = rig.client()
    client.request("GET", target, login(user), *headers, login=False)
    return client


def took(rig: Rig, user: str, target: str, *headers: str) -> float:
    began = time.monotonic()
    assert rig.ask("GET", target, login(user), *headers, login=False).status == 200
    return time.monotonic() - began


def most_inside(rig: Rig) -> int:
    """How many requests were with the fake MLflow at once, at most."""
    inside = most = 0
    for text in (rig.folder / "record").read_text().splitlines():
        event = json.loads(text)["event"]
        inside += {"head": 1, "over": -1}.get(event, 0)
        most = max(most, inside)
    return most


def test_three_hundred_requests_of_one_user_do_not_shut_out_another(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=8) as rig:
        sweep = [asks(rig, "sweeper", told(FLASK, wait="0.1")) for _ in range(300)]
        until(lambda: rig.standing()["waiting"] > 250)
        reads = sorted(took(rig, "person", FLASK) for _ in range(20))
        assert rig.standing()["waiting"] > 100, "the sweep was over too early to tell"
        # All 300 take 3.75 s in eight threads; first come first served, each read would wait for half of it.
        assert reads[-2] < 0.3
        assert [client.answer().status for client in sweep] == [200] * 300
        assert most_inside(rig) <= 8
        until(rig.at_rest)


def test_a_persons_own_sweep_does_not_shut_out_the_person(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=4) as rig:
        sweep = [asks(rig, "person", told(FLASK, wait="0.2")) for _ in range(60)]
        until(lambda: rig.standing()["waiting"] > 40)
        assert took(rig, "person", FLASK, BROWSER) < 0.6
        assert rig.standing()["waiting"] > 20
        assert [client.answer().status for client in sweep] == [200] * 60


def test_whoever_fills_the_queue_gives_way_in_it(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=1, hold_requests=20) as rig:
        asks(rig, "sweeper", told(FLASK, wait=2))
        until(lambda: rig.standing()["slots"] == 1)
        sweep = [asks(rig, "sweeper", FLASK) for _ in range(20)]
        until(lambda: rig.standing()["waiting"] == 20)
        refused = asks(rig, "sweeper", FLASK).answer()
        assert (refused.status, refused.header("retry-after")) == (503, "2")
        person = asks(rig, "person", FLASK)
        gave_way = sweep.pop().answer()
        assert (gave_way.status, gave_way.header("retry-after")) == (503, "2")
        assert "gave way" in gave_way.json()["message"]
        assert gave_way.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert person.answer().status == 200
        assert [client.answer().status for client in sweep] == [200] * 19
        until(rig.at_rest)


def test_a_frozen_database_and_two_hundred_impatient_clients_stay_within_the_limit(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=6, hold_requests=150) as rig:

        def impatient(number: int) -> None:
            for _ in range(4):
                client = asks(rig, "sweeper", told(FLASK, wait=3, n=number))
                time.sleep(0.2 + number % 7 / 20)
                client.leave()

        crowd = [threading.Thread(target=impatient, args=(number,)) for number in range(200)]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join()
        assert rig.standing()["slots"] <= 6
        until(rig.at_rest)
        assert 1 < most_inside(rig) <= 6
        assert rig.metric("mlflow_proxy_abandoned_requests_total") > 0
        assert took(rig, "person", FLASK) < 1


def test_traces_stay_within_the_limit_though_their_clients_leave(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=4) as rig:
        for _ in range(20):
            with rig.client() as client:
                client.request("POST", told("/v1/traces", wait=1), login("sweeper"), login=False, body=b"{}")
                until(lambda: rig.standing()["slots"] + rig.standing()["waiting"] > 0)
        assert rig.standing()["slots"] <= 2
        until(rig.at_rest)
        assert 0 < most_inside(rig) <= 2


def test_probes_answer_while_every_place_is_taken(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=2) as rig:
        stuck = [asks(rig, user, told(FLASK, wait=2)) for user in ("sweeper", "person", "person", "sweeper")]
        until(lambda: rig.standing()["slots"] == 2)
        began = time.monotonic()
        with rig.client() as client:
            client.send(head("GET", "/livez", login=False))
            assert client.answer().status == 200
        assert time.monotonic() - began < 1
        assert [client.answer().status for client in stuck] == [200] * 4


def test_one_users_stuck_requests_leave_places_for_others_and_for_pages(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=6, hold_seconds=3) as rig:
        stuck = [asks(rig, "sweeper", told(FLASK, wait=6)) for _ in range(10)]
        until(lambda: rig.standing()["slots"] == 3)
        assert took(rig, "person", FLASK) < 1
        assert rig.metric('mlflow_proxy_held_requests{reason="user"}') == 7
        assert rig.metric("mlflow_proxy_users_held_up") == 1
        stuck += [asks(rig, "person", told(FLASK, wait=6)) for _ in range(3)]
        until(lambda: rig.standing()["slots"] == 6)
        assert took(rig, "person", "/static-files/main.js", BROWSER) < 1, "MLflow's pages need no database"
        refused = next(client for client in reversed(stuck[:10])).answer()
        assert refused.status == 503
        assert "3 requests of yours" in refused.json()["message"]
        assert "PROXY_USER_CONCURRENCY" in refused.json()["message"]
        assert rig.metric('mlflow_proxy_waits_total{reason="user"}') == 7
        until(rig.at_rest)
        assert most_inside(rig) <= 7


def test_a_download_that_mlflow_reads_whole_is_one_of_its_threads(tmp_path: Path) -> None:
    with shared(tmp_path, mlflow_concurrency=2, whole_downloads=2) as rig:
        clients = [asks(rig, user, told(WHOLE, wait="0.3")) for user in ("sweeper", "person")]
        until(lambda: rig.standing()["slots"] == 4)
        clients += [asks(rig, user, told(FLASK, wait="0.1")) for user in ("sweeper", "person")]
        assert [client.answer().status for client in clients] == [200] * 4
        assert most_inside(rig) == 2
        until(rig.at_rest)
