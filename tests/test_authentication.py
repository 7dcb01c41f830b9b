"""Who is let in: credentials as clients send them, what is remembered of them, and for how long."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from proxy import auth
from proxy.auth import METHODS, RESULTS, Authenticator, Refusal, password_checks, passwords, users
from proxy.errors import UserError
from proxy.exchange import Exchange
from proxy.identity import Identity, Role
from proxy.settings import Settings

PASSWORD = "nine wells and a half"
JOBS_TOKEN = "jobs-" + "j" * 40
METRICS_TOKEN = "scrape-" + "m" * 20


def basic(name: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


def exchange(client: str = "203.0.113.7", *, internal: bool = False) -> Exchange:
    found = Exchange("GET", "/api/2.0/mlflow/experiments/search", time.perf_counter(), time.time())
    found.client = client
    found.internal = internal
    return found


def fast(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


class Door:
    """An authenticator, and what it told the metrics."""

    def __init__(self, *, remembered: int = auth.REMEMBERED, **settings: Any) -> None:
        self.seen: list[tuple[str, str]] = []
        self.authenticator = Authenticator(
            Settings(**settings),
            PASSWORD,
            JOBS_TOKEN,
            lambda method, result: self.seen.append((method, result)),
            remembered=remembered,
        )

    async def enter(
        self, authorization: bytes | None, client: str = "203.0.113.7", *, internal: bool = False
    ) -> Identity | Refusal:
        """As the proxy does it: recall first."""
        one = exchange(client, internal=internal)
        found = self.authenticator.recall(authorization, one)
        return found or await self.authenticator.verify(authorization, one)


@contextlib.asynccontextmanager
async def door(**settings: Any) -> AsyncIterator[Door]:
    made = Door(**settings)
    try:
        yield made
    finally:
        made.authenticator.close()


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def hashes() -> dict[str, int]:
    return dict(passwords.verifications)


def new_hashes(before: dict[str, int]) -> dict[str, int]:
    return {
        kind: count - before.get(kind, 0)
        for kind, count in passwords.verifications.items()
        if count > before.get(kind, 0)
    }


# Letting in


@in_a_loop
async def test_the_user_of_the_settings_is_an_admin() -> None:
    async with door() as one:
        assert await one.enter(basic("admin", PASSWORD)) == Identity(
            "admin", Role.ADMIN, "basic", subject="admin"
        )
    async with door(username="ann", password=PASSWORD) as one:
        assert await one.enter(basic("ann", PASSWORD)) == Identity("ann", Role.ADMIN, "basic", subject="ann")
        assert isinstance(await one.enter(basic("admin", PASSWORD)), Refusal)


@in_a_loop
async def test_users_of_the_file_have_their_roles(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"ann:{fast('seven lamps')}:editor\nzoë:{fast('длинный пароль')}\n")
    async with door(users_file=path) as one:
        assert await one.enter(basic("ann", "seven lamps")) == Identity(
            "ann", Role.EDITOR, "basic", subject="ann"
        )
        decomposed = unicodedata.normalize("NFD", "zoë")
        assert await one.enter(basic(decomposed, "длинный пароль")) == Identity(
            "zoë", Role.VIEWER, "basic", subject="zoë"
        )
        assert isinstance(await one.enter(basic("Ann", "seven lamps")), Refusal)
        assert isinstance(await one.enter(basic("zoë", "seven lamps")), Refusal)
        assert await one.enter(basic("admin", PASSWORD)) == Identity(
            "admin", Role.ADMIN, "basic", subject="admin"
        )
        assert one.authenticator.users.single_user == "admin"


@in_a_loop
async def test_a_line_of_the_file_takes_the_place_of_the_user_whose_password_was_made(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"admin:{fast('seven lamps')}:viewer\n")
    async with door(users_file=path) as one:
        assert one.authenticator.users.single_user is None
        assert isinstance(await one.enter(basic("admin", PASSWORD)), Refusal)
        assert await one.enter(basic("admin", "seven lamps")) == Identity(
            "admin", Role.VIEWER, "basic", subject="admin"
        )
    with pytest.raises(UserError, match=r"'admin' is in MLFLOW_TRACKING_USERNAME and in .*users"):
        Door(users_file=path, username="admin", password=PASSWORD)


@in_a_loop
async def test_the_jobs_token_counts_on_the_jobs_listener_and_nothing_else_does() -> None:
    token = f"Bearer {JOBS_TOKEN}".encode()
    async with door(metrics_token=METRICS_TOKEN) as one:
        assert await one.enter(token, "127.0.0.1", internal=True) == Identity(
            "mlflow-jobs", Role.EDITOR, "job"
        )
        assert isinstance(await one.enter(token, "127.0.0.1"), Refusal)
        await one.enter(basic("admin", PASSWORD))
        for other in (basic("admin", PASSWORD), f"Bearer {METRICS_TOKEN}".encode(), None, token[:-1]):
            assert isinstance(await one.enter(other, "127.0.0.1", internal=True), Refusal)


@in_a_loop
async def test_the_scrapers_token_has_no_role() -> None:
    async with door(metrics_token=METRICS_TOKEN) as one:
        assert await one.enter(f"bearer {METRICS_TOKEN}".encode()) == Identity(
            "metrics", Role.NONE, "metrics"
        )
        for wrong in (METRICS_TOKEN[:-1], METRICS_TOKEN + "x"):
            assert isinstance(await one.enter(f"Bearer {wrong}".encode()), Refusal)
    async with door() as one:
        assert isinstance(await one.enter(f"Bearer {METRICS_TOKEN}".encode()), Refusal)


# Refusing


@pytest.mark.parametrize(
    ("authorization", "said", "result"),
    [
        (None, "No credential was sent", "missing"),
        (basic("admin", "wrong password"), "The user name or password is wrong", "wrong"),
        (basic("nobody", PASSWORD), "The user name or password is wrong", "wrong"),
        (b"Bearer abc", "This is no token that counts here", "wrong"),
        (b"Bearer", "The bearer token is empty", "malformed"),
        (b"Digest username=admin", "of a kind that is not known here; Basic is", "malformed"),
        (b"", "of a kind that is not known", "malformed"),
        (b"Basic ???", "not base64", "malformed"),
        (b"Basic", "no colon", "malformed"),
        (b"Basic " + base64.b64encode(b"admin"), "no colon", "malformed"),
        (b"Basic " + base64.b64encode(b"m\xfcller:x"), "not UTF-8", "malformed"),
        (b"Basic " + base64.b64encode(b"admin:\xfc"), "not UTF-8", "malformed"),
        (b"Basic " + base64.b64encode(b":x"), "user name is empty", "malformed"),
        (b"Basic " + base64.b64encode(b"a\nb:x"), "control character", "malformed"),
        (b"Basic \xff\xfe", "not base64", "malformed"),
    ],
)
def test_a_refusal_says_what_to_do_in_the_words_of_mlflows_client(
    authorization: bytes | None, said: str, result: str
) -> None:
    async def main() -> None:
        async with door() as one:
            refusal = await one.enter(authorization)
            assert isinstance(refusal, Refusal)
            assert refusal.reason == "unauthenticated"
            assert refusal.retry_after is None
            assert said in refusal.message
            assert "MLFLOW_TRACKING_" in refusal.message
            assert [seen[1] for seen in one.seen] == [result]

    asyncio.run(main())


@in_a_loop
async def test_nothing_tells_an_unknown_user_from_a_wrong_password(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"ann:{fast('seven lamps')}\n")
    async with door(users_file=path, login_failures=1000) as one:
        wrong = await one.enter(basic("ann", "seven lamp"))
        kinds = set()
        for number in range(24):
            before = hashes()
            assert await one.enter(basic(f"nobody{number}", "seven lamps"), f"203.0.113.{number}") == wrong
            found = new_hashes(before)
            assert list(found.values()) == [1]
            kinds |= set(found)
        # One user has bcrypt, one (of the settings) argon2: names that are nobody's look like either.
        assert kinds == {passwords.ARGON2, passwords.BCRYPT}
        before = hashes()
        await one.enter(basic("nobody1", "another"))
        first = new_hashes(before)
        before = hashes()
        await one.enter(basic("nobody1", "still another"))
        assert new_hashes(before) == first  # and always like the same one


@in_a_loop
async def test_a_password_too_long_for_bcrypt_costs_a_hash_and_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"ann:{fast('x' * 72)}\n")
    async with door(users_file=path) as one:
        before = hashes()
        assert isinstance(await one.enter(basic("ann", "x" * 73)), Refusal)
        assert new_hashes(before) == {passwords.BCRYPT: 1}
        assert isinstance(await one.enter(basic("ann", "x" * 72)), Identity)


# Remembering


@in_a_loop
async def test_a_hash_is_paid_once_and_then_remembered() -> None:
    async with door() as one:
        before = hashes()
        assert await one.enter(basic("admin", PASSWORD)) == await one.enter(basic("admin", PASSWORD))
        await one.enter(basic("admin", PASSWORD), "198.51.100.9")
        assert new_hashes(before) == {passwords.ARGON2: 1}
        assert one.seen == [("basic", "success"), ("basic", "remembered"), ("basic", "remembered")]
        for _ in range(2):
            before = hashes()
            assert isinstance(await one.enter(basic("admin", PASSWORD + "!")), Refusal)
            assert new_hashes(before) == {passwords.ARGON2: 1}  # what is wrong is not remembered


@in_a_loop
async def test_what_is_remembered_is_forgotten_in_time() -> None:
    async with door(credential_cache=0.2) as one:
        await one.enter(basic("admin", PASSWORD))
        assert one.authenticator.recall(basic("admin", PASSWORD), exchange()) is not None
        await asyncio.sleep(0.3)
        assert one.authenticator.recall(basic("admin", PASSWORD), exchange()) is None
        assert isinstance(await one.enter(basic("admin", PASSWORD)), Identity)


@in_a_loop
async def test_a_removed_user_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "users"
    users.add(path, "ann", "seven lamps", Role.EDITOR)
    async with door(users_file=path) as one:
        await one.enter(basic("ann", "seven lamps"))
        assert one.authenticator.recall(basic("ann", "seven lamps"), exchange()) is not None
        users.remove(path, "ann")
        assert one.authenticator.recall(basic("ann", "seven lamps"), exchange()) is None
        assert isinstance(await one.enter(basic("ann", "seven lamps")), Refusal)


@in_a_loop
async def test_a_changed_password_or_role_counts_at_once_and_for_that_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "users"
    users.add(path, "ann", "seven lamps", Role.EDITOR)
    users.add(path, "bob", "nine wells", Role.EDITOR)
    async with door(users_file=path) as one:
        await one.enter(basic("ann", "seven lamps"))
        await one.enter(basic("bob", "nine wells"))
        users.change(path, "ann", role=Role.VIEWER)
        assert await one.enter(basic("ann", "seven lamps")) == Identity(
            "ann", Role.VIEWER, "basic", subject="ann"
        )
        users.change(path, "ann", password="eleven doors")
        assert isinstance(await one.enter(basic("ann", "seven lamps")), Refusal)
        assert isinstance(await one.enter(basic("ann", "eleven doors")), Identity)
        before = hashes()
        assert isinstance(await one.enter(basic("bob", "nine wells")), Identity)
        assert new_hashes(before) == {}


@in_a_loop
async def test_a_password_changed_while_its_hash_is_computed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "users"
    slow = bcrypt.hashpw(b"seven lamps", bcrypt.gensalt(11)).decode()
    path.write_text(f"ann:{slow}\n")
    async with door(users_file=path) as one:
        entering = asyncio.create_task(one.enter(basic("ann", "seven lamps")))
        await asyncio.sleep(0.02)
        path.write_text(f"ann:{fast('eleven doors')}\n")
        assert isinstance(await entering, Refusal)
        assert one.authenticator.recall(basic("ann", "seven lamps"), exchange()) is None


@in_a_loop
async def test_many_who_send_the_same_at_once_share_one_hash() -> None:
    async with door() as one:
        before = hashes()
        found = await asyncio.gather(
            *(one.enter(basic("admin", PASSWORD), f"203.0.113.{number}") for number in range(50))
        )
        assert set(found) == {Identity("admin", Role.ADMIN, "basic", subject="admin")}
        assert new_hashes(before) == {passwords.ARGON2: 1}


@in_a_loop
async def test_one_who_leaves_takes_nothing_from_those_who_wait_with_him() -> None:
    async with door() as one:
        first, second = (asyncio.create_task(one.enter(basic("admin", PASSWORD))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert isinstance(await second, Identity)


@in_a_loop
async def test_a_flood_of_guesses_waits_in_a_bounded_row_and_the_loop_stays_free(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("".join(f"u{number}:{fast('x')}\n" for number in range(3)))
    async with door(users_file=path, login_failures=100_000) as one:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                longest = max(longest, time.perf_counter() - before)

        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(
            *(
                one.enter(basic(f"u{number % 3}", f"guess {number}"), f"10.0.{number // 200}.{number % 200}")
                for number in range(password_checks.WAITING + 50)
            )
        )
        ticking.cancel()
        busy = [one for one in found if isinstance(one, Refusal) and one.reason == "locked_out"]
        assert len(busy) == 50
        assert {one.retry_after for one in busy} == {1}
        assert "Try again in 1 second" in busy[0].message
        assert longest < 0.5


@in_a_loop
async def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("".join(f"u{number}:{fast('seven lamps')}\n" for number in range(4)))
    async with door(users_file=path, remembered=3) as one:
        for number in range(4):
            await one.enter(basic(f"u{number}", "seven lamps"))
        kept = [
            one.authenticator.recall(basic(f"u{number}", "seven lamps"), exchange()) is not None
            for number in range(4)
        ]
        assert kept == [False, True, True, True]


@in_a_loop
async def test_no_password_stays_in_memory_or_shows_in_a_repr() -> None:
    async with door() as one:
        await one.enter(basic("admin", PASSWORD))
        kept = repr(vars(one.authenticator._checks)) + repr(one.authenticator._remembered._entries)
        assert "RememberedUser(" in kept
        assert PASSWORD not in kept
        assert base64.b64encode(PASSWORD.encode()).decode()[:12] not in kept
        assert PASSWORD not in repr(auth.basic.parse(basic("admin", PASSWORD)))
        assert "argon2" not in kept


@in_a_loop
async def test_what_the_metrics_are_told_is_of_closed_sets(tmp_path: Path) -> None:
    async with door(metrics_token=METRICS_TOKEN, login_failures=3) as one:
        for sent in (
            basic("admin", PASSWORD),
            basic("admin", PASSWORD),
            None,
            b"???",
            b"Bearer \xff",
            f"Bearer {METRICS_TOKEN}".encode(),
            *[basic("x" * 100, "y")] * 4,
        ):
            await one.enter(sent)
            await one.enter(sent, internal=True)
        await one.enter(f"Bearer {JOBS_TOKEN}".encode(), internal=True)
        assert {method for method, _ in one.seen} <= METHODS
        # The others are said of sessions and tokens.
        assert {result for _, result in one.seen} == RESULTS - {"ended", "unavailable", "expired", "revoked"}
