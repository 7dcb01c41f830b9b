"""Each kind of credential in the hands of MLflow's own client, while it counts and once it counts no more."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from identity_provider import AUDIENCE, EDITOR, MACHINE, installed
from identity_world import World, world
from service import clean_environment

from proxy.auth import users
from proxy.identity import Role

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed(), reason="not installed: node, or oidc-provider (npm ci)"),
]
SCRIPT = Path(__file__).with_name("training.py")
NAME, WORDS = "petra", "a password that only petra has"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("credentials")
    file = folder / "users"
    users.add(file, NAME, WORDS, Role.EDITOR)
    more = {"PROXY_JWT_AUDIENCE": AUDIENCE, "PROXY_DEFAULT_ROLE": "none", "PROXY_USERS_FILE": str(file)}
    with world(folder, **more) as running:
        yield running


def train(place: World, home: Path, name: str, **credential: str) -> subprocess.CompletedProcess[str]:
    """The training job in a process of its own, with that credential in its environment and no other."""
    environment = clean_environment(
        **credential,
        HOME=str(home),
        MLFLOW_TRACKING_URI=place.url,
        MLFLOW_TRACKING_SERVER_CERT_PATH=str(place.service.ca),
    )
    return subprocess.run(
        [sys.executable, str(SCRIPT), name], env=environment, capture_output=True, text=True, timeout=120
    )


def trained(place: World, home: Path, name: str, **credential: str) -> dict[str, Any]:
    """Of a job that is let through: what it printed."""
    done = train(place, home, name, **credential)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def refused(place: World, home: Path, **credential: str) -> str:
    """Of a job that is not: what a person reads, and soon."""
    began = time.monotonic()
    done = train(place, home, "refused", **credential)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert time.monotonic() - began < 45, "MLflow's client repeated what has no hope"
    return done.stderr


def make(place: World, name: str, **more: Any) -> dict[str, Any]:
    """A token of petra's, made as a program would."""
    answer = place.service.session(NAME, WORDS).post(
        f"{place.url}/-/api/tokens", json={"name": name, **more}, timeout=30
    )
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_a_user_name_and_password(place: World, tmp_path: Path) -> None:
    run = trained(
        place, tmp_path, "by-password", MLFLOW_TRACKING_USERNAME=NAME, MLFLOW_TRACKING_PASSWORD=WORDS
    )
    assert (run["user_id"], run["tags"]["mlflow.user"]) == (NAME, NAME)
    assert "mlflow_proxy.credential" not in run["tags"]


def test_a_token(place: World, tmp_path: Path) -> None:
    token = make(place, "nightly")
    run = trained(place, tmp_path, "by-token", MLFLOW_TRACKING_TOKEN=token["token"])
    assert (run["user_id"], run["tags"]["mlflow.user"]) == (NAME, NAME)
    assert run["tags"]["mlflow_proxy.credential"] == "nightly"


def test_a_token_in_the_place_of_a_password(place: World, tmp_path: Path) -> None:
    token = make(place, "as a password")
    run = trained(
        place,
        tmp_path,
        "by-token-as-password",
        MLFLOW_TRACKING_USERNAME="whoever",
        MLFLOW_TRACKING_PASSWORD=token["token"],
        # Which MLflow's client passes over where both are set.
        MLFLOW_TRACKING_TOKEN="of another server",
    )
    assert run["user_id"] == NAME


def test_a_token_in_the_file_of_mlflows_client(place: World, tmp_path: Path) -> None:
    folder = tmp_path / ".mlflow"
    folder.mkdir()
    token = make(place, "in a file")["token"]
    (folder / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = token\nmlflow_tracking_password = {token}\n"
    )
    assert trained(place, tmp_path, "by-file")["tags"]["mlflow_proxy.credential"] == "in a file"


def test_a_service_accounts_token(place: World, tmp_path: Path) -> None:
    admin = place.service.session()
    made = admin.post(
        f"{place.url}/-/account/service-accounts", data={"name": "trainer", "role": "editor"}, timeout=30
    )
    assert made.ok, made.text
    secret = command(place, "token", "create", "--service-account", "trainer", "--name", "cluster").strip()
    run = trained(place, tmp_path, "by-service-account", MLFLOW_TRACKING_TOKEN=secret)
    assert run["user_id"] == "service:trainer"
    # RFC 7617 ends a user name at its first colon; this one has a colon, and works all the same.
    named = {"MLFLOW_TRACKING_USERNAME": "service:trainer", "MLFLOW_TRACKING_PASSWORD": secret}
    assert trained(place, tmp_path, "by-service-account-name", **named)["user_id"] == "service:trainer"
    command(place, "service-account", "remove", "trainer")
    time.sleep(4)
    said = refused(place, tmp_path, MLFLOW_TRACKING_TOKEN=secret)
    assert "'cluster' of service:trainer was revoked" in said
    assert "An administrator makes another one" in said


def test_an_access_token_of_the_identity_provider(place: World, tmp_path: Path) -> None:
    access = place.provider.device_tokens(EDITOR)["access_token"]
    run = trained(place, tmp_path, "by-jwt", MLFLOW_TRACKING_TOKEN=access)
    assert run["user_id"] == f"{EDITOR}@example.com"


def test_a_programs_own_access_token_is_no_persons(place: World, tmp_path: Path) -> None:
    run = trained(place, tmp_path, "by-machine", MLFLOW_TRACKING_TOKEN=place.provider.machine_token())
    assert run["user_id"] == f"client:{MACHINE}"


def test_an_expired_token(place: World, tmp_path: Path) -> None:
    token = make(place, "short", lifetime=1)
    time.sleep(1.1)
    said = refused(place, tmp_path, MLFLOW_TRACKING_TOKEN=token["token"])
    assert f"The token 'short' of {NAME} has expired on" in said
    assert f"mlflow-proxy login {place.url}" in said


def test_a_revoked_token(place: World, tmp_path: Path) -> None:
    token = make(place, "lost")
    trained(place, tmp_path, "before", MLFLOW_TRACKING_TOKEN=token["token"])
    person = place.service.session(NAME, WORDS)
    revoked = person.post(f"{place.url}/-/api/tokens/revoke", json={"id": token["id"]}, timeout=30)
    assert revoked.status_code == 200, revoked.text
    said = refused(place, tmp_path, MLFLOW_TRACKING_TOKEN=token["token"])
    assert f"The token 'lost' of {NAME} was revoked on" in said
    assert f"by {NAME}" in said


def test_a_read_only_token(place: World, tmp_path: Path) -> None:
    token = make(place, "for looking", read_only=True)
    session = place.service.anonymous()
    session.headers["Authorization"] = f"Bearer {token['token']}"
    search = session.post(
        f"{place.url}/api/2.0/mlflow/experiments/search", json={"max_results": 5}, timeout=30
    )
    assert search.status_code == 200, search.text
    said = refused(place, tmp_path, MLFLOW_TRACKING_TOKEN=token["token"])
    assert "PERMISSION_DENIED" in said
    assert f"The token 'for looking' of {NAME} is read-only" in said


def test_a_token_of_a_role_that_is_too_low(place: World, tmp_path: Path) -> None:
    token = make(place, "for viewing", role="viewer")
    said = refused(place, tmp_path, MLFLOW_TRACKING_TOKEN=token["token"])
    assert f"The token 'for viewing' of {NAME} has the role viewer" in said
    assert "needs the role editor" in said


def test_tokens_go_with_the_person_who_had_a_password(place: World, tmp_path: Path) -> None:
    file = Path(place.service.environment["PROXY_USERS_FILE"])
    users.add(file, "quentin", WORDS + " too", Role.EDITOR)
    person = place.service.session("quentin", WORDS + " too")
    made = person.post(f"{place.url}/-/api/tokens", json={"name": "his"}, timeout=30)
    secret = made.json()["token"]
    assert trained(place, tmp_path, "his", MLFLOW_TRACKING_TOKEN=secret)["user_id"] == "quentin"
    users.remove(file, "quentin")
    time.sleep(4)
    said = refused(place, tmp_path, MLFLOW_TRACKING_TOKEN=secret)
    assert "The token 'his' of quentin counts no more" in said


def test_tokens_go_with_the_groups_of_who_signed_in(place: World, tmp_path: Path) -> None:
    person = place.sign_in(EDITOR)
    made = person.post(f"{place.url}/-/api/tokens", json={"name": "hers"}, timeout=30)
    assert made.status_code == 201, made.text
    secret = made.json()["token"]
    trained(place, tmp_path, "hers", MLFLOW_TRACKING_TOKEN=secret)
    place.provider.set_user(EDITOR, groups=["everybody"])
    try:
        deadline = time.monotonic() + 30
        while place.who(person) is not None:  # the provider is asked again while she is at work
            assert time.monotonic() < deadline
            time.sleep(0.5)
        time.sleep(3)
        said = refused(place, tmp_path, MLFLOW_TRACKING_TOKEN=secret)
        assert "The token 'hers' of" in said
        assert "counts no more" in said
    finally:
        place.provider.set_user(EDITOR, groups=["everybody", "editors"])


def command(place: World, *words: str) -> str:
    """A command beside the service, as its operator runs it; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *words],
        cwd=place.service.folder,
        env=dict(place.service.environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
