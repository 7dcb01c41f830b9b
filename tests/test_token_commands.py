"""`mlflow-proxy token` and `service-account`: what they do beside a running service, and what they say."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from session_site import ADA
from token_site import DAY, Events, Replica, replicas, settings

from proxy.auth import users
from proxy.auth.tokens import TokenInfo
from proxy.auth.tokens.commands import (
    accounts_table,
    add_service_account,
    create_token,
    list_service_accounts,
    list_tokens,
    password_role,
    remove_service_account,
    renew_token,
    revoke_tokens,
    table,
)
from proxy.auth.tokens.orphans import GONE_SECONDS
from proxy.errors import UserError
from proxy.identity import PASSWORD_ISSUER, Role
from proxy.settings import Settings
from proxy.store import NewSession, sessions


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users"
    users.add(path, "bob", "a long enough password", Role.EDITOR)
    return path


@pytest.fixture
def given(tmp_path: Path, users_file: Path) -> Settings:
    return settings(tmp_path, users_file=users_file)


@pytest.fixture
def service(given: Settings) -> Iterator[Replica]:
    """The service beside which the commands run."""
    with replicas(given) as (replica,):
        replica.roles = {"bob": Role.EDITOR, "admin": Role.ADMIN}
        yield replica


def vouch(service: Replica, **changed: Any) -> None:
    asyncio.run(service.vouch(replace(ADA, **changed), time.time()))


def test_a_token_made_by_a_command_opens_the_service(given: Settings, service: Replica) -> None:
    events = Events()
    secret, made = create_token(given, user="bob", name="job", lifetime=DAY, read_only=True, audit=events)
    identity = asyncio.run(service.who(secret))
    assert (identity.user, identity.role) == ("bob", Role.EDITOR)  # the owner's own role unless said
    assert identity.credential is not None
    assert identity.credential.read_only
    assert made.created_by == "the command line"
    assert [event for event, *_ in events.seen] == ["token_created"]
    assert list_tokens(given) == list_tokens(given, "bob")
    assert list_tokens(given, "ann") == []


def test_the_first_user_has_tokens_too(given: Settings) -> None:
    assert create_token(given, user="admin", name="job", lifetime=DAY)[1].role == Role.ADMIN
    assert password_role(replace_settings(given, username="root"))("admin") is None


def replace_settings(given: Settings, **values: Any) -> Settings:
    return given.model_copy(update=values)


@pytest.mark.parametrize("which", [ADA.user, ADA.subject, "Ada@Example.com"])
def test_a_person_who_has_signed_in_is_named_in_several_ways(
    given: Settings, service: Replica, which: str
) -> None:
    vouch(service, user="ada@example.com")
    secret, made = create_token(given, user=which, name="job", lifetime=DAY, role=Role.VIEWER)
    assert made.user == ADA.user
    assert asyncio.run(service.who(secret)).subject == ADA.subject


MISTAKES: dict[str, tuple[Callable[[Settings], Any], str]] = {
    "nobody": (lambda s: make(s, user="ann"), "nobody named 'ann' has a password here"),
    "no user": (lambda s: make(s), "nobody named ''"),
    "unverified address": (lambda s: make(s, user="eve@example.com"), "nobody named 'eve@example.com'"),
    "two": (lambda s: make(s, user="twin"), "'twin' is the name of 2 accounts"),
    "no role": (lambda s: make(s, user="idle"), "is not among those who get in here and have a role"),
    "role": (lambda s: make(s, user="bob", role=Role.ADMIN), "bob has the role editor"),
    "lifetime": (lambda s: make(s, user="bob", lifetime=366 * DAY), "at most 365 days here"),
    "name": (lambda s: make(s, user="bob", name=""), "has a name"),
    "account": (lambda s: make(s, service_account="no"), "there is no service account 'no'"),
    "renew": (lambda s: renew_token(s, "abcdef"), "no token has the user 'abcdef' or an id"),
    "revoke": (lambda s: revoke_tokens(s, "abcdef"), "no token has the user 'abcdef' or an id"),
    "revoke nothing": (lambda s: revoke_tokens(s, ""), "no token has the user ''"),
    "remove": (lambda s: remove_service_account(s, "no"), "There is no service account 'no'"),
    "add": (lambda s: add_service_account(s, "No!", Role.VIEWER), "A service account's name is"),
}


def make(given: Settings, **asked: Any) -> tuple[str, TokenInfo]:
    return create_token(given, **{"name": "job", "lifetime": DAY, **asked})


@pytest.mark.parametrize(("command", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_said_in_a_line(
    given: Settings, service: Replica, command: Callable[[Settings], Any], said: str
) -> None:
    vouch(service, subject="2", user="eve", email="eve@example.com", email_verified=False)
    vouch(service, subject="3", user="twin", email=None)
    vouch(service, subject="4", user="twin", email=None)
    vouch(service, subject="5", user="idle", email=None, groups=())
    create_token(given, user="bob", name="other", lifetime=DAY)
    with pytest.raises(UserError) as caught:
        command(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(list_tokens(given)) == 1


def test_a_name_of_two_people_one_of_whom_gets_in_is_the_ones(given: Settings, service: Replica) -> None:
    vouch(service, subject="3", user="twin", email=None, groups=())
    vouch(service, subject="4", user="twin", email=None)
    secret, _ = create_token(given, user="twin", name="job", lifetime=DAY)
    assert asyncio.run(service.who(secret)).subject == "4"


def test_tokens_are_renewed_and_revoked_by_the_beginning_of_their_ids(
    given: Settings, service: Replica
) -> None:
    events = Events()
    old_secret, old = create_token(given, user="bob", name="job", lifetime=2 * DAY)
    secret, new = renew_token(given, old.id[:8], overlap=0.0, audit=events)
    assert new.renews == old.id
    assert "was renewed on" in asyncio.run(service.why(old_secret))
    assert [found.id for found in revoke_tokens(given, new.id[:6].upper(), audit=events)] == [new.id]
    assert "by the command line" in asyncio.run(service.why(secret))
    assert [event for event, *_ in events.seen] == ["token_renewed", "token_revoked"]
    with pytest.raises(UserError):
        revoke_tokens(given, new.id)  # it is over


def test_all_tokens_of_a_user_are_revoked_together(given: Settings, service: Replica) -> None:
    for name in ("a", "b", "c"):
        create_token(given, user="bob", name=name, lifetime=DAY)
    _, kept = create_token(given, user="admin", name="a", lifetime=DAY)
    revoked = revoke_tokens(given, "bob")
    assert {token.name for token in revoked} == {"a", "b", "c"}
    assert {token.state for token in revoked} == {"revoked"}
    assert [token.id for token in list_tokens(given) if token.state == "active"] == [kept.id]


def test_service_accounts_come_and_go(given: Settings, service: Replica) -> None:
    events = Events()
    assert add_service_account(given, "ci", Role.EDITOR, "the CI", audit=events).user == "service:ci"
    secret, made = make(given, service_account="service:ci")
    assert (made.user, made.role) == ("service:ci", Role.EDITOR)
    assert asyncio.run(service.who(secret)).user == "service:ci"
    assert [account.name for account in list_service_accounts(given)] == ["ci"]
    assert "the CI" in accounts_table(list_service_accounts(given))
    assert remove_service_account(given, "service:ci", audit=events) == 1
    asyncio.run(service.tokens.look())
    assert "was revoked" in asyncio.run(service.why(secret))
    assert [event for event, *_ in events.seen] == ["service_account_created", "service_account_removed"]


def test_the_table_shows_no_secret_and_obeys_nobody(given: Settings, service: Replica) -> None:
    secret, _ = create_token(given, user="bob", name="job", lifetime=DAY, read_only=True)
    asyncio.run(service.who(secret))
    text = table([replace(token, last_used_from="\x1b[31mevil") for token in list_tokens(given)])
    head, line = text.splitlines()
    assert head.split() == ["id", "user", "name", "role", "state", "expires", "last", "used", "from"]
    assert secret[7:] not in text
    assert "editor, read-only" in line
    assert "\x1b" not in text
    assert line.endswith("?[31mevil")


# ---- Users who leave ----


def users_command(given: Settings, *arguments: str, password: str = "") -> str:
    """`mlflow-proxy users …` as it is run beside the service."""
    files = ["--users-file", str(given.users_file)]
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "users", *arguments, *files],
        input=f"{password}\n",
        env={**os.environ, "PROXY_DATA_DIR": str(given.data_dir)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Replica]:
    """A service whose users file has ann, who has a token and a session."""
    file = tmp_path / "users"
    users.add(file, "ann", "a long enough password", Role.EDITOR)
    given = settings(tmp_path, users_file=file)
    with replicas(given) as (replica,):
        replica.roles = {"ann": Role.EDITOR}
        yield replica


def left_of_ann(replica: Replica) -> str:
    secret, _ = create_token(replica.settings, user="ann", name="job", lifetime=DAY)
    create_token(replica.settings, user="ann", name="other", lifetime=DAY)
    now = time.time()
    session = NewSession(
        id="f" * 64, user="ann", email=None, email_verified=False, name="", issuer=PASSWORD_ISSUER,
        subject="ann", provider_sid=None, groups=(), role=2, created=now, ends=now + DAY, client="",
        user_agent="", tokens=None,
    )  # fmt: skip
    replica.store.run_blocking(lambda db: sessions.insert(db, session))
    return secret


def of_ann(replica: Replica) -> set[str]:
    return {token.state for token in list_tokens(replica.settings, "ann")}


def test_a_user_who_is_removed_takes_tokens_and_sessions_along(leaving: Replica) -> None:
    secret = left_of_ann(leaving)
    said = users_command(leaving.settings, "remove", "ann")
    assert "; 2 tokens were revoked and 1 session was ended." in said
    assert of_ann(leaving) == {"revoked"}
    session = leaving.store.run_blocking(lambda db: sessions.read(db, "f" * 64))
    assert session is not None
    assert session.ended is not None
    assert "was revoked" in asyncio.run(leaving.why(secret))


def test_a_user_is_removed_however_the_accent_in_the_name_is_written(leaving: Replica) -> None:
    assert leaving.settings.users_file is not None
    users.add(leaving.settings.users_file, "Zo\u00eb", "a long enough password", Role.EDITOR)
    create_token(leaving.settings, user="Zo\u00eb", name="job", lifetime=DAY)
    assert "; 1 token was revoked." in users_command(leaving.settings, "remove", "Zoe\u0308")
    assert [token.state for token in list_tokens(leaving.settings, "Zo\u00eb")] == ["revoked"]


def test_somebody_new_of_a_name_does_not_get_the_old_tokens(leaving: Replica) -> None:
    """The line was taken out by hand, as with htpasswd -D."""
    secret = left_of_ann(leaving)
    assert leaving.settings.users_file is not None
    leaving.settings.users_file.write_text("# nobody\n")
    said = users_command(leaving.settings, "add", "ann", "--stdin", password="kestrel-lantern-42")
    assert "before, 2 tokens were revoked and 1 session was ended." in said
    assert "was revoked" in asyncio.run(leaving.why(secret))


def test_adding_whom_there_is_already_revokes_nothing(leaving: Replica) -> None:
    left_of_ann(leaving)
    with pytest.raises(AssertionError, match="already"):
        users_command(leaving.settings, "add", "ann", "--stdin", password="kestrel-lantern-42")
    assert of_ann(leaving) == {"active"}


def test_a_user_who_is_missing_for_an_hour_is_gone_for_good(leaving: Replica) -> None:
    secret = left_of_ann(leaving)
    orphans, now = leaving.tokens._in_use._orphans, time.time()

    async def test() -> None:
        assert await orphans.look(now) == []
        del leaving.roles["ann"]
        assert await orphans.look(now + 10) == []
        assert await orphans.look(now + GONE_SECONDS) == []
        leaving.roles["ann"] = Role.EDITOR  # a mistake, put right: the hour begins anew the next time
        assert await orphans.look(now + GONE_SECONDS + 20) == []
        await leaving.who(secret)
        del leaving.roles["ann"]
        assert await orphans.look(now + GONE_SECONDS + 30) == []
        ended = await orphans.look(now + 2 * GONE_SECONDS + 30)
        assert len(ended) == 2
        leaving.tokens._in_use.revoked(ended)  # as watch() does
        leaving.roles["ann"] = Role.EDITOR
        assert "was revoked" in await leaving.why(secret)
        assert len(leaving.events.named("token_revoked")) == 2

    asyncio.run(test())


def test_where_passwords_are_switched_off_nobody_is_missing(leaving: Replica) -> None:
    left_of_ann(leaving)

    async def test(off: Replica) -> None:
        for seconds in (0, 2 * GONE_SECONDS):
            assert await off.tokens._in_use._orphans.look(time.time() + seconds) == []

    with replicas(leaving.settings.model_copy(update={"basic_auth": False})) as (off,):
        off.roles = {}
        asyncio.run(test(off))
