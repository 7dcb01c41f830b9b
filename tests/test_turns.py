"""Whose turn it is among tokens that nobody here knows yet: addresses in turn, and each in its order."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from proxy.auth.login_limits import Attempt, LoginLimits
from proxy.auth.turns import AT_ONCE, WAITING, TooMany, Turns

WINDOW = 300.0


def attempt(network: str, digest: bytes = b"one") -> Attempt:
    return Attempt(network, None, digest)


class Waiting:
    """Those who wait for a turn, by a name that begins with their address; `got` are those who had one."""

    def __init__(self, limits: LoginLimits) -> None:
        self.turns = Turns(limits)
        self.got: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def comes(self, *names: str, digest: bytes = b"one") -> None:
        self._tasks += [asyncio.create_task(self._wait(name, digest)) for name in names]
        await self.settled()

    async def _wait(self, name: str, digest: bytes) -> None:
        assert await self.turns.take(attempt(name[0], digest)) is None
        self.got.append(name)

    async def gives_back(self, network: str) -> None:
        self.turns.give_back(network)
        await self.settled()

    @staticmethod
    async def settled() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def test_addresses_have_their_turns_one_after_the_other() -> None:
    async def test() -> None:
        line = Waiting(LoginLimits(100, WINDOW))
        for _ in range(AT_ONCE):
            assert await line.turns.take(attempt("x")) is None
        await line.comes("a1", "a2", "a3", "b1", "b2", "b3", "c1")
        assert line.got == []
        holders = deque("x" * AT_ONCE)
        for _ in range(7):
            await line.gives_back(holders.popleft())
            holders.append(line.got[-1][0])
        assert line.got == ["a1", "b1", "c1", "a2", "b2", "a3", "b3"]

    asyncio.run(test())


def test_who_may_have_no_more_at_present_keeps_the_place_in_the_line() -> None:
    async def test() -> None:
        limits = LoginLimits(10, WINDOW)
        for number in range(9):
            limits.failed(attempt("a", b"%d" % number))
        line = Waiting(limits)
        for network in ("a", *"x" * (AT_ONCE - 1)):
            assert await line.turns.take(attempt(network)) is None
        await line.comes("a1", "b1", "b2")
        await line.gives_back("x")
        assert line.got == ["b1"], "one wrong token more, and the address of a is stopped"
        await line.gives_back("a")
        assert line.got == ["b1", "a1"]
        await line.leave()

    asyncio.run(test())


def test_nobody_overtakes_those_who_wait_at_the_same_address() -> None:
    async def test() -> None:
        limits = LoginLimits(3, WINDOW)
        limits.failed(attempt("a", b"wrong"))
        limits.failed(attempt("a", b"wrong"))
        line = Waiting(limits)
        assert await line.turns.take(attempt("a")) is None
        await line.comes("a1", digest=b"wrong")  # of which one more is possible, and one is under way
        await line.comes("a2")
        assert line.got == []
        await line.gives_back("a")
        assert line.got == ["a1", "a2"]

    asyncio.run(test())


def test_so_many_wait_and_no_more() -> None:
    async def test() -> None:
        line = Waiting(LoginLimits(10 * WAITING, WINDOW))
        for _ in range(AT_ONCE):
            assert await line.turns.take(attempt("x")) is None
        await line.comes(*(f"a{number}" for number in range(WAITING)))
        with pytest.raises(TooMany):
            await asyncio.wait_for(line.turns.take(attempt("b")), 60)
        await line.gives_back("x")
        assert line.got == ["a0"]
        await line.comes("b1")
        await line.gives_back("x")
        await line.gives_back("x")
        assert line.got == ["a0", "a1", "b1"]
        await line.leave()

    asyncio.run(test())
