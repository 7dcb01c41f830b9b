"""Requests that wait: for MLflow to be up, for a place in it, and for memory to hold their bodies."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from contextlib import AbstractContextManager
from typing import Protocol

from proxy.exchange import Exchange, Refused
from proxy.slots import Outcome, Slots

__all__ = ["Hold", "Mlflow", "Submissions"]

RETRY_SECONDS = 0.05


REASONS = frozenset({"mlflow", "again", "jobs", "place", "user"})
"""What requests wait for, a closed set.

mlflow: that it is up; again: a while, before it is asked the same again; jobs: until they may be submitted;
place: a place in MLflow; user: the same, their user having as many as one may."""


class Submissions(Protocol):
    """Who submits jobs, and whether that has to wait (proxy.mlflow_server.jobs)."""

    @property
    def paused(self) -> bool: ...
    async def wait(self, seconds: float) -> bool: ...
    def one(self) -> AbstractContextManager[None]: ...


class Mlflow(Protocol):
    """What a waiting request needs to know of MLflow's process."""

    @property
    def up(self) -> bool:
        """Whether a generation has taken the socket and lives."""

    @property
    def reason(self) -> str:
        """Why it is not ready, for a person."""

    async def wait_up(self, timeout: float) -> bool:  # noqa: ASYNC109 - the caller's patience is the point
        """Wait for `up`, at most that many seconds."""

    @property
    def submissions(self) -> Submissions: ...


class Hold:
    """The bounds on waiting. `requests` may wait at once, each for `seconds`; all hold `held_bytes` at most.

    Where more wait than may, the newest request of the user with the most that wait for a place gives way to
    one of a user with fewer: whoever fills the queue does not shut out the others.
    """

    def __init__(self, mlflow: Mlflow, *, requests: int, seconds: float, held_bytes: int) -> None:
        self.mlflow = mlflow
        self._requests = requests
        self.seconds = seconds
        self._bytes = held_bytes
        self.waiting = 0
        """How many requests wait now, for whatever it is."""
        self.waited = Counter(dict.fromkeys(sorted(REASONS), 0))
        """How many waits there were so far, by REASONS."""
        self._waits = self.waited.copy()
        self._slots: list[Slots] = []
        self.bytes_held = 0
        """How many bytes of request bodies are in memory now, held or on their way."""

    async def until_up(self, since: float) -> None:
        """Wait until MLflow takes connections; `since` (loop time) is when this request began to wait.

        Raises Refused (503) when the wait is too long or too many wait already.
        """
        if self.mlflow.up:
            return
        left = self._left(since)
        with self._one_more("mlflow"):
            up = left > 0 and await self.mlflow.wait_up(left)
        if not up:
            raise self._not_ready(self.mlflow.reason)

    async def a_moment(self, since: float) -> None:
        """Wait a little, where MLflow is said to be up and takes no connection; raises as `until_up` does."""
        if self._left(since) <= 0:
            raise self._not_ready("it takes no connection")
        with self._one_more("mlflow"):
            await asyncio.sleep(RETRY_SECONDS)

    async def pause(self, since: float, seconds: float) -> bool:
        """Wait so long, before MLflow is asked the same again; False at once where the wait since `since`
        would be too long. Raises Refused (503) when too many wait already."""
        if self._left(since) <= seconds:
            return False
        with self._one_more("again"):
            await asyncio.sleep(seconds)
        return True

    def _left(self, since: float) -> float:
        return since + self.seconds - asyncio.get_running_loop().time()

    def _not_ready(self, reason: str) -> Refused:
        return Refused(
            503,
            f"MLflow is not ready: {reason}. This request was held for "
            f"{self.seconds:g} s and was not sent. Try again.",
            reason="not_ready",
            retry_after=min(30, math.ceil(self.seconds)),
        )

    def room_for(self, size: int) -> bool:
        """Whether `take` would count so many bytes in."""
        return self.bytes_held + size <= self._bytes

    def take(self, size: int) -> None:
        """Count `size` bytes of a body into memory; `give` takes them out. Raises Refused (503)."""
        if not self.room_for(size):
            raise _overloaded(
                "The server holds as many bytes of request bodies as it may (PROXY_BUFFER_BYTES). Try again."
            )
        self.bytes_held += size

    def give(self, size: int) -> None:
        self.bytes_held -= size

    def place(self, slots: Slots | None, exchange: Exchange | None = None, *, taken: bool = False) -> Place:
        """A place in MLflow, to be held by ``async with``; none is needed where `slots` is None, or it was
        `taken` before: then it is only given back.

        Those that wait for one get it by turns of users; whose request it is, `exchange` says. One that
        submits a job waits here, too, while that has to wait. Raises Refused (503) when too many wait
        already, or when the wait is too long.
        """
        return Place(self, slots, exchange, taken=taken)

    def waiting_for(self) -> Counter[str]:
        """How many wait now, by REASONS."""
        now = self._waits.copy()
        for slots in self._slots:
            now.update(slots.waiting())
        return now

    def users_held_up(self) -> int:
        """Users who have as many requests in MLflow as one may, and more that wait."""
        return sum(slots.users_held_up() for slots in self._slots)

    def line_up(self, slots: Slots, user: str, *, browser: bool) -> InLine:
        """Begin to wait for a place, where `Slots.enter` said no. Raises Refused (503) when too many wait."""
        if slots not in self._slots:
            self._slots.append(slots)
        return InLine(self, slots, user, browser=browser)

    async def until_jobs(self, submissions: Submissions) -> None:
        """Wait until jobs may be submitted. Raises Refused (503) when that takes too long."""
        deadline = asyncio.get_running_loop().time() + self.seconds
        with self._one_more("jobs"):
            while submissions.paused:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 or not await submissions.wait(left):
                    raise self._not_ready("its jobs are being handed over to another process")

    def _one_more(self, why: str) -> _Waiting:
        self.make_room("")
        return _Waiting(self, why)

    def make_room(self, user: str) -> None:
        """See to it that one more of that user may wait. Raises Refused (503)."""
        if self.waiting >= self._requests and not any(slots.make_room(user) for slots in self._slots):
            raise _overloaded(
                f"{self.waiting} requests are waiting already (PROXY_HOLD_REQUESTS). Try again."
            )

    def count(self, why: str, number: int) -> None:
        self.waiting += number
        self._waits[why] += number
        self.waited[why] += max(0, number)


class InLine:
    """One request that waits for a place (Hold.line_up), until one of its methods has ended that."""

    __slots__ = ("_held_up", "_hold", "_slots", "_timer", "waiter")

    def __init__(self, hold: Hold, slots: Slots, user: str, *, browser: bool) -> None:
        hold.make_room(user)
        self._hold = hold
        self._slots = slots
        self._held_up = slots.held_up(user)
        hold.waited["user" if self._held_up else "place"] += 1
        hold.waiting += 1
        self.waiter = slots.line_up(user, browser=browser)
        self._timer = asyncio.get_running_loop().call_later(hold.seconds, slots.too_late, self.waiter)

    async def over(self) -> None:
        """Wait for the place and take it. Raises Refused (503) as `Hold.place` does."""
        try:
            outcome = await self.waiter.done
        except asyncio.CancelledError:
            self._slots.forget(self.waiter)
            raise
        finally:
            self._end()
        self._check(outcome)

    def taken(self) -> None:
        """The waiter is done: take its place. Raises Refused (503) where there is none."""
        self._end()
        self._check(self.waiter.done.result())

    def leave(self) -> None:
        """Wait no longer, and have no place."""
        self._slots.forget(self.waiter)
        self._end()

    def _end(self) -> None:
        self._timer.cancel()
        self._hold.waiting -= 1

    def _check(self, outcome: Outcome) -> None:
        if outcome is Outcome.IN:
            return
        seconds = self._hold.seconds
        if outcome is Outcome.GAVE_WAY:
            why = "As many requests wait as may (PROXY_HOLD_REQUESTS), most of them yours; this one gave way"
        elif self._held_up:
            why = (
                f"{self._slots.per_user} requests of yours, as many as one user may have in MLflow "
                f"(PROXY_USER_CONCURRENCY), have kept this one waiting for {seconds:g} s; it"
            )
        else:
            why = f"MLflow has been busy with other requests for {seconds:g} s; this one"
        raise _overloaded(f"{why} was not sent. Try again.")


class Place:
    """A place in MLflow while its ``async with`` lasts (Hold.place)."""

    __slots__ = ("_browser", "_hold", "_one", "_operation", "_slots", "_taken", "_trace", "_user")

    def __init__(self, hold: Hold, slots: Slots | None, exchange: Exchange | None, *, taken: bool) -> None:
        self._hold = hold
        self._slots = None if taken else slots
        self._operation = None if exchange is None else exchange.operation
        self._trace = None if exchange is None else exchange.trace
        identity = None if exchange is None else exchange.identity
        self._user = "" if identity is None else identity.user
        # Within one user alone: nobody gains by a false name for a program.
        self._browser = exchange is not None and exchange.user_agent.startswith("Mozilla/")
        self._taken: list[Slots] = [slots] if taken and slots is not None else []
        self._one: AbstractContextManager[None] | None = None

    async def __aenter__(self) -> None:
        slots = self._slots
        began = 0.0 if self._trace is None else time.perf_counter()
        try:
            while slots is not None:
                if not slots.enter(self._user):
                    await self._hold.line_up(slots, self._user, browser=self._browser).over()
                self._taken.append(slots)
                slots = slots.within
            if self._operation is not None and self._operation.submits_job:
                submissions = self._hold.mlflow.submissions
                if submissions.paused:
                    await self._hold.until_jobs(submissions)
                self._one = submissions.one()
                self._one.__enter__()
        except BaseException:
            self._leave()
            raise
        finally:
            if self._trace is not None:
                self._trace.waited("place", began)

    async def __aexit__(self, *_: object) -> None:
        if self._one is not None:
            self._one.__exit__(None, None, None)
        self._leave()

    def _leave(self) -> None:
        while self._taken:
            self._taken.pop().leave(self._user)


class _Waiting:
    __slots__ = ("_hold", "_why")

    def __init__(self, hold: Hold, why: str) -> None:
        self._hold = hold
        self._why = why

    def __enter__(self) -> None:
        self._hold.count(self._why, 1)

    def __exit__(self, *_: object) -> None:
        self._hold.count(self._why, -1)


def _overloaded(message: str) -> Refused:
    return Refused(503, message, reason="overloaded", retry_after=2)
