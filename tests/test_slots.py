"""Places in MLflow: whose turn it is, how many one user may have, and that none is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from proxy.exchange import Exchange, Refused
from proxy.hold import Hold
from proxy.identity import Identity, Role
from proxy.slots import Outcome, Slots, Waiter


class Up:
    """MLflow that is up, and takes jobs."""

    up = True
    reason = ""

    async def wait_up(self, timeout: float) -> bool:  # noqa: ASYNC109
        return True


def holding(requests: int = 1000, seconds: float = 5) -> Hold:
    return Hold(Up(), requests=requests, seconds=seconds, held_bytes=1)  # type: ignore[arg-type]


def of(user: str, program: str = "python") -> Exchange:
    exchange = Exchange("GET", "/", 0, 0)
    exchange.identity = Identity(user, Role.EDITOR, "basic")
    exchange.user_agent = program
    return exchange


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def granted(waiters: list[tuple[str, Waiter]]) -> list[str]:
    return [name for name, waiter in waiters if waiter.done.done() and waiter.done.result() is Outcome.IN]


@in_loop
async def test_users_take_turns_and_each_of_them_is_served_in_order() -> None:
    slots = Slots(1)
    assert slots.enter("first")
    order: list[str] = []
    waiters = [(name, slots.line_up(name[0], browser=False)) for name in ("a1", "a2", "a3", "b1", "c1", "b2")]
    user = "first"
    for _ in range(6):
        slots.leave(user)
        order += [name for name in granted(waiters) if name not in order]
        user = order[-1][0]
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    slots.leave(user)
    assert slots.used == 0


@in_loop
async def test_a_person_and_their_own_programs_take_turns() -> None:
    slots = Slots(1)
    assert slots.enter("a")
    waiters = [(f"p{n}", slots.line_up("a", browser=False)) for n in range(5)]
    waiters += [(f"b{n}", slots.line_up("a", browser=True)) for n in range(2)]
    order: list[str] = []
    for _ in range(7):
        slots.leave("a")
        order += [name for name in granted(waiters) if name not in order]
    assert order == ["p0", "b0", "p1", "b1", "p2", "p3", "p4"]


@in_loop
async def test_one_user_has_no_more_places_than_one_may_and_the_next_users_are_free() -> None:
    slots = Slots(4, 2)
    assert [slots.enter("a") for _ in range(3)] == [True, True, False]
    waiter = slots.line_up("a", browser=False)
    assert slots.waiting() == {"place": 0, "user": 1}
    assert slots.users_held_up() == 1
    assert slots.enter("b")
    slots.leave("b")
    assert not waiter.done.done(), "a place of others' is not this user's"
    slots.leave("a")
    assert waiter.done.result() is Outcome.IN
    assert slots.used == 2


@in_loop
async def test_a_user_at_the_limit_is_passed_over() -> None:
    slots = Slots(3, 2)
    assert [slots.enter(user) for user in "aab"] == [True] * 3
    first, second = slots.line_up("a", browser=False), slots.line_up("b", browser=False)
    slots.leave("b")
    assert (first.done.done(), second.done.done()) == (False, True)


@in_loop
async def test_a_place_granted_to_one_that_has_just_left_goes_to_the_next() -> None:
    hold, slots = holding(), Slots(1)
    assert slots.enter("x")
    arrived: list[str] = []

    async def ask(user: str) -> None:
        async with hold.place(slots, of(user)):
            arrived.append(user)

    gone, next_one = asyncio.create_task(ask("a")), asyncio.create_task(ask("b"))
    await asyncio.sleep(0)
    slots.leave("x")  # a has the place, and has not run since
    gone.cancel()
    await next_one
    assert arrived == ["b"]
    assert (slots.used, hold.waiting) == (0, 0)
    assert slots.waiting() == {"place": 0, "user": 0}

    assert slots.enter("x")
    gone, next_one = asyncio.create_task(ask("a")), asyncio.create_task(ask("b"))
    await asyncio.sleep(0)
    gone.cancel()  # it is cancelled, and has not run since
    slots.leave("x")
    await next_one
    assert (slots.used, hold.waiting) == (0, 0)


@in_loop
async def test_one_that_leaves_while_it_waits_is_forgotten_at_once() -> None:
    hold, slots = holding(), Slots(1)
    assert slots.enter("x")

    async def ask() -> None:
        async with hold.place(slots, of("a")):
            pass

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    assert slots.waiting() == {"place": 1, "user": 0}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert slots.waiting() == {"place": 0, "user": 0}
    assert hold.waiting == 0


@in_loop
async def test_nobody_gives_way_to_one_who_would_have_as_many_waiting_then() -> None:
    hold, slots = holding(requests=3), Slots(1)
    assert slots.enter("x")

    async def ask(user: str) -> str:
        try:
            async with hold.place(slots, of(user)):
                return user
        except Refused as refused:
            return refused.message

    tasks = [asyncio.create_task(ask(user)) for user in "aab"]
    await asyncio.sleep(0)
    assert "waiting already" in await ask("b")
    slots.leave("x")
    assert await asyncio.gather(*tasks) == ["a", "a", "b"]


@in_loop
async def test_the_queue_is_full_for_whoever_filled_it_and_for_nobody_else() -> None:
    hold, slots = holding(requests=4), Slots(1)
    assert slots.enter("x")

    async def ask(user: str) -> str:
        try:
            async with hold.place(slots, of(user)):
                return user
        except Refused as refused:
            return refused.message

    many = [asyncio.create_task(ask("a")) for _ in range(4)]
    await asyncio.sleep(0)
    assert "4 requests are waiting already" in await ask("a")
    one = asyncio.create_task(ask("b"))
    await asyncio.sleep(0)
    assert "gave way" in await many.pop()
    another = asyncio.create_task(ask("b"))
    await asyncio.sleep(0)
    assert "gave way" in await many.pop()
    assert "waiting already" in await ask("b"), "as many of b's wait as of a's"
    slots.leave("x")
    assert await asyncio.gather(*many, one, another) == ["a", "a", "b", "b"]
    assert (slots.used, hold.waiting) == (0, 0)


@in_loop
async def test_a_wait_that_is_too_long_says_whose_fault_it_is() -> None:
    hold, slots = holding(seconds=0.05), Slots(2, 1)
    assert slots.enter("a")
    with pytest.raises(Refused, match=r"1 requests of yours.*PROXY_USER_CONCURRENCY") as mine:
        async with hold.place(slots, of("a")):
            pass
    assert (mine.value.status, mine.value.retry_after, mine.value.reason) == (503, 2, "overloaded")
    assert slots.enter("b")
    with pytest.raises(Refused, match="busy with other requests"):
        async with hold.place(slots, of("c")):
            pass
    assert (hold.waited["user"], hold.waited["place"]) == (1, 1)
    assert (slots.used, hold.waiting) == (2, 0)


@in_loop
async def test_a_place_within_another_kind_takes_both_and_gives_both_back() -> None:
    hold, every = holding(seconds=0.05), Slots(2)
    some = Slots(1, within=every)
    async with hold.place(some, of("a")):
        assert (some.used, every.used) == (1, 1)
    assert (some.used, every.used) == (0, 0)
    assert every.enter("x")
    assert every.enter("y")
    with pytest.raises(Refused):
        async with hold.place(some, of("a")):
            pass
    assert (some.used, every.used) == (0, 2)


@in_loop
async def test_whatever_clients_do_no_place_is_lost_and_none_is_given_twice() -> None:
    chance = random.Random(5)
    hold, slots = holding(requests=30, seconds=0.02), Slots(5, 3)
    inside: dict[str, int] = dict.fromkeys("abc", 0)
    most = [0, 0]

    async def ask(user: str) -> None:
        try:
            async with hold.place(slots, of(user, chance.choice(["python", "Mozilla/5.0"]))):
                inside[user] += 1
                try:
                    most[0] = max(most[0], sum(inside.values()))
                    most[1] = max(most[1], *inside.values())
                    await asyncio.sleep(chance.random() / 200)
                finally:
                    inside[user] -= 1
        except Refused:
            pass

    tasks: list[asyncio.Task[None]] = []
    for _ in range(3000):
        tasks.append(asyncio.create_task(ask(chance.choice("aaaabbc"))))
        if chance.random() < 0.3:
            chance.choice(tasks[-30:]).cancel()
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() / 500)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == [5, 3]
    assert (slots.used, hold.waiting, slots.waiting()) == (0, 0, {"place": 0, "user": 0})
    assert slots.enter("a")
