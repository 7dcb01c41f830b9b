"""Tokens: what they look like, who makes them, what they open, and how each of them ends everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from end_to_end.databases import Database, PostgreSQL, database
from programs import needs
from session_site import ADA, TOKENS, ObedientProvider, exchange_from
from token_site import ADA_SIGNED_IN, BOB, DAY, ROOT, VERA, Replica, replicas, settings

from proxy.auth import admission
from proxy.auth.oidc.failures import ProviderError
from proxy.auth.refusals import Refusal
from proxy.auth.session import Sessions, cookie_secrets
from proxy.auth.tokens import may_manage
from proxy.auth.tokens.changes import MOST_ENDED
from proxy.auth.tokens.format import checked, digest, in_password, looks_like, made
from proxy.auth.tokens.in_use import POLL_SECONDS
from proxy.auth.tokens.people import People
from proxy.auth.verified import Verified, reserved_name
from proxy.exchange import Refused
from proxy.identity import PASSWORD_ISSUER, SERVICE_ISSUER, Credential, Identity, Role
from proxy.settings import Settings
from proxy.store import people
from proxy.store import tokens as rows

STATED_SECONDS = POLL_SECONDS + 1
"""docs/tokens.md: "within 3 seconds"."""
Test = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Database]:
    with database(PostgreSQL) as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs(*PostgreSQL.programs))])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., list[Settings]]:
    """Settings of two replicas over one database."""
    url = f"sqlite:///{tmp_path}/shared.db"
    if request.param == "postgresql":
        running: Database = request.getfixturevalue("cluster")
        url = running.uri()
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        engine.dispose()

    return lambda **values: [settings(tmp_path, database_url=url, **values) for _ in range(2)]


def run(folder: Path, test: Test, **values: Any) -> Any:
    """That test with one replica."""
    with replicas(settings(folder, **values)) as (replica,):
        return asyncio.run(test(replica))


@contextlib.asynccontextmanager
async def watched(*which: Replica) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(replica.tokens.watch()) for replica in which]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def refused(asked: Awaitable[object], status: int) -> str:
    with pytest.raises(Refused) as caught:
        await asked
    assert caught.value.status == status
    return caught.value.message


async def write(replica: Replica, statement: str, **values: Any) -> None:
    await replica.store.run(lambda db: db.execute(sa.text(statement), values))


# ---- What they look like ----


def test_a_token_has_the_shape_that_scanners_look_for() -> None:
    shape = re.compile(r"\bmlf[ps]at_[0-9A-Za-z]{36}\b")
    for kind in ("person", "service"):
        secret = made(kind)
        assert shape.search(f'token = "{secret}"')
        assert looks_like(secret.encode())
        assert checked(secret.encode()) == secret
    assert made("person").startswith("mlfpat_")
    assert made("service").startswith("mlfsat_")
    assert len({made("person") for _ in range(1000)}) == 1000


def test_the_checksum_is_what_the_docs_say() -> None:
    """So that a scanner elsewhere can verify it: CRC32 of all before it, in base62."""
    body = "mlfpat_" + "0123456789ABCDEFGHIJabcdefghij"
    assert checked(f"{body}1O7Bbl".encode()) == f"{body}1O7Bbl"


def test_one_wrong_character_is_always_noticed() -> None:
    secret = made("person")
    for place in range(7, len(secret)):
        other = "x" if secret[place] != "x" else "y"
        assert checked(f"{secret[:place]}{other}{secret[place + 1 :]}".encode()) is None


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"mlfpat_",
        b"mlfpat_x",
        b"ghp_" + b"a" * 36,
        b"mlfpat_" + b"a" * 10_000,
        b"mlfpat_" + b"\xff" * 36,
    ],
)
def test_what_is_no_whole_token_is_none(token: bytes) -> None:
    assert checked(token) is None
    assert checked(made("person").encode() + b"\n") is None
    assert checked(made("person").encode().replace(b"mlfpat_", b"MLFPAT_")) is None


def test_a_token_is_found_where_a_service_account_s_user_name_has_cut_it() -> None:
    secret = made("service").encode()
    assert in_password(secret) == secret
    assert in_password(b"ci:" + secret) == secret  # of service:ci, by RFC 7617
    for password in (b"", b"ci:", b"a password", secret + b":", b"x" + secret):
        assert in_password(password) is None


# ---- What they open ----


def test_a_token_opens_what_its_owner_may(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make(name="nightly training", read_only=True)
        identity = await replica.who(secret)
        credential = Credential(made_.id, "nightly training", made_.expires, True)
        assert identity == Identity("bob", Role.EDITOR, "token", PASSWORD_ISSUER, "bob", credential)
        assert made_.expires == pytest.approx(time.time() + DAY, abs=5)
        assert (made_.user, made_.role, made_.state, made_.last_used) == ("bob", Role.EDITOR, "active", None)
        assert replica.results == ["token success"]

    run(tmp_path, test)


def test_the_secret_is_kept_nowhere(two: Callable[..., list[Settings]]) -> None:
    async def test(replica: Replica) -> None:
        secret, _ = await replica.make()
        await replica.who(secret)
        found = await replica.store.run(
            lambda db: db.execute(sa.text("SELECT * FROM mlflow_proxy_tokens")).all()
        )
        assert secret[7:] not in str(found)
        assert digest(secret) in str(found)

    with replicas(two()[0]) as (replica,):
        asyncio.run(test(replica))


def test_a_token_in_use_asks_the_database_no_more(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, _ = await replica.make()
        verified = await replica.ask(secret)
        asked = replica.store.queries
        for _ in range(1000):
            assert await replica.ask(secret) is verified
        assert replica.store.queries == asked
        assert isinstance(verified, Verified)
        assert verified.until > time.time() + 2 * POLL_SECONDS

    run(tmp_path, test)


def test_requests_that_come_together_ask_once(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, _ = await replica.make()
        asked = replica.store.queries
        outcomes = await asyncio.gather(*(replica.ask(secret) for _ in range(100)))
        assert len({id(outcome) for outcome in outcomes}) == 1
        assert replica.store.queries - asked == 2  # to look, and to note the first use

    run(tmp_path, test)


def test_a_client_that_leaves_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, _ = await replica.make()
        first = asyncio.create_task(replica.ask(secret))
        second = asyncio.create_task(replica.ask(secret))
        await asyncio.sleep(0)
        first.cancel()
        assert isinstance(await second, Verified)

    run(tmp_path, test)


def test_a_token_does_no_more_than_its_owner_may_by_now(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make(ROOT, role=Role.EDITOR)
        verified = await replica.ask(secret)
        assert isinstance(verified, Verified)
        for now, expected in ((Role.VIEWER, Role.VIEWER), (Role.ADMIN, Role.EDITOR)):
            replica.roles["root"] = now
            await replica.tokens.look()
            assert verified.identity is not None
            assert verified.identity.role == expected
        assert replica.ended == [made_.id]  # an upload goes on with an editor's role, and not with a viewer's
        whole, _ = await replica.make(ROOT, name="whole")
        assert (await replica.who(whole)).role == Role.ADMIN
        replica.roles["root"] = Role.EDITOR
        await replica.tokens.look()
        assert (await replica.who(whole)).role == Role.EDITOR
        assert replica.ended == [made_.id]

    run(tmp_path, test)


# ---- How they end ----


def test_an_expired_token_is_refused_with_the_day(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make(lifetime=1.0)
        verified = await replica.ask(secret)
        assert isinstance(verified, Verified)
        assert verified.until == made_.expires
        await asyncio.sleep(1.1)
        await replica.tokens.look()
        assert verified.identity is None
        assert replica.ended == []  # an upload that began in time may end
        message = await replica.why(secret)
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(made_.expires))
        assert message.startswith(f"The token 'job' of bob has expired on {day}. ")
        assert "https://mlflow.example.com/-/account" in message
        assert "`mlflow-proxy login https://mlflow.example.com`" in message
        assert replica.results[-1] == "token expired"
        assert (await replica.listed())[made_.id].state == "expired"

    run(tmp_path, test)


def test_a_revoked_token_is_refused_at_once_with_who_did_it(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make()
        verified = await replica.ask(secret)
        await replica.tokens.revoke(ROOT, made_.id, exchange_from())
        assert isinstance(verified, Verified)
        assert verified.identity is None
        assert replica.ended == [made_.id]
        message = await replica.why(secret)
        assert re.match(r"The token 'job' of bob was revoked on \S+ \S+ UTC by root\. Make another", message)
        assert replica.results[-1] == "token revoked"
        listed = (await replica.listed())[made_.id]
        assert (listed.state, listed.revoked_by) == ("revoked", "root")
        await replica.tokens.revoke(ROOT, made_.id, exchange_from())  # what was asked for is so
        assert replica.events.named("token_revoked") == [
            {"token": made_.id, "token_name": "job", "user": "bob"}
        ]

    run(tmp_path, test)


def test_a_token_revoked_elsewhere_is_refused_in_seconds(two: Callable[..., list[Settings]]) -> None:
    async def test(here: Replica, there: Replica) -> float:
        secret, made_ = await here.make()
        verified = await there.ask(secret)
        assert isinstance(verified, Verified)
        async with watched(here, there):
            await asyncio.sleep(0.5)
            await here.tokens.revoke(BOB, made_.id, exchange_from())
            started = time.monotonic()
            while verified.identity is not None:
                assert time.monotonic() < started + 10
                await asyncio.sleep(0.01)
            took = time.monotonic() - started
        assert there.ended == [made_.id]
        assert "was revoked" in await there.why(secret)
        return took

    with replicas(*two()) as (here, there):
        assert asyncio.run(test(here, there)) < STATED_SECONDS


def test_a_query_from_before_the_revocation_brings_nothing_back(two: Callable[..., list[Settings]]) -> None:
    async def test(replica: Replica, _: Replica) -> None:
        for _ in range(50):
            secret, made_ = await replica.make(name=f"job {time.time()}")
            asking = asyncio.gather(*(replica.ask(secret) for _ in range(3)))
            await replica.tokens.revoke(BOB, made_.id, exchange_from())
            for outcome in await asking:
                assert isinstance(outcome, Refusal) or outcome.identity is None
            assert isinstance(await replica.ask(secret), Refusal)

    with replicas(*two()) as (replica, other):
        asyncio.run(test(replica, other))


def test_a_refused_token_is_not_looked_up_with_each_request(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make()
        await replica.tokens.revoke(BOB, made_.id, exchange_from())
        first = await replica.why(secret)
        asked = replica.store.queries
        for _ in range(1000):
            assert await replica.why(secret) == first
        assert replica.store.queries == asked
        assert replica.results.count("token revoked") == 1001

    run(tmp_path, test)


def test_a_token_ends_with_its_owner(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make()
        verified = await replica.ask(secret)
        del replica.roles["bob"]
        await replica.tokens.look()
        assert isinstance(verified, Verified)
        assert verified.identity is None
        assert replica.ended == [made_.id]
        expected = "The token 'job' of bob counts no more: its owner is not here any more."
        assert (await replica.why(secret)).startswith(expected)
        assert {token.id: token.state for token in await replica.tokens.list_all()} == {
            made_.id: "owner gone"
        }

    run(tmp_path, test)


def test_a_token_of_a_password_ends_with_passwords(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, _ = await replica.make()
        with replicas(settings(tmp_path, basic_auth=False)) as (without,):
            assert "those are switched off" in await without.why(secret)

    run(tmp_path, test)


def test_a_token_that_is_gone_from_the_database_counts_no_more(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make()
        await replica.ask(secret)
        await write(replica, "DELETE FROM mlflow_proxy_tokens")
        await replica.tokens.look()
        assert replica.ended == [made_.id]
        assert "is not known here" in await replica.why(secret)

    run(tmp_path, test)


def test_tokens_in_use_outlive_the_database_for_the_grace_alone(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        used, _ = await replica.make(name="used")
        unused, _ = await replica.make(name="unused")
        expected = await replica.who(used)
        file = tmp_path / "proxy.db"
        assert file.exists()
        async with watched(replica):
            # What SQLite meets on a disk that is gone.
            for path in tmp_path.glob("proxy.db*"):
                path.rename(path.with_name(f"away-{path.name}"))
            file.mkdir()
            replica.store._engine.dispose()
            began = time.time()
            while time.time() < began + 3.5:
                assert await replica.who(used) == expected
                outcome = await replica.ask(unused)
                assert isinstance(outcome, Refusal)
                assert (outcome.reason, outcome.retry_after) == ("no_database", 5)
                await asyncio.sleep(0.2)
            await asyncio.sleep(3.0)
            outcome = await replica.ask(used)
            assert isinstance(outcome, Refusal)
            assert outcome.reason == "no_database"
            assert replica.results[-1] == "token unavailable"
            await refused(replica.make(name="x"), 503)
            file.rmdir()
            for path in tmp_path.glob("away-*"):
                path.rename(path.with_name(path.name.removeprefix("away-")))
            await asyncio.sleep(STATED_SECONDS)
            assert await replica.who(used) == expected
            assert isinstance(await replica.ask(unused), Verified)

    run(tmp_path, test, session_grace=4.0)


def test_a_user_who_goes_while_the_database_is_away_takes_the_tokens_along(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make()
        await replica.who(secret)
        replica.store.close()
        replica.store._paused_until = time.monotonic() + 60  # as after a failure
        del replica.roles["bob"]
        with contextlib.suppress(Exception):
            await replica.tokens.look()
        assert replica.ended == [made_.id]

    run(tmp_path, test)


def test_what_is_unchanged_is_not_read_whole_again(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secrets = [await replica.make(name=str(number)) for number in range(5)]
        for secret, _ in secrets:
            await replica.who(secret)
        asked = replica.store.queries
        await replica.tokens.look()
        assert replica.store.queries == asked + 1
        now, (secret, made_) = time.time(), secrets[0]
        await write(
            replica, "UPDATE mlflow_proxy_tokens SET revoked = :now WHERE id = :id", now=now, id=made_.id
        )
        asked = replica.store.queries
        await replica.tokens.look()
        assert replica.store.queries == asked + 2
        assert replica.ended == [made_.id]
        assert "was revoked" in await replica.why(secret)
        await replica.who(secrets[1][0])

    run(tmp_path, test)


def test_a_look_lets_tokens_be_believed_for_longer(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, _ = await replica.make()
        verified = await replica.ask(secret)
        assert isinstance(verified, Verified)
        before = verified.until
        await asyncio.sleep(0.05)
        await replica.tokens.look()
        assert verified.until > before

    run(tmp_path, test)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE mlflow_proxy_tokens SET expires = 1",
        "UPDATE mlflow_proxy_tokens SET revoked = 1",
        "UPDATE mlflow_proxy_people SET suspended = 1",
        "UPDATE mlflow_proxy_people SET vouched = vouched + 1, groups = '[]'",
        "DELETE FROM mlflow_proxy_people",
    ],
)
def test_whatever_ends_a_token_elsewhere_is_seen(tmp_path: Path, change: str) -> None:
    async def test(replica: Replica) -> None:
        await replica.vouch(replace(ADA, groups=("admins",)), time.time())
        secret, _ = await replica.make(ADA_SIGNED_IN)
        verified = await replica.ask(secret)
        await replica.tokens.look()
        assert isinstance(verified, Verified)
        assert verified.identity is not None
        await write(replica, change)
        await replica.tokens.look()
        assert verified.identity is None

    run(tmp_path, test)


def test_a_service_account_removed_elsewhere_is_seen(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        exchange = exchange_from()
        await replica.tokens.create_service_account(ROOT, "ci", Role.EDITOR, "", exchange)
        secret, _ = await replica.make(ROOT, service_account="ci", role=Role.EDITOR)
        verified = await replica.ask(secret)
        await write(replica, "UPDATE mlflow_proxy_service_accounts SET removed = 1")
        await replica.tokens.look()
        assert isinstance(verified, Verified)
        assert verified.identity is None

    run(tmp_path, test)


# ---- Making them ----


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"name": ""}, 400, "has a name"),
        ({"name": "   "}, 400, "has a name"),
        ({"name": "x" * 101}, 400, "at most 100 characters"),
        ({"name": "two\nlines"}, 400, "one line"),
        ({"name": "nul\0"}, 400, "one line"),
        ({"lifetime": 0.0}, 400, "in the future"),
        ({"lifetime": -5.0}, 400, "in the future"),
        ({"lifetime": float("nan")}, 400, "in the future"),
        ({"lifetime": float("inf")}, 400, "in the future"),
        ({"lifetime": 30 * DAY + 1}, 400, "at most 30 days here (PROXY_TOKEN_MAX_LIFETIME)"),
        ({"role": Role.NONE}, 400, "opens nothing"),
        ({"role": Role.ADMIN}, 403, "bob has the role editor"),
    ],
)
def test_a_token_that_can_not_be_is_not_made(
    tmp_path: Path, asked: dict[str, Any], status: int, said: str
) -> None:
    async def test(replica: Replica) -> None:
        assert said in await refused(replica.make(**asked), status)
        assert await replica.listed() == {}
        assert replica.events.seen == []

    run(tmp_path, test, token_max_lifetime=30 * DAY)


def test_a_token_may_be_good_for_as_long_as_the_setting_says(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        _, made_ = await replica.make(lifetime=30 * DAY, name=" ünï\u200acode ".replace("\u200a", " "))
        assert made_.name == "ünï code"
        assert (await replica.listed())[made_.id] == made_

    run(tmp_path, test, token_max_lifetime=30 * DAY)


def test_names_are_one_owners_own_and_free_again_after_the_end(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        _, first = await replica.make()
        assert "already" in await refused(replica.make(), 409)
        await replica.make(VERA)
        await replica.tokens.revoke(BOB, first.id, exchange_from())
        await replica.make()

    run(tmp_path, test)


def test_two_tokens_of_a_name_are_not_made_at_once(two: Callable[..., list[Settings]]) -> None:
    async def test(here: Replica, there: Replica) -> None:
        for name in map(str, range(20)):
            asked = [replica.make(name=name) for replica in (here, there) * 4]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(not isinstance(outcome, Refused) for outcome in outcomes) == 1
        assert len(await here.listed()) == 20

    with replicas(*two()) as (here, there):
        asyncio.run(test(here, there))


def test_an_owner_has_a_hundred_tokens_and_no_more(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        for number in range(100):
            _, last = await replica.make(name=str(number))
        assert "revoke one first" in await refused(replica.make(name="x"), 409)
        again = replica.tokens.renew(BOB, last.id, overlap=5.0, exchange=exchange_from())
        assert "revoke one first" in await refused(again, 409)
        await replica.make(VERA)
        await replica.tokens.revoke(BOB, last.id, exchange_from())
        await replica.make(name="x")

    run(tmp_path, test)


def test_of_tokens_that_ended_the_last_hundred_are_kept(two: Callable[..., list[Settings]]) -> None:
    """Whoever makes and revokes in a loop fills no database."""

    async def test(replica: Replica) -> None:
        _, neighbours = await replica.make(VERA)
        await replica.tokens.revoke(VERA, neighbours.id, exchange_from())
        _, kept = await replica.make(name="kept")
        ended = []
        for _ in range(MOST_ENDED + 5):
            _, one = await replica.make(name="loop")
            await replica.tokens.revoke(BOB, one.id, exchange_from())
            ended.append(one.id)
        _, last = await replica.make(name="last")
        found = await replica.store.run(lambda db: rows.shown(db, 0.0))
        assert {row.id for row in found} == {neighbours.id, kept.id, last.id, *ended[-MOST_ENDED:]}

    with replicas(two()[0]) as (replica,):
        asyncio.run(test(replica))


MAIN = "https://id.example.com/"
OWNERS = {
    "session": (Identity("ada", Role.ADMIN, "session", MAIN, "1"), True),
    "a session with a password": (Identity("bob", Role.ADMIN, "session", PASSWORD_ISSUER, "bob"), True),
    "basic": (BOB, True),
    "a person's access token": (Identity("ada", Role.ADMIN, "jwt", MAIN, "1"), True),
    "a client's access token": (Identity("client:ci", Role.ADMIN, "jwt", MAIN, "ci"), False),
    "another issuer's": (Identity("ci:x", Role.ADMIN, "jwt", "https://ci.example.com", "x"), False),
    "an issuer that looks alike": (Identity("x", Role.ADMIN, "jwt", MAIN[:-1], "1"), False),
    "a token": (Identity("bob", Role.ADMIN, "token", PASSWORD_ISSUER, "bob"), False),
    "a service account": (Identity("service:ci", Role.ADMIN, "token", SERVICE_ISSUER, "ci"), False),
    "a job": (Identity("mlflow-jobs", Role.EDITOR, "job"), False),
    "the scraper": (Identity("metrics", Role.NONE, "metrics"), False),
    "something new": (Identity("x", Role.ADMIN, "something", PASSWORD_ISSUER, "x"), False),
}


@pytest.mark.parametrize(("identity", "may"), OWNERS.values(), ids=OWNERS)
def test_tokens_are_managed_by_people_who_have_signed_in(
    identity: Identity, may: bool, tmp_path: Path
) -> None:
    assert (may_manage(identity, MAIN) is None) == may
    assert identity.method != "jwt" or may_manage(identity) is not None
    if may:
        return

    async def test(replica: Replica) -> None:
        made_ = (await replica.make())[1]
        exchange = exchange_from()
        await refused(replica.make(identity), 403)
        await refused(replica.tokens.renew(identity, made_.id, overlap=None, exchange=exchange), 403)
        await refused(replica.tokens.revoke(identity, made_.id, exchange), 403)
        await refused(replica.tokens.list_for(identity), 403)
        account = replica.tokens.create_service_account
        await refused(account(identity, "ci", Role.VIEWER, "", exchange), 403)
        await refused(replica.tokens.remove_service_account(identity, "ci", exchange), 403)

    run(tmp_path, test)


def test_a_token_may_revoke_itself_and_no_other(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make()
        _, other = await replica.make(name="other")
        itself = await replica.who(secret)
        await refused(replica.tokens.revoke(itself, other.id, exchange_from()), 403)
        await replica.tokens.revoke(itself, made_.id, exchange_from())
        assert "was revoked" in await replica.why(secret)
        assert "by bob (with the token itself)" in await replica.why(secret)

    run(tmp_path, test)


def test_anothers_token_is_as_one_that_there_is_not(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        _, made_ = await replica.make()
        for identity in (VERA, replace(BOB, issuer=MAIN, method="session")):
            for token_id in (made_.id, "f" * 16, "", "'"):
                revoke = replica.tokens.revoke(identity, token_id, exchange_from())
                renew = replica.tokens.renew(identity, token_id, overlap=None, exchange=exchange_from())
                for asked in (revoke, renew):
                    assert await refused(asked, 404) == f"There is no token {token_id!r}."
        renew = replica.tokens.renew(ROOT, made_.id, overlap=None, exchange=exchange_from())
        await refused(renew, 404)  # an administrator takes tokens away, and has nobody's secret
        await replica.tokens.revoke(ROOT, made_.id, exchange_from())

    run(tmp_path, test)


# ---- Renewing them ----


def test_a_renewed_token_goes_on_for_the_overlap(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        old_secret, old = await replica.make(role=Role.VIEWER, read_only=True)
        verified = await replica.ask(old_secret)
        secret, new = await replica.tokens.renew(BOB, old.id, overlap=1.0, exchange=exchange_from())
        assert (new.name, new.role, new.read_only, new.renews) == ("job", Role.VIEWER, True, old.id)
        assert new.expires == pytest.approx(time.time() + DAY, abs=5)
        assert (await replica.who(secret)).credential == Credential(new.id, "job", new.expires, True)
        assert isinstance(verified, Verified)
        assert verified.until < time.time() + 1.1
        await replica.who(old_secret)
        await asyncio.sleep(1.1)
        assert "was renewed on" in (said := await replica.why(old_secret))
        assert "use the new one" in said
        assert replica.events.named("token_renewed") == [
            {"token": new.id, "token_name": "job", "user": "bob"}
        ]

    run(tmp_path, test)


def test_an_overlap_lengthens_nothing(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        _, old = await replica.make(lifetime=60.0)
        await replica.tokens.renew(BOB, old.id, overlap=None, exchange=exchange_from())
        assert (await replica.listed())[old.id].expires == old.expires
        _, old = await replica.make(name="other", lifetime=2 * DAY)
        await replica.tokens.renew(BOB, old.id, overlap=None, exchange=exchange_from())
        expected = pytest.approx(time.time() + DAY, abs=5)  # PROXY_TOKEN_OVERLAP
        assert (await replica.listed())[old.id].expires == expected

    run(tmp_path, test)


def test_a_renewal_is_no_way_round_the_longest_lifetime(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        _, old = await replica.make(lifetime=20 * DAY)
        with replicas(settings(tmp_path, token_max_lifetime=DAY)) as (stricter,):
            _, new = await stricter.tokens.renew(BOB, old.id, overlap=0.0, exchange=exchange_from())
            assert new.expires == pytest.approx(time.time() + DAY, abs=5)

    run(tmp_path, test)


def test_a_token_is_renewed_once(two: Callable[..., list[Settings]]) -> None:
    async def test(here: Replica, there: Replica) -> None:
        _, old = await here.make()
        asked = [
            replica.tokens.renew(BOB, old.id, overlap=9.0, exchange=exchange_from())
            for replica in (here, there) * 5
        ]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        assert len(failed) == 9
        assert {error.status for error in failed} == {409}
        assert "renew the one that took its place" in failed[0].message
        assert len(await here.listed()) == 2

    with replicas(*two()) as (here, there):
        asyncio.run(test(here, there))


@pytest.mark.parametrize("overlap", [-1.0, float("nan"), 91 * DAY, float("inf")])
def test_an_overlap_that_can_not_be_is_refused(tmp_path: Path, overlap: float) -> None:
    async def test(replica: Replica) -> None:
        _, old = await replica.make()
        renew = replica.tokens.renew(BOB, old.id, overlap=overlap, exchange=exchange_from())
        assert "0 seconds to 90 days" in await refused(renew, 400)

    run(tmp_path, test)


def test_what_is_over_is_not_renewed(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        _, revoked = await replica.make()
        await replica.tokens.revoke(BOB, revoked.id, exchange_from())
        _, expired = await replica.make(name="short", lifetime=1.0)
        await asyncio.sleep(1.1)
        for token, said in ((revoked, "was revoked"), (expired, "has expired")):
            renew = replica.tokens.renew(BOB, token.id, overlap=None, exchange=exchange_from())
            assert said in await refused(renew, 409)

    run(tmp_path, test)


def test_a_renewal_without_an_overlap_ends_the_old_one_at_once(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, old = await replica.make()
        verified = await replica.ask(secret)
        await replica.tokens.renew(BOB, old.id, overlap=0.0, exchange=exchange_from())
        assert isinstance(verified, Verified)
        assert verified.identity is None
        assert "use the new one" in await replica.why(secret)

    run(tmp_path, test)


# ---- What is known of their use ----


def test_lists_say_when_and_from_where_a_token_was_last_used(two: Callable[..., list[Settings]]) -> None:
    async def test(here: Replica, there: Replica) -> None:
        secret, made_ = await here.make()
        _, unused = await here.make(name="unused")
        await here.ask(secret, "192.0.2.7")
        assert (await there.listed())[made_.id].last_used_from == "192.0.2.7"  # the first use at once
        await asyncio.sleep(0.05)
        await here.ask(secret, "192.0.2.8")
        assert (await here.listed())[made_.id].last_used_from == "192.0.2.8"
        await here.tokens.flush()
        listed = await there.listed()
        assert listed[made_.id].last_used_from == "192.0.2.8"
        assert listed[made_.id].last_used == pytest.approx(time.time(), abs=5)
        assert listed[unused.id].last_used is None
        await there.store.run(lambda db: rows.used(db, [(made_.id, time.time() - 60, "192.0.2.9")]))
        assert (await there.listed())[made_.id].last_used_from == "192.0.2.8"

    with replicas(*two()) as (here, there):
        asyncio.run(test(here, there))


def test_the_last_use_is_written_when_the_service_ends(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        secret, made_ = await replica.make()
        await replica.ask(secret, "192.0.2.7")
        async with watched(replica):
            await asyncio.sleep(0.05)
            await replica.ask(secret, "192.0.2.8")
        row = await replica.store.run(lambda db: rows.read(db, made_.id))
        assert row is not None
        assert row.last_used_from == "192.0.2.8"

    run(tmp_path, test)


def test_the_first_use_is_an_event_once_over_all_replicas(two: Callable[..., list[Settings]]) -> None:
    async def test(*all_: Replica) -> None:
        secret, made_ = await all_[0].make()
        await asyncio.gather(*(replica.ask(secret) for replica in all_ for _ in range(5)))
        found = [event for replica in all_ for event in replica.events.named("token_first_used")]
        assert found == [{"token": made_.id, "token_name": "job", "user": "bob"}]
        # One that read the row before that writes nothing.
        store = all_[1].store
        assert not await store.run(lambda db: rows.first_used(db, made_.id, time.time(), "192.0.2.9"))

    with replicas(*two()) as all_:
        asyncio.run(test(*all_))


def test_those_that_count_are_listed_first_and_old_ones_not_at_all(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        made_ = [(await replica.make(name=name))[1].id for name in ("a", "b", "c", "d")]
        for token_id in made_[1:3]:
            await replica.tokens.revoke(BOB, token_id, exchange_from())
        await write(
            replica,
            "UPDATE mlflow_proxy_tokens SET revoked = :then WHERE id = :id",
            then=time.time() - 31 * DAY,
            id=made_[1],
        )
        assert list(await replica.listed()) == [made_[3], made_[0], made_[2]]
        assert [token.id for token in await replica.tokens.list_all()] == [made_[3], made_[0], made_[2]]

    run(tmp_path, test)


def test_what_ended_long_ago_is_forgotten(two: Callable[..., list[Settings]]) -> None:
    async def test(replica: Replica) -> None:
        _, kept = await replica.make(name="kept")
        _, expired = await replica.make(name="expired")
        _, revoked = await replica.make(name="revoked")
        then = time.time() - 91 * DAY
        await write(
            replica, "UPDATE mlflow_proxy_tokens SET expires = :t WHERE id = :id", t=then, id=expired.id
        )
        await write(
            replica, "UPDATE mlflow_proxy_tokens SET revoked = :t WHERE id = :id", t=then, id=revoked.id
        )
        await replica.vouch(ADA, then)
        await replica.vouch(replace(ADA, subject="2"), time.time())
        await replica.store.run(lambda db: rows.purge(db, time.time() - 90 * DAY))
        await replica.store.run(lambda db: people.purge(db, time.time() - 90 * DAY))
        left = await replica.store.run(lambda db: rows.read_many(db, [kept.id, expired.id, revoked.id]))
        assert list(left) == [kept.id]
        assert await replica.store.run(lambda db: people.read(db, ADA.issuer, ADA.subject)) is None
        assert await replica.store.run(lambda db: people.read(db, ADA.issuer, "2")) is not None

    with replicas(two()[0]) as (replica,):
        asyncio.run(test(replica))


def test_a_person_with_a_token_is_not_forgotten(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        await replica.vouch(ADA, time.time() - 1000 * DAY)
        await replica.make(ADA_SIGNED_IN)
        await replica.store.run(lambda db: people.purge(db, time.time()))
        assert await replica.store.run(lambda db: people.read(db, ADA.issuer, ADA.subject)) is not None

    run(tmp_path, test)


# ---- Service accounts ----


def test_a_service_accounts_token_is_its_own_user(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        exchange = exchange_from()
        account = await replica.tokens.create_service_account(ROOT, "ci", Role.EDITOR, " the CI ", exchange)
        assert (account.user, account.description, account.created_by) == ("service:ci", "the CI", "root")
        secret, made_ = await replica.make(ROOT, role=Role.EDITOR, service_account="ci")
        assert secret.startswith("mlfsat_")
        assert made_.user == "service:ci"
        assert made_.created_by == "root"
        credential = Credential(made_.id, "job", made_.expires, False)
        assert await replica.who(secret) == Identity(
            "service:ci", Role.EDITOR, "token", SERVICE_ISSUER, "ci", credential
        )
        del replica.roles["root"]  # whoever made it may go
        await replica.tokens.look()
        await replica.who(secret)
        assert await replica.listed(ROOT) == {}
        assert [found.name for found in await replica.tokens.list_service_accounts()] == ["ci"]
        target = {"service_account": "ci", "user": "service:ci"}
        assert replica.events.named("service_account_created") == [target]

    run(tmp_path, test)


def test_service_accounts_are_an_administrators(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        exchange = exchange_from()
        make = replica.tokens.create_service_account
        assert "administrator" in await refused(make(BOB, "ci", Role.VIEWER, "", exchange), 403)
        await make(ROOT, "ci", Role.EDITOR, "", exchange)
        await refused(replica.make(BOB, service_account="ci"), 403)
        _, made_ = await replica.make(ROOT, role=Role.EDITOR, service_account="ci")
        await refused(replica.tokens.renew(BOB, made_.id, overlap=None, exchange=exchange), 404)
        await refused(replica.tokens.revoke(BOB, made_.id, exchange), 404)
        await refused(replica.tokens.remove_service_account(BOB, "ci", exchange), 403)
        await refused(replica.make(ROOT, role=Role.ADMIN, service_account="ci", name="x"), 403)
        await refused(replica.make(ROOT, role=Role.EDITOR, service_account="no", name="x"), 404)
        renewed, _ = await replica.tokens.renew(ROOT, made_.id, overlap=0.0, exchange=exchange)
        assert renewed.startswith("mlfsat_")

    run(tmp_path, test)


def test_a_removed_service_accounts_tokens_end_with_it(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        exchange = exchange_from()
        await replica.tokens.create_service_account(ROOT, "ci", Role.EDITOR, "", exchange)
        secret, made_ = await replica.make(ROOT, role=Role.EDITOR, service_account="ci")
        verified = await replica.ask(secret)
        await replica.tokens.remove_service_account(ROOT, "ci", exchange)
        assert isinstance(verified, Verified)
        assert verified.identity is None
        assert replica.ended == [made_.id]
        said = await replica.why(secret)
        assert "was revoked" in said
        assert "An administrator makes another one" in said
        await refused(replica.tokens.remove_service_account(ROOT, "ci", exchange), 404)
        await refused(replica.make(ROOT, role=Role.EDITOR, service_account="ci", name="x"), 404)
        # Runs are named after it.
        again = replica.tokens.create_service_account(ROOT, "ci", Role.EDITOR, "", exchange)
        assert "There was a service account 'ci' until" in await refused(again, 409)
        assert await replica.tokens.list_service_accounts() == []

    run(tmp_path, test)


def test_a_token_made_while_its_account_is_removed_counts_for_nothing(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        exchange = exchange_from()
        await replica.tokens.create_service_account(ROOT, "ci", Role.EDITOR, "", exchange)
        secret, _ = await replica.make(ROOT, role=Role.EDITOR, service_account="ci")
        # Made after the account's tokens were looked for, and before the account was seen to be removed.
        await write(replica, "UPDATE mlflow_proxy_service_accounts SET removed = :now", now=time.time())
        assert "counts no more: its owner was removed" in await replica.why(secret)

    run(tmp_path, test)


@pytest.mark.parametrize("name", ["", "-x", "x-", "X", "a b", "a:b", "é", "x" * 65, "a/b", "a\n"])
def test_a_service_accounts_name_is_plain(tmp_path: Path, name: str) -> None:
    async def test(replica: Replica) -> None:
        asked = replica.tokens.create_service_account(ROOT, name, Role.VIEWER, "", exchange_from())
        await refused(asked, 400)

    run(tmp_path, test)


def test_a_service_account_is_plain_in_the_rest_too(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        make, exchange = replica.tokens.create_service_account, exchange_from()
        await refused(make(ROOT, "ci", Role.NONE, "", exchange), 400)
        await refused(make(ROOT, "ci", Role.VIEWER, "x" * 257, exchange), 400)
        await refused(make(ROOT, "ci", Role.VIEWER, "a\nb", exchange), 400)
        await make(ROOT, "x" * 64, Role.VIEWER, "", exchange)
        await make(ROOT, "a.b-c_9", Role.VIEWER, "", exchange)
        assert "already" in await refused(make(ROOT, "a.b-c_9", Role.VIEWER, "", exchange), 409)

    run(tmp_path, test)


# ---- People of the identity provider ----


def with_sessions(folder: Path, test: Test, **values: Any) -> None:
    """That test with a replica's tokens, its sessions and its provider."""
    given = settings(folder, **values)
    provider = ObedientProvider()
    with replicas(given) as (replica,):
        sessions = Sessions(
            given,
            replica.store,
            provider,
            lambda claims: admission.role(claims, given),
            lambda method, result: None,
            cookie_secrets(given),
            replica.events,
        )
        asyncio.run(test(replica, sessions, provider))


async def signed_in(sessions: Sessions, claims: Any = ADA) -> tuple[bytes, Identity, Any]:
    """Somebody who has just signed in: the Cookie header, who that is, the exchange of a request with it."""
    exchange = exchange_from()
    cookie = (await sessions.create(claims, TOKENS, exchange)).partition(b";")[0]
    identity = await sessions.verify(cookie, exchange)
    assert isinstance(identity, Identity)
    return cookie, identity, exchange


OFFLINE = {"oauth_scopes": "openid email profile offline_access", "session_refresh": 0.2}


def test_who_has_signed_in_can_have_tokens(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, _: ObedientProvider) -> None:
        _, identity, exchange = await signed_in(sessions)
        secret, made_ = await replica.make(identity, role=Role.EDITOR, exchange=exchange)
        credential = Credential(made_.id, "job", made_.expires, False)
        expected = Identity(ADA.user, Role.EDITOR, "token", ADA.issuer, ADA.subject, credential)
        assert await replica.who(secret) == expected

    with_sessions(tmp_path, test)


def test_a_session_from_before_the_table_of_people_makes_tokens_too(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, _: ObedientProvider) -> None:
        _, identity, exchange = await signed_in(sessions)
        await write(replica, "DELETE FROM mlflow_proxy_people")
        secret, _ = await replica.make(identity, exchange=exchange)
        assert (await replica.who(secret)).role == Role.ADMIN

    with_sessions(tmp_path, test)


def test_another_person_s_session_makes_nobody_known(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, _: ObedientProvider) -> None:
        _, _, exchange = await signed_in(sessions)
        other = replace(ADA_SIGNED_IN, subject="other", user="other")
        await refused(replica.make(other, exchange=exchange), 403)

    with_sessions(tmp_path, test)


def test_a_person_of_whom_nothing_is_known_is_sent_to_sign_in(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        jwt = replace(ADA_SIGNED_IN, method="jwt")
        said = await refused(replica.make(jwt), 403)
        assert "sign in at https://mlflow.example.com/oauth2/sign_in" in said
        await People(replica.store, 3600).vouch(ADA, time.time() - 5)
        assert await People(replica.store, 3600).claims(ADA.issuer, ADA.subject) == replace(ADA, raw={})
        assert await People(replica.store, 4).claims(ADA.issuer, ADA.subject) is None, "said too long ago"
        assert await People(replica.store, 3600).claims(ADA.issuer, "other") is None
        secret, _ = await replica.make(jwt)
        assert (await replica.who(secret)).user == ADA.user

    run(tmp_path, test)


def test_a_person_of_another_account_with_the_same_name_is_another(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        bob = replace(ADA, user="bob", subject="7", groups=("viewers",))
        await replica.vouch(bob, time.time())
        person_ = Identity("bob", Role.VIEWER, "session", bob.issuer, "7")
        _, theirs = await replica.make()
        secret, mine = await replica.make(person_)
        assert list(await replica.listed()) == [theirs.id]
        assert list(await replica.listed(person_)) == [mine.id]
        del replica.roles["bob"]
        assert (await replica.who(secret)).role == Role.VIEWER

    run(tmp_path, test)


def test_a_token_follows_its_owners_groups(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, provider: ObedientProvider) -> None:
        cookie, identity, exchange = await signed_in(sessions)
        secret, _ = await replica.make(identity, exchange=exchange)
        verified = await replica.ask(secret)
        assert isinstance(verified, Verified)
        provider.claims = replace(ADA, groups=("viewers",), email="ada@new.example.com", user="ada2")
        await asyncio.sleep(0.25)
        await sessions.verify(cookie, exchange_from())
        await replica.tokens.look()
        assert verified.identity is not None
        assert (verified.identity.role, verified.identity.user) == (Role.VIEWER, "ada2")

    with_sessions(tmp_path, test, session_refresh=0.2)


@pytest.mark.parametrize("groups", [(), ("strangers",)])
def test_a_person_without_a_role_takes_the_tokens_along(tmp_path: Path, groups: tuple[str, ...]) -> None:
    async def test(replica: Replica, sessions: Sessions, provider: ObedientProvider) -> None:
        cookie, identity, exchange = await signed_in(sessions)
        secret, made_ = await replica.make(identity, exchange=exchange)
        await replica.ask(secret)
        provider.claims = replace(ADA, groups=groups)
        await asyncio.sleep(0.25)
        assert isinstance(await sessions.verify(cookie, exchange_from()), Refusal)
        await replica.tokens.look()
        assert replica.ended == [made_.id]
        assert "not among those who get in here and have a role" in await replica.why(secret)

    with_sessions(tmp_path, test, session_refresh=0.2)


def test_whom_the_settings_let_in_no_more_has_no_tokens(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        await replica.vouch(ADA, time.time())
        secret, _ = await replica.make(ADA_SIGNED_IN)
        for values in (
            {"allowed_emails": ("eve@example.com",)},
            {"allowed_groups": ("others",)},
            {"admin_groups": (), "viewer_groups": ()},
            {"oauth_issuer_url": "https://other.example.com"},
            {"oauth_issuer_url": None, "oauth_client_id": None},
        ):
            with replicas(settings(tmp_path, **values)) as (stricter,):
                said = await stricter.why(secret)
                assert "counts no more: its owner" in said, values
        assert (await replica.who(secret)).role == Role.ADMIN

    run(tmp_path, test)


def test_a_refused_refresh_suspends_until_the_next_sign_in(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, provider: ObedientProvider) -> None:
        cookie, identity, exchange = await signed_in(sessions)
        secret, made_ = await replica.make(identity, exchange=exchange)
        await replica.ask(secret)
        provider.mode = "refuses"
        await asyncio.sleep(0.25)
        assert isinstance(await sessions.verify(cookie, exchange_from()), Refusal)
        await replica.tokens.look()
        assert replica.ended == [made_.id]
        said = await replica.why(secret)
        assert "its owner has lost the access that the identity provider gave. Sign in again" in said
        assert "https://mlflow.example.com/oauth2/sign_in" in said
        assert [token.state for token in await replica.tokens.list_all()] == ["suspended"]
        await signed_in(sessions)
        replica.tokens._in_use._refused.clear()
        assert (await replica.who(secret)).role == Role.ADMIN
        found = [event for event, *_ in replica.events.seen if event.startswith("tokens_")]
        assert found == ["tokens_suspended", "tokens_restored"]

    with_sessions(tmp_path, test, **OFFLINE)


def test_a_sign_in_lifts_a_suspension_by_a_replica_whose_clock_is_ahead(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, _: ObedientProvider) -> None:
        _, identity, exchange = await signed_in(sessions)
        secret, _ = await replica.make(identity, exchange=exchange)
        later = time.time() + 50
        await replica.store.run(lambda db: people.suspend(db, ADA.issuer, ADA.subject, later, "x"))
        await signed_in(sessions)
        assert (await replica.who(secret)).role == Role.ADMIN

    with_sessions(tmp_path, test)


def test_without_offline_access_a_refused_refresh_says_nothing_of_tokens(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, provider: ObedientProvider) -> None:
        cookie, identity, exchange = await signed_in(sessions)
        secret, _ = await replica.make(identity, exchange=exchange)
        provider.mode = "refuses"
        await asyncio.sleep(0.25)
        assert isinstance(await sessions.verify(cookie, exchange_from()), Refusal)
        assert (await replica.who(secret)).role == Role.ADMIN

    with_sessions(tmp_path, test, session_refresh=0.2)


def test_a_session_that_ends_by_a_change_of_ours_suspends_nobody(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, _: ObedientProvider) -> None:
        cookie, identity, exchange = await signed_in(sessions)
        secret, _ = await replica.make(identity, exchange=exchange)
        await write(replica, "UPDATE mlflow_proxy_sessions SET tokens = x'00'")  # sealed with another secret
        await asyncio.sleep(0.25)
        assert isinstance(await sessions.verify(cookie, exchange_from()), Refusal)
        assert (await replica.who(secret)).role == Role.ADMIN

    with_sessions(tmp_path, test, **OFFLINE)


@pytest.mark.parametrize("mode", ["is down", "crashes", "says nothing new"])
def test_a_provider_that_says_nothing_suspends_nobody(tmp_path: Path, mode: str) -> None:
    async def test(replica: Replica, sessions: Sessions, provider: ObedientProvider) -> None:
        cookie, identity, exchange = await signed_in(sessions)
        secret, _ = await replica.make(identity, exchange=exchange)
        provider.mode = mode
        await asyncio.sleep(0.25)
        assert isinstance(await sessions.verify(cookie, exchange_from()), Identity)
        assert (await replica.who(secret)).role == Role.ADMIN

    with_sessions(tmp_path, test, **OFFLINE)


def test_an_answer_from_before_the_suspension_does_not_lift_it(two: Callable[..., list[Settings]]) -> None:
    async def test(replica: Replica) -> None:
        now = time.time()
        await replica.vouch(ADA, now - 100)
        secret, _ = await replica.make(ADA_SIGNED_IN)

        async def state() -> str:
            return (await replica.tokens.list_all())[0].state

        await replica.store.run(lambda db: people.suspend(db, ADA.issuer, ADA.subject, now - 50, "x"))
        assert await state() == "suspended"
        await replica.vouch(ADA, now - 60, signed_in=False)
        assert await state() == "suspended"
        await replica.vouch(ADA, now - 40, signed_in=False)
        assert await state() == "active"
        await replica.vouch(replace(ADA, groups=("viewers",)), now - 45, signed_in=False)
        assert (await replica.who(secret)).role == Role.ADMIN  # that is older than what is there
        # A replica's clock that is behind does not keep out who has just signed in.
        await replica.store.run(lambda db: people.suspend(db, ADA.issuer, ADA.subject, now + 50, "x"))
        await replica.vouch(ADA, now)
        assert await state() == "active"

    with replicas(two()[0]) as (replica,):
        asyncio.run(test(replica))


def test_people_who_sign_in_at_the_same_time_are_noted_once(two: Callable[..., list[Settings]]) -> None:
    async def test(*all_: Replica) -> None:
        await asyncio.gather(*(replica.vouch(ADA, time.time()) for replica in all_ * 5))
        for replica in all_:
            assert len(await replica.store.run(lambda db: people.find(db, ADA.user))) == 1

    with replicas(*two()) as all_:
        asyncio.run(test(*all_))


def test_who_has_not_signed_in_for_too_long_signs_in_again(tmp_path: Path) -> None:
    async def test(replica: Replica) -> None:
        await replica.vouch(ADA, time.time() - 9.0)
        secret, _ = await replica.make(ADA_SIGNED_IN)
        verified = await replica.ask(secret)
        assert isinstance(verified, Verified)
        assert verified.until == pytest.approx(time.time() + 1.0, abs=0.3)
        await asyncio.sleep(1.1)
        assert "its owner has not signed in for too long. Sign in again" in await replica.why(secret)
        await replica.vouch(ADA, time.time())
        replica.tokens._in_use._refused.clear()
        await replica.who(secret)

    run(tmp_path, test, token_sign_in_within=10.0)


@pytest.mark.parametrize("user", ["service:ci", "client:ci", "mlflow-jobs", "metrics"])
def test_nobody_signs_in_with_a_programs_name(tmp_path: Path, user: str) -> None:
    assert reserved_name(user)

    async def test(_: Replica, sessions: Sessions, provider: ObedientProvider) -> None:
        with pytest.raises(ProviderError) as caught:
            await sessions.create(replace(ADA, user=user), TOKENS, exchange_from())
        assert caught.value.reason == "not_admitted"

    with_sessions(tmp_path, test)


def test_a_sign_in_with_a_password_is_no_providers_person(tmp_path: Path) -> None:
    async def test(replica: Replica, sessions: Sessions, _: ObedientProvider) -> None:
        claims = replace(ADA, issuer=PASSWORD_ISSUER, subject="bob", user="bob")
        with contextlib.suppress(ProviderError):
            await sessions.create(claims, TOKENS, exchange_from())
        count = sa.text("SELECT count(*) FROM mlflow_proxy_people")
        assert await replica.store.run(lambda db: db.scalar(count)) == 0

    with_sessions(tmp_path, test, default_role=Role.VIEWER)
