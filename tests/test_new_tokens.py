"""Tokens that nobody here knows yet: how many are looked up at once, and what is remembered of each."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from session_site import exchange_from
from token_site import BOB, ROOT, VERA, Replica, replicas, settings

from proxy.auth import Authenticator, Refusal
from proxy.auth.authenticator import TOKEN_FACTOR
from proxy.auth.login_limits import Attempt, LoginLimits
from proxy.auth.remembered import FORMS
from proxy.auth.tokens.format import made
from proxy.auth.turns import AT_ONCE, Turns
from proxy.auth.verified import Verified, Wrong
from proxy.exchange import Exchange
from proxy.identity import Identity

FAILURES = 1
STOPPED = TOKEN_FACTOR * FAILURES
PASSWORD = "nine wells and a half"


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    with replicas(settings(tmp_path, login_failures=FAILURES)) as (one,):
        yield one


@contextlib.asynccontextmanager
async def door(replica: Replica, remembered: int = 10_000) -> AsyncIterator[Authenticator]:
    one = Authenticator(
        replica.settings,
        PASSWORD,
        "jobs-" + "j" * 40,
        lambda method, result: replica.results.append(f"{method} {result}"),
        remembered=remembered,
    )
    one.accept(replica.tokens, None)
    try:
        yield one
    finally:
        one.close()


def basic(name: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


async def send(
    one: Authenticator, secret: str, client: str = "192.0.2.1", name: str | None = None
) -> Identity | Refusal:
    header = f"Bearer {secret}".encode() if name is None else basic(name, secret)
    exchange = exchange_from(client)
    return one.recall(header, exchange) or await one.verify(header, exchange)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Queries wait for as long as the block takes, as where the database is slow."""
    connection = sqlite3.connect(folder / "proxy.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def until_asked(replica: Replica, queries: int) -> None:
    deadline = time.monotonic() + 60
    while replica.store.queries < queries:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_made_up_tokens_that_come_at_once_are_asked_for_no_more_than_one_by_one(replica: Replica) -> None:
    async def test() -> None:
        async with door(replica) as one:
            before = replica.store.queries
            outcomes = await asyncio.gather(*(send(one, made("person")) for _ in range(400)))
            assert replica.store.queries - before == STOPPED
            reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)]
            assert reasons.count("unauthenticated") == STOPPED
            assert reasons.count("locked_out") == 400 - STOPPED

    asyncio.run(test())


def test_right_tokens_behind_one_address_come_in_however_many_at_once(replica: Replica) -> None:
    """A cluster starts: hundreds of jobs, each with a token of its own, and one with an old one."""

    async def test() -> None:
        secrets = [
            (await replica.make(owner, name=f"job {number}"))[0]
            for owner in (BOB, ROOT, VERA)
            for number in range(100)
        ]
        async with door(replica) as one:
            for _ in range(STOPPED - 1):  # one failure more, and the address is stopped
                assert isinstance(await send(one, made("person")), Refusal)
            outcomes = await asyncio.gather(*(send(one, secret) for secret in secrets))
            assert {type(outcome) for outcome in outcomes} == {Identity}

    asyncio.run(test())


def test_guesses_of_many_addresses_leave_the_database_to_others(replica: Replica, tmp_path: Path) -> None:
    async def test() -> None:
        async with door(replica) as one:
            before = replica.store.queries
            with locked(tmp_path):
                asked = [
                    asyncio.create_task(send(one, made("person"), f"10.0.{n // 200}.{n % 200 + 1}"))
                    for n in range(400)
                ]
                await until_asked(replica, before + AT_ONCE)
                for _ in range(100):
                    await asyncio.sleep(0)
                assert replica.store.queries - before == AT_ONCE
            outcomes = await asyncio.gather(*asked)
            assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)} == {
                "unauthenticated"
            }

    asyncio.run(test())


def test_one_address_s_many_guesses_hold_up_nobody_elsewhere(replica: Replica, tmp_path: Path) -> None:
    async def test() -> None:
        secret, _ = await replica.make()
        async with door(replica) as one:
            before = replica.store.queries
            with locked(tmp_path):
                guesses = [asyncio.create_task(send(one, made("person"))) for _ in range(STOPPED)]
                await until_asked(replica, before + AT_ONCE)
                job = asyncio.create_task(send(one, secret, "192.0.2.2"))
                await asyncio.sleep(0)
            assert isinstance(await job, Identity)
            assert replica.store.queries - before < STOPPED / 2
            await asyncio.gather(*guesses)

    asyncio.run(test())


def test_a_token_in_use_waits_behind_no_guess(replica: Replica, tmp_path: Path) -> None:
    async def test() -> None:
        secret, _ = await replica.make()
        async with door(replica) as one:
            assert isinstance(await send(one, secret), Identity)
            with locked(tmp_path):
                guesses = [asyncio.create_task(send(one, made("person"))) for _ in range(STOPPED)]
                await until_asked(replica, replica.store.queries)
                async with asyncio.timeout(4):  # the guesses' queries end with the block, or after 5 s
                    assert isinstance(await send(one, secret, name="another form"), Identity)
                assert not any(guess.done() for guess in guesses)
            await asyncio.gather(*guesses)
            # And it goes on where the address is stopped: it is no guess.
            assert isinstance(await send(one, secret, name="a third form"), Identity)

    asyncio.run(test())


def test_a_guess_counts_although_its_client_has_left(replica: Replica, tmp_path: Path) -> None:
    async def test() -> None:
        async with door(replica) as one:
            for _ in range(STOPPED // AT_ONCE):
                before = replica.store.queries
                with locked(tmp_path):
                    guesses = [asyncio.create_task(send(one, made("person"))) for _ in range(AT_ONCE)]
                    await until_asked(replica, before + AT_ONCE)
                    for guess in guesses:
                        guess.cancel()
                    await asyncio.gather(*guesses, return_exceptions=True)
                while one._looking:
                    await asyncio.wait(one._looking)
            outcome = await send(one, made("person"))
            assert isinstance(outcome, Refusal)
            assert outcome.reason == "locked_out"

    asyncio.run(test())


def test_who_leaves_the_line_leaves_the_turn_to_the_next(replica: Replica, tmp_path: Path) -> None:
    async def test() -> None:
        secret, _ = await replica.make()
        async with door(replica) as one:
            before = replica.store.queries
            with locked(tmp_path):
                first = [asyncio.create_task(send(one, made("person"))) for _ in range(AT_ONCE)]
                await until_asked(replica, before + AT_ONCE)
                waiting = [asyncio.create_task(send(one, made("person"))) for _ in range(20)]
                job = asyncio.create_task(send(one, secret))
                await asyncio.sleep(0)
                for task in waiting:
                    task.cancel()
            assert isinstance(await job, Identity)
            await asyncio.gather(*first, *waiting, return_exceptions=True)
            assert one._turns._taken == one._turns._waiting == 0
            assert not one._turns._lines

    asyncio.run(test())


def test_who_leaves_as_the_turn_comes_gives_it_back() -> None:
    async def test() -> None:
        turns, attempt = Turns(LoginLimits(STOPPED, 300.0)), Attempt("192.0.2.1", None, b"")
        for _ in range(AT_ONCE):
            assert await turns.take(attempt) is None
        late = asyncio.create_task(turns.take(attempt))
        await asyncio.sleep(0)
        turns.give_back(attempt.network)
        late.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await late
        assert turns._taken == AT_ONCE - 1

    asyncio.run(test())


def test_one_token_under_many_names_pushes_nobody_s_password_out(replica: Replica) -> None:
    async def test() -> None:
        secret, _ = await replica.make()
        async with door(replica, remembered=50) as one:
            password = basic("admin", PASSWORD)
            exchange = exchange_from()
            assert isinstance(await one.verify(password, exchange), Identity)
            for number in range(200):
                assert isinstance(await send(one, secret, name=f"name {number}"), Identity)
                spaces = b"Bearer" + b" " * (number + 1) + secret.encode()
                assert isinstance(await one.verify(spaces, exchange), Identity)
            assert one.recall(password, exchange) is not None
            assert len(one._remembered) == FORMS + 1

    asyncio.run(test())


def test_one_password_in_many_forms_pushes_nobody_elses_out(replica: Replica) -> None:
    async def test() -> None:
        async with door(replica, remembered=50) as one:
            other = basic("admin", PASSWORD)
            for number in range(FORMS + 4):
                form = other.replace(b"Basic ", b"Basic" + b" " * (number + 1))
                assert isinstance(await one.verify(form, exchange_from()), Identity)
            assert len(one._remembered) == FORMS
            assert one.recall(form, exchange_from()) is not None
            assert one.recall(other, exchange_from()) is None, "the oldest gave way"

    asyncio.run(test())


def test_bad_jwts_stop_no_token_and_made_up_tokens_no_jwt(replica: Replica) -> None:
    """Behind one address there are many: what one of them sends is no reason to refuse another kind."""

    class Issuer:
        async def verify(self, token: bytes, exchange: Exchange) -> Verified | Refusal:
            return Wrong("unauthenticated", "no such key", None)

    async def test() -> None:
        secret, _ = await replica.make()
        async with door(replica) as one:
            one.accept(replica.tokens, Issuer())
            jwts = [f"Bearer a.{number}.c".encode() for number in range(STOPPED + 1)]
            outcomes = [await one.verify(jwt, exchange_from("192.0.2.1")) for jwt in jwts]
            reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)]
            assert reasons == ["unauthenticated"] * STOPPED + ["locked_out"]
            assert isinstance(await send(one, secret), Identity)
            for _ in range(STOPPED):
                await send(one, made("person"))
            refused = await send(one, made("person"))
            assert isinstance(refused, Refusal)
            assert refused.reason == "locked_out"
            later = await one.verify(jwts[0], exchange_from("192.0.2.2"))
            assert isinstance(later, Refusal)
            assert later.reason == "unauthenticated"

    asyncio.run(test())
