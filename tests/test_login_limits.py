"""Guessing: what it costs the one who guesses, and what it does not cost anybody else."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from pathlib import Path

import bcrypt
import pytest
from test_authentication import door, exchange, hashes, in_a_loop, new_hashes

from proxy.auth import Authenticator, Refusal
from proxy.auth.login_limits import FIRST_DELAY, LONGEST_DELAY, Attempt, LoginLimits, network_of
from proxy.identity import Identity

HASH = bcrypt.hashpw(b"seven lamps", bcrypt.gensalt(4)).decode()
_guesses = itertools.count()


@pytest.fixture
def team(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"ann:{HASH}\nbob:{HASH}\ncleo:{HASH}\n")
    return path


async def enter(
    at: Authenticator, name: str, password: str = "seven lamps", client: str = "203.0.113.7"
) -> Identity | Refusal:
    authorization = b"Basic " + base64.b64encode(f"{name}:{password}".encode())
    one = exchange(client)
    return at.recall(authorization, one) or await at.verify(authorization, one)


async def guess(at: Authenticator, name: str, client: str = "203.0.113.7") -> str:
    """Another wrong password each time; ``unauthenticated`` or ``locked_out``."""
    found = await enter(at, name, f"guess {next(_guesses)}", client)
    assert isinstance(found, Refusal)
    return found.reason


def locked(found: Identity | Refusal) -> bool:
    return isinstance(found, Refusal) and found.reason == "locked_out"


# An address


@in_a_loop
async def test_an_address_that_guesses_is_slowed_down_and_then_stopped_before_any_hash(team: Path) -> None:
    async with door(users_file=team, login_failures=4) as one:
        at = one.authenticator
        took = []
        for number in range(4):
            begun = time.monotonic()
            assert await guess(at, f"nobody{number}") == "unauthenticated"
            took.append(time.monotonic() - begun)
        assert took[2] >= FIRST_DELAY
        assert took[3] >= 2 * FIRST_DELAY
        before = hashes()
        refusal = await enter(at, "ann")  # with the right password: it would tell
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "locked_out"
        assert refusal.retry_after is not None
        assert 290 <= refusal.retry_after <= 300
        assert refusal.message.startswith("Too many wrong passwords were sent from your address. Wait ")
        assert "minutes" in refusal.message
        assert new_hashes(before) == {}
        assert isinstance(await enter(at, "ann", client="198.51.100.9"), Identity)


@in_a_loop
async def test_the_right_password_is_slowed_down_too_or_waiting_would_tell(team: Path) -> None:
    async with door(users_file=team, login_failures=2) as one:
        await guess(one.authenticator, "ann")
        begun = time.monotonic()
        assert isinstance(await enter(one.authenticator, "ann"), Identity)
        assert time.monotonic() - begun >= FIRST_DELAY


@in_a_loop
async def test_guesses_sent_at_once_are_not_more_than_guesses_sent_in_turn(team: Path) -> None:
    async with door(users_file=team, login_failures=4) as one:
        before = hashes()
        found = await asyncio.gather(*(guess(one.authenticator, "ann") for _ in range(60)))
        assert sum(new_hashes(before).values()) <= 5  # one more may be in the other thread
        assert found.count("unauthenticated") <= 5


@in_a_loop
async def test_who_is_at_work_goes_on_while_a_neighbour_at_the_same_address_guesses(team: Path) -> None:
    async with door(users_file=team, login_failures=3, credential_cache=0.5) as one:
        at = one.authenticator
        assert isinstance(await enter(at, "ann"), Identity)
        for number in range(5):
            await guess(at, f"nobody{number}")
        assert locked(await enter(at, "bob"))
        assert isinstance(await enter(at, "ann"), Identity)  # remembered
        await asyncio.sleep(0.6)
        assert isinstance(await enter(at, "ann"), Identity)  # and verified again when it is not any more


@in_a_loop
async def test_a_script_with_an_old_password_stops_itself_and_not_its_neighbours(team: Path) -> None:
    async with door(users_file=team, login_failures=3) as one:
        at = one.authenticator
        found = [await enter(at, "ann", "the old password") for _ in range(4)]
        assert [locked(each) for each in found] == [False, False, False, True]
        assert isinstance(await enter(at, "bob"), Identity)
        assert isinstance(await enter(at, "ann"), Identity)  # who corrects the password need not wait


@in_a_loop
async def test_every_stop_ends_by_itself(team: Path) -> None:
    async with door(users_file=team, login_failures=2, login_window=6.0) as one:
        at = one.authenticator
        await guess(at, "ann")
        await guess(at, "ann")
        assert locked(await enter(at, "ann"))
        await asyncio.sleep(6.1)
        assert isinstance(await enter(at, "ann"), Identity)


@in_a_loop
async def test_a_token_is_guessed_no_longer_than_a_password(team: Path) -> None:
    token = "t" * 20
    async with door(users_file=team, login_failures=3, metrics_token=token) as one:
        found = [await one.enter(f"Bearer {'x' * 20}{number}".encode(), "203.0.113.7") for number in range(4)]
        assert [locked(each) for each in found] == [False, False, False, True]
        assert locked(await one.enter(f"Bearer {token}".encode(), "203.0.113.7"))
        assert isinstance(await one.enter(f"Bearer {token}".encode(), "198.51.100.9"), Identity)


# A user name


@in_a_loop
async def test_one_address_alone_cannot_stop_a_user_elsewhere(team: Path) -> None:
    async with door(users_file=team, login_failures=3) as one:
        at = one.authenticator
        while await guess(at, "ann") != "locked_out":
            pass
        assert isinstance(await enter(at, "ann", client="198.51.100.9"), Identity)


@in_a_loop
async def test_a_name_that_many_addresses_guess_at_is_stopped_but_not_where_it_is_at_work(team: Path) -> None:
    async with door(users_file=team, login_failures=2) as one:
        at = one.authenticator
        assert isinstance(await enter(at, "ann", client="198.51.100.9"), Identity)
        assert isinstance(await enter(at, "ann", client="198.51.100.10"), Identity)  # remembered, no hash
        for number in range(4):
            assert await guess(at, "ann", f"203.0.113.{number}") == "unauthenticated"
        before = hashes()
        refusal = await enter(at, "ann", "seven lamp", client="192.0.2.1")
        assert isinstance(refusal, Refusal)
        assert "for this user name" in refusal.message
        # A right guess from elsewhere must not be told from a wrong one, though it is remembered.
        assert locked(await enter(at, "ann", client="192.0.2.1"))
        assert new_hashes(before) == {}
        for address in ("198.51.100.9", "198.51.100.10"):
            assert isinstance(await enter(at, "ann", client=address), Identity)
        assert isinstance(await enter(at, "bob", client="192.0.2.1"), Identity)


@in_a_loop
async def test_an_unknown_name_is_stopped_like_a_known_one(team: Path) -> None:
    async with door(users_file=team, login_failures=2) as one:
        said = []
        for name in ("ann", "nobody"):
            for number in range(4):
                await guess(one.authenticator, name, f"203.0.{len(name)}.{number}")
            refusal = await enter(one.authenticator, name, client="192.0.2.1")
            assert isinstance(refusal, Refusal)
            said.append(refusal.message.partition(" Wait")[0])
        assert said[0] == said[1]


@in_a_loop
async def test_a_neighbour_cannot_use_what_is_remembered_to_tell_a_right_guess(team: Path) -> None:
    async with door(users_file=team, login_failures=1) as one:
        at = one.authenticator
        assert isinstance(await enter(at, "ann"), Identity)
        at_limits = at._limits
        digest = itertools.count()
        for _ in range(9):  # counted as they are by guess(), without nine growing waits
            at_limits.failed(Attempt("203.0.113.7", "ann", next(digest).to_bytes(32)))
        assert isinstance(await enter(at, "ann"), Identity)
        at_limits.failed(Attempt("203.0.113.7", "ann", next(digest).to_bytes(32)))
        assert locked(await enter(at, "ann"))
        assert locked(await enter(at, "ann", "another guess"))
        assert isinstance(await enter(at, "ann", client="198.51.100.9"), Identity)
        assert isinstance(await enter(at, "bob"), Identity)


# Addresses, and what is kept


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("", "testclient", False),
    ],
)
def test_ipv6_callers_are_counted_by_the_network_of_one_customer(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


def attempts(count: int) -> list[Attempt]:
    return [Attempt(f"n{number}", f"u{number}", number.to_bytes(32)) for number in range(count)]


def test_nothing_is_kept_beyond_its_window() -> None:
    limits = LoginLimits(10, 3.0)
    for attempt in attempts(1000):
        limits.failed(attempt)
    assert len(limits) == 3000
    time.sleep(3.1)
    assert len(limits) == 0


def test_a_failure_leaves_the_count_as_its_own_window_ends() -> None:
    limits = LoginLimits(2, 3.0)
    one, two, three = (Attempt("n", f"u{number}", bytes([number])) for number in range(3))
    limits.failed(one)
    time.sleep(2.0)
    limits.failed(two)
    stopped = limits.refused(three)
    assert stopped is not None
    assert stopped.seconds == 1
    time.sleep(1.5)
    assert limits.refused(three) is None
    limits.failed(three)
    assert limits.refused(one) is not None


def test_waiting_grows_and_has_an_end() -> None:
    limits = LoginLimits(20, 300)
    delays = []
    for attempt in attempts(20):
        one = Attempt("n", attempt.name, attempt.digest)
        delays.append(limits.delay(one))
        limits.failed(one)
    assert delays[:10] == [0] * 10
    assert delays[10:] == [FIRST_DELAY, 0.5, 1, 2] + [LONGEST_DELAY] * 6


def test_a_stop_is_said_in_seconds_that_come_true() -> None:
    limits = LoginLimits(1, 90)
    attempt, other = attempts(2)
    limits.failed(attempt)
    stopped = limits.refused(attempt)
    assert stopped is not None
    assert 89 <= stopped.seconds <= 90
    assert limits.refused(other) is None
