"""Two replicas on one PostgreSQL, as behind a load balancer: a session of one is one of the other."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import requests
from databases import PostgreSQL, database
from identity_provider import ADMIN, EDITOR, VIEWER, installed
from identity_world import REFRESH, World, world
from programs import needs
from service import Service

pytestmark = [
    pytest.mark.slow,
    needs(*PostgreSQL.programs),
    pytest.mark.skipif(not installed(), reason="not installed: oidc-provider (npm ci)"),
]
# Seconds, as the documentation states: replicas look every 2 s for sessions that have ended.
STATED = 3.0
BETWEEN = 0.1


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with database(PostgreSQL) as postgresql:
        uri = postgresql.uri()
        with world(
            tmp_path_factory.mktemp("replicas"),
            replicas=2,
            PROXY_DATABASE_URL=uri,
            MLFLOW_BACKEND_STORE_URI=uri,
        ) as made:
            yield made


def refused_after(here: World, person: requests.Session, replica: Service) -> float:
    """Seconds until that replica refuses the person."""
    began = time.monotonic()
    while here.who(person, replica) is not None:
        assert time.monotonic() < began + 30
        time.sleep(BETWEEN)
    return time.monotonic() - began


def test_signed_in_on_one_let_through_by_the_other(here: World) -> None:
    person = here.sign_in(VIEWER)
    first, second = here.replicas
    assert here.who(person, first) == here.who(person, second) == f"{VIEWER}@example.com"


def test_a_sign_in_begins_on_one_and_ends_on_the_other(here: World) -> None:
    person = here.person()
    first, second = here.replicas
    callback = here.callback(person, VIEWER, first)
    answer = person.get(callback.replace(here.url, second.local), allow_redirects=False, timeout=30)
    assert (answer.status_code, answer.headers["location"]) == (303, "/version"), answer.text
    assert here.who(person, first) == here.who(person, second) == f"{VIEWER}@example.com"


def test_signed_out_on_one_refused_by_the_other_within_the_stated_time(here: World) -> None:
    for one, other in (here.replicas, here.replicas[::-1]):
        person = here.sign_in(EDITOR)
        copied = here.person()
        copied.cookies.update(person.cookies)
        assert here.who(copied, one) == here.who(copied, other) == f"{EDITOR}@example.com"
        answer = person.post(f"{one.local}/oauth2/sign_out", allow_redirects=False, timeout=30)
        assert answer.status_code == 303, answer.text
        assert here.who(copied, one) is None
        seconds = refused_after(here, copied, other)
        print(f"refused by the other after {seconds:.1f} s")
        assert seconds < STATED


def test_signed_out_by_the_provider_is_signed_out_everywhere(here: World) -> None:
    person = here.sign_in(ADMIN)
    for replica in here.replicas:
        assert here.who(person, replica) is not None
    page = person.get(f"{here.provider.issuer}/session/end", timeout=30)
    form = page.text.split('name="xsrf" value="')[1].split('"')[0]
    confirm = page.text.split('action="')[1].split('"')[0]
    person.post(confirm, data={"xsrf": form, "logout": "yes"}, timeout=30)
    here.provider.said(f"back-channel logout of {ADMIN}")
    for replica in here.replicas:
        assert refused_after(here, person, replica) < STATED


def test_groups_are_refreshed_once_for_both(here: World) -> None:
    person = here.sign_in(VIEWER)
    for replica in here.replicas:
        here.who(person, replica)
    before = here.provider.log.read_text().count("tokens: refresh_token")
    time.sleep(REFRESH)
    for _ in range(5):
        for replica in here.replicas:
            assert here.who(person, replica) is not None
    assert here.provider.log.read_text().count("tokens: refresh_token") == before + 1
