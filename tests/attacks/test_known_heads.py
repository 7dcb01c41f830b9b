"""A head that is known on its connection opens nothing more than on the day: who may no more, may no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wire
from forwarding import Client
from test_reload import ASK, OTHER, PASSWORD, USER, Place, living

from proxy.auth.passwords import hash_password

LOG_METRIC = "/api/2.0/mlflow/runs/log-metric"


class Known:
    """A connection on which the same requests are sent again and again, the same but for their target."""

    def __init__(self, place: Place, credential: tuple[str, str], prefix: str = "") -> None:
        self._client = Client(place.service.port)
        self._heads = "Host: localhost\r\n{}: {}\r\n\r\n".format(*credential)
        self._prefix = prefix
        self.number = 0

    def ask(self, path: str | None = None) -> Any:
        self.number += 1
        target = self._prefix + ASK + f"&n={self.number}" if path is None else path
        self._client.send(f"GET {target} HTTP/1.1\r\n{self._heads}".encode())
        return self._client.answer()

    def post(self) -> int:
        self._client.send(
            f"POST {self._prefix}{LOG_METRIC} HTTP/1.1\r\nContent-Length: 2\r\n{self._heads}{{}}".encode()
        )
        return self._client.answer().status

    def is_known(self) -> None:
        for _ in range(3):
            assert self.ask().status == 200


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with living(tmp_path) as place:
        yield place


def test_a_reload_is_in_force_on_connections_that_are_open(place: Place) -> None:
    known = Known(place, wire.basic(USER, PASSWORD))
    known.is_known()
    place.write(PROXY_PUBLIC_URL="http://localhost/ml")
    assert place.reload().returncode == 0
    assert known.ask().status == 404
    place.write(PROXY_PUBLIC_URL="")
    assert place.reload().returncode == 0
    known.is_known()
    place.write(MLFLOW_TRACKING_PASSWORD=OTHER)
    assert place.reload().returncode == 0
    assert known.ask().status == 401
    place.write(MLFLOW_TRACKING_PASSWORD=PASSWORD, PROXY_LOGIN_FAILURES="3")
    assert place.reload().returncode == 0
    known.is_known()


def test_a_user_who_is_removed_or_made_less_is_so_at_once(place: Place) -> None:
    users, hashed = place.folder / "users", hash_password("editor-of-many-things")

    def write(line: str) -> None:
        users.write_text(f"vera:{hashed}:viewer\n{line}")
        users.chmod(0o600)

    write(f"edda:{hashed}:editor\n")
    place.write(PROXY_USERS_FILE=str(users))
    assert place.reload().returncode == 0
    known = Known(place, wire.basic("edda", "editor-of-many-things"))
    known.is_known()
    assert known.post() == known.post() != 403
    write(f"edda:{hashed}:viewer\n")
    assert place.reload().returncode == 0
    assert known.ask().status == 200
    assert known.post() == 403
    write("")
    assert place.reload().returncode == 0
    assert known.ask().status == 401
    assert known.post() == 401


def test_a_revoked_token_opens_nothing_on_a_connection_that_is_open(place: Place) -> None:
    url = place.service.url
    with place.service.session(USER, PASSWORD) as session:
        made = session.post(f"{url}/-/api/tokens", json={"name": "known"}, timeout=30)
        assert made.status_code == 201, made.text
        token = made.json()
        by_bearer = Known(place, ("Authorization", f"Bearer {token['token']}"))
        by_password = Known(place, wire.basic("anything", token["token"]))
        for known in (by_bearer, by_password):
            known.is_known()
        over = session.post(f"{url}/-/api/tokens/revoke", json={"id": token["id"]}, timeout=30)
        assert over.status_code == 200, over.text
        for known in (by_bearer, by_password):
            assert known.ask().status == 401
            assert known.ask().status == 401
