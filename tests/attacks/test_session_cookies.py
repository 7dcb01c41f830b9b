"""Attacks on the session's cookie: forging it, changing it, planting it, and using an old copy of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer
from session_site import (
    ADA,
    Browser,
    ObedientProvider,
    Replica,
    exchange_from,
    is_refused,
    replicas,
    role_of,
    settings,
)

from proxy.identity import Identity, Role
from proxy.store import sessions as rows

OLD, NEW, OTHER = ("0123456789abcdef" * 4, "fedcba9876543210" * 4, "00112233445566778899" * 4)


def split(header: bytes) -> tuple[bytes, bytes]:
    name, _, value = header.partition(b"=")
    return name, value


async def asked(replica: Replica, name: bytes, value: bytes) -> bool:
    """Whether a cookie with that value is let through."""
    return isinstance(await replica.ask(name + b"=" + value), Identity)


def test_fixation_a_planted_session_is_not_the_one_after_sign_in(tmp_path: Path) -> None:
    async def attack(replica: Replica) -> None:
        mallory, victim = Browser(), Browser()
        planted = await mallory.sign_in(replica, replace(ADA, user="mallory", subject="666"))
        victim.header = planted
        await victim.sign_in(replica)
        assert victim.header != planted
        identity = await victim.ask(replica)
        assert isinstance(identity, Identity)
        assert identity.user == "ada@example.com"
        assert is_refused(await mallory.ask(replica))  # and the planted one has ended
        live = replica.store.run_blocking(lambda db: rows.live(db, time.time(), 60))
        assert [row.user for row in live] == ["ada@example.com"]

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_each_sign_in_has_an_id_of_its_own_that_nobody_can_guess(tmp_path: Path) -> None:
    async def attack(replica: Replica) -> None:
        browser, keys = Browser(), set()
        for _ in range(5):
            _, value = split(await browser.sign_in(replica))
            payload = replica.sessions._cookie.open(value)
            assert payload is not None
            keys.add(payload.key)
            assert len(base64.urlsafe_b64decode(payload.key + "=")) == 32
        assert len(keys) == 5
        assert len(await replica.sessions.list_all()) == 1

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_a_cookie_with_any_character_changed_is_refused(tmp_path: Path) -> None:
    async def attack(replica: Replica) -> None:
        name, value = split(await Browser().sign_in(replica))
        for place in range(len(value)):
            for other in (value[place] ^ 1, ord("A"), ord("."), ord("=")):
                changed = value[:place] + bytes([other]) + value[place + 1 :]
                assert changed == value or not await asked(replica, name, changed), place
        for last in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            # Base64 has bits to spare at its end, so that several characters mean the same there.
            changed = value[:-1] + bytes([last])
            assert changed == value or not await asked(replica, name, changed)
        assert await asked(replica, name, value)

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_a_truncated_or_lengthened_cookie_is_refused(tmp_path: Path) -> None:
    async def attack(replica: Replica) -> None:
        name, value = split(await Browser().sign_in(replica))
        for length in range(len(value)):
            assert not await asked(replica, name, value[:length])
            assert not await asked(replica, name, value[len(value) - length :])
        for more in (b"A", b"=", b".", b"\0", b"\xff", b'"', b"%00", value, b"." + value, b"A" * 100_000):
            assert not await asked(replica, name, value + more)
            assert not await asked(replica, name, more + value)
        assert not await asked(replica, name, b'"' + value + b'"')

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_a_shuffled_cookie_is_refused(tmp_path: Path) -> None:
    async def attack(replica: Replica) -> None:
        name, mine = split(await Browser().sign_in(replica))
        _, other = split(await Browser().sign_in(replica, replace(ADA, subject="2", groups=())))
        parts = [mine.rpartition(b"."), other.rpartition(b".")]
        assert not await asked(replica, name, parts[0][0] + b"." + parts[1][2])
        assert not await asked(replica, name, parts[1][0] + b"." + parts[0][2])
        assert not await asked(replica, name, parts[0][2] + b"." + parts[0][0])
        characters, shuffler = list(mine), random.Random(1)
        for _ in range(200):
            shuffler.shuffle(characters)
            assert not await asked(replica, name, bytes(characters))

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_a_cookie_of_ones_own_making_is_refused(tmp_path: Path) -> None:
    async def attack(replica: Replica) -> None:
        header = await Browser().sign_in(replica)
        name, value = split(header)
        payload = replica.sessions._cookie.open(value)
        assert payload is not None
        content = [1, payload.key, 1, time.time(), "ada@example.com", 3]
        body = base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")
        bomb = base64.urlsafe_b64encode(zlib.compress(b"[" * 10_000_000)).rstrip(b"=")
        salt = f"mlflow-proxy session {name.decode()}"
        forged = [body, body + b".", b"." + body, body + b"." + b"A" * 43, b"." + bomb + b"." + b"A" * 43]
        for key in ("", " ", "secret", "changeme", OTHER, "\0" * 32):
            for derivation in ("hmac", "django-concat", "concat", "none"):
                for digest in (hashlib.sha1, hashlib.sha256, hashlib.sha512):
                    signer = {"key_derivation": derivation, "digest_method": digest}
                    for kind in (URLSafeSerializer, URLSafeTimedSerializer):
                        made = kind(key, salt=salt, signer_kwargs=signer).dumps(content)
                        forged.append(made.encode() if isinstance(made, str) else made)
        for each in forged:
            assert not await asked(replica, name, each)
        assert await asked(replica, name, value)

    with replicas(settings(tmp_path, cookie_secret=OLD)) as (replica,):
        asyncio.run(attack(replica))


def test_a_role_written_into_the_cookie_with_the_right_key_even_is_not_believed(tmp_path: Path) -> None:
    """Who has the key alone, and not the database, gets nothing that the row does not say."""

    async def attack(replica: Replica) -> None:
        name, value = split(await Browser().sign_in(replica, replace(ADA, groups=("viewers",))))
        cookie = replica.sessions._cookie
        payload = cookie.open(value)
        assert payload is not None
        claimed = replace(payload, role=Role.ADMIN, user="root")
        _, made = split(cookie.made(claimed, 60).partition(b";")[0])
        identity = await replica.ask(name + b"=" + made)
        assert identity == Identity("ada@example.com", Role.VIEWER, "session", ADA.issuer, ADA.subject)
        for other in (replace(claimed, key="A" * 43), replace(claimed, generation=2)):
            _, made = split(cookie.made(other, 60).partition(b";")[0])
            assert not await asked(replica, name, made)

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_a_cookie_of_another_service_with_the_same_secret_is_refused(tmp_path: Path) -> None:
    async def attack(here: Replica, there: Replica) -> None:
        _, value = split(await Browser().sign_in(there))
        assert here.sessions.cookie_name != there.sessions.cookie_name
        assert not await asked(here, here.sessions.cookie_name.encode(), value)

    url = f"sqlite:///{tmp_path}/shared.db"
    given = settings(tmp_path, cookie_secret=OLD, database_url=url)
    other = settings(tmp_path, cookie_secret=OLD, database_url=url, public_url="https://staging.example.com")
    with replicas(given, other) as (here, there):
        asyncio.run(attack(here, there))


def test_a_second_cookie_of_the_same_name_lets_nobody_in(tmp_path: Path) -> None:
    async def attack(replica: Replica) -> None:
        mine = await Browser().sign_in(replica)
        planted = await Browser().sign_in(replica, replace(ADA, user="mallory"))
        for header in (planted + b"; " + mine, mine + b";" + planted, mine + b"; a=b; " + planted):
            assert is_refused(await replica.ask(header))
        name, value = split(mine)
        for header in (
            b"x" + mine,
            b"x=" + mine,
            name + b" =" + value,
            name.upper() + b"=" + value,
            name.removeprefix(b"__Host-") + b"=" + value,
            name + b"%3D" + value,
        ):
            assert is_refused(await replica.ask(header))
        assert isinstance(await replica.ask(b"a=b; " + mine + b"; c=d"), Identity)
        assert isinstance(await replica.ask(mine + b"; " + mine), Identity)

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_an_old_copy_is_refused_after_sign_out(tmp_path: Path) -> None:
    async def attack(first: Replica, second: Replica) -> None:
        browser = Browser()
        copy = await browser.sign_in(first)
        assert isinstance(await second.ask(copy), Identity)
        await first.sessions.sign_out(browser.header, exchange_from())
        await second.sessions.look()
        for replica in (first, second):
            assert is_refused(await replica.ask(copy))
        await browser.sign_in(first)  # and signing in again does not bring it back
        for replica in (first, second):
            assert is_refused(await replica.ask(copy))

    given = settings(tmp_path, cookie_secret=OLD, database_url=f"sqlite:///{tmp_path}/shared.db")
    with replicas(given, given) as (first, second):
        asyncio.run(attack(first, second))


def test_signing_out_while_the_same_session_is_being_looked_up_is_not_undone(tmp_path: Path) -> None:
    provider = ObedientProvider()
    provider.seconds = 1.5

    async def attack(replica: Replica) -> None:
        browser = Browser()
        header = await browser.sign_in(replica)
        await asyncio.sleep(0.2)
        under_way = asyncio.create_task(replica.ask(header))
        await asyncio.sleep(0.5)  # the provider is being asked
        await replica.sessions.sign_out(header, exchange_from())
        assert is_refused(await under_way)
        assert is_refused(await replica.ask(header))
        row = replica.store.run_blocking(lambda db: rows.live(db, time.time(), 60))
        assert row == []

    with replicas(settings(tmp_path, session_refresh=0.2), provider=provider) as (replica,):
        asyncio.run(attack(replica))


def test_an_old_copy_has_no_role_that_was_taken_away(tmp_path: Path) -> None:
    provider = ObedientProvider()
    provider.claims = replace(ADA, groups=("viewers",))

    async def attack(replica: Replica) -> None:
        browser = Browser()
        copy = await browser.sign_in(replica)
        assert role_of(await replica.ask(copy)) is Role.ADMIN
        await asyncio.sleep(1.0)
        assert role_of(await browser.ask(replica)) is Role.VIEWER
        assert role_of(await replica.ask(copy)) is Role.VIEWER

    with replicas(settings(tmp_path, session_refresh=1.0), provider=provider) as (replica,):
        asyncio.run(attack(replica))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "on another replica"])
def test_an_old_copy_ends_once_a_newer_cookie_was_shown(tmp_path: Path, elsewhere: bool) -> None:
    async def attack(first: Replica, second: Replica) -> None:
        browser = Browser()
        copy = await browser.sign_in(first)
        thiefs = second if elsewhere else first
        assert isinstance(await thiefs.ask(copy), Identity)
        await asyncio.sleep(1.0)
        assert isinstance(await browser.ask(first), Identity)
        assert browser.header != copy
        assert isinstance(await browser.ask(first), Identity)  # the newer one is shown here
        await thiefs.sessions.look()
        deadline = time.monotonic() + 1.0 + 5.0  # PROXY_SESSION_REFRESH, and what the machine takes
        while isinstance(await thiefs.ask(copy), Identity):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert isinstance(await browser.ask(first), Identity)

    given = settings(
        tmp_path, session_refresh=1.0, cookie_secret=OLD, database_url=f"sqlite:///{tmp_path}/shared.db"
    )
    with replicas(given, given, provider=ObedientProvider()) as (first, second):
        asyncio.run(attack(first, second))


def test_rotating_the_secret_signs_nobody_out(tmp_path: Path) -> None:
    provider = ObedientProvider()

    def given(secret: str) -> Replica:
        return Replica(settings(tmp_path, cookie_secret=secret, session_refresh=0.2), provider)

    async def rotate() -> None:
        browser = Browser()
        for secret in (OLD, f"{NEW},{OLD}", f" {NEW} , {OLD} ", NEW):
            replica = given(secret)
            if browser.header is None:
                await browser.sign_in(replica)
            assert isinstance(await browser.ask(replica), Identity)
            await asyncio.sleep(0.25)
            # Renewed by use: what was signed and encrypted with the old one is so with the new one now.
            assert isinstance(await browser.ask(replica), Identity)
            replica.store.close()
        assert [tokens.refresh_token for tokens in provider.asked] == [f"refresh-{n}" for n in range(1, 9)][
            : len(provider.asked)
        ]
        assert len(provider.asked) >= 4

    asyncio.run(rotate())


def test_a_secret_that_was_dropped_opens_nothing(tmp_path: Path) -> None:
    async def attack(before: Replica, after: Replica) -> None:
        browser = Browser()
        await browser.sign_in(before)
        assert is_refused(await browser.ask(after))

    with replicas(
        settings(tmp_path, cookie_secret=OLD), settings(tmp_path, cookie_secret=f"{NEW},{OTHER}")
    ) as (before, after):
        asyncio.run(attack(before, after))


def test_what_the_database_holds_makes_no_cookie(tmp_path: Path) -> None:
    """Who reads the table, or a backup of it, has ids that no cookie can be made of."""

    async def attack(replica: Replica) -> None:
        name, value = split(await Browser().sign_in(replica))
        (listed,) = await replica.sessions.list_all()
        payload = replica.sessions._cookie.open(value)
        assert payload is not None
        assert listed.id != payload.key
        _, made = split(replica.sessions._cookie.made(replace(payload, key=listed.id), 60).partition(b";")[0])
        assert not await asked(replica, name, made)

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))


def test_random_cookies_cost_no_query(tmp_path: Path) -> None:
    """What is not signed by us is refused without the database, so that it can't be kept busy with it."""

    async def attack(replica: Replica) -> None:
        name, value = split(await Browser().sign_in(replica))
        replica.store.close()
        for _ in range(200):
            assert is_refused(await replica.ask(name + b"=" + value[::-1]))
        assert set(replica.results) == {"session wrong"}

    with replicas(settings(tmp_path)) as (replica,):
        asyncio.run(attack(replica))
