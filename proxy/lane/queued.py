"""One plain request that waits for a place in MLflow, and is sent in the very call that gives it one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from proxy.exchange import Refused
from proxy.forward import ClientGone, revoked
from proxy.lane.crossing import Request, raising
from proxy.slots import Outcome, Slots
from proxy.watchdog import Passage

if TYPE_CHECKING:
    from proxy.lane.lane import Lane


class Queued(Passage):
    """Such a request; `wait` begins. Raises Refused (503) when too many wait already."""

    __slots__ = ("_began", "_lane", "_line", "_request", "_slots", "_under_way")

    def __init__(self, lane: Lane, request: Request, slots: Slots) -> None:
        ours, exchange = lane.forwarder, request.exchange
        super().__init__(
            None,
            exchange,
            abandon_for=ours.rules.abandoned,
            stall=ours.rules.stall,
            unsent=request.client.unsent,
        )
        assert exchange.identity is not None
        self._lane = lane
        self._request = request
        self._slots = slots
        self._began = time.perf_counter()
        self._under_way = True
        self._line = ours.hold.line_up(
            slots, exchange.identity.user, browser=exchange.user_agent.startswith("Mozilla/")
        )

    def wait(self) -> None:
        """Be told when there is a place, or none to be had."""
        ours, request = self._lane.forwarder, self._request
        ours.hold.take(len(request.body))
        ours.watchdog.passages.add(self)
        request.client.crossing = self
        self._line.waiter.done.add_done_callback(self._told)

    def _told(self, done: asyncio.Future[Outcome]) -> None:
        if not self._under_way:
            return  # it was left, or something else has come first
        self._stop()
        lane, request, trace = self._lane, self._request, self.exchange.trace
        if trace is not None:
            trace.waited("place", self._began)
        try:
            self._line.taken()
        except Refused as refused:
            self._end(refused)
            return
        if lane.forwarder.hold.mlflow.up and lane.send(request):
            return
        assert self.exchange.identity is not None
        self._slots.leave(self.exchange.identity.user)
        lane.carry_on(request, lane.forwarder, request.body)

    def _stop(self) -> None:
        ours, request = self._lane.forwarder, self._request
        self._under_way = False
        request.client.crossing = None
        ours.watchdog.passages.discard(self)
        ours.hold.give(len(request.body))

    def carry_on(self) -> None:
        """Go the ordinary way from its beginning, and wait there; or end, where `why` says so."""
        if not self._under_way:
            return
        self._stop()
        self._line.leave()
        if self.why is not None:
            self.exchange.error = self.why
            self._end(revoked() if self.why == "revoked" else ClientGone())
            return
        self._lane.carry_on(self._request, self._lane.forwarder, self._request.body)

    def _end(self, error: Refused | ClientGone) -> None:
        self.exchange.bytes_in = len(self._request.body)
        self._lane.carry_on(self._request, raising(error), b"")

    def stop(self) -> None:
        """End it: `why` tells."""
        self.carry_on()
