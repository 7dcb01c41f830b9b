"""One request's trip to MLflow and back: body, wait, place, head, answer; and again where that is safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy import headers as header_rules
from proxy.bodies import target_of
from proxy.exchange import Refused
from proxy.forward import endings
from proxy.forward.clock import Clock
from proxy.forward.endings import ClientGone, CutShort
from proxy.forward.incoming import Incoming, Unavailable
from proxy.forward.outgoing import Outgoing
from proxy.forward.resending import (
    CRASHES,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    TRIES,
    Decision,
    Failure,
    Kept,
    Phase,
    given_up,
    may_resend,
)
from proxy.http1 import Broken, Connection
from proxy.identity import identity_of
from proxy.operations import Access, Operation
from proxy.watchdog import Passage

if TYPE_CHECKING:
    from proxy.forward.forwarder import Forwarder

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The audit log says what such an operation was about.
TOLD_OF = frozenset({Access.DELETE, Access.DESTROY, Access.ADMIN})


class Sent(NamedTuple):
    """A request that somebody else (proxy.lane) has sent to MLflow whole, with a place taken for it."""

    passage: Passage
    connection: Connection
    body: bytes
    in_memory: int
    """Bytes of it that were counted as held."""


class Trip:
    """One request through a Forwarder; its steps in the order of `run`."""

    __slots__ = (
        "_body",
        "_breaks",
        "_clock",
        "_connection",
        "_crashes",
        "_exchange",
        "_forwarder",
        "_incoming",
        "_last",
        "_loop",
        "_may_have_acted",
        "_operation",
        "_passage",
        "_pause_seconds",
        "_scope",
        "_sent",
        "_since",
    )

    def __init__(
        self,
        forwarder: Forwarder,
        scope: Scope,
        receive: Receive,
        send: Send,
        passage: Passage,
        sent: Sent | None,
    ) -> None:
        self._forwarder = forwarder
        self._scope = scope
        self._sent = sent
        self._passage = passage
        self._exchange = passage.exchange
        operation = passage.exchange.operation
        assert operation is not None
        self._operation: Operation = operation
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(passage, forwarder.rules.stall)
        self._body = Outgoing(forwarder, scope["headers"], receive, passage, self._clock)
        self._incoming = Incoming(
            forwarder,
            scope["method"],
            scope["headers"],
            send,
            scope.get("give"),
            passage,
            self._clock,
            self._body.close,
            self._give_back,
        )
        self._connection: Connection | None = None
        self._last: Failure | Unavailable | None = None
        """What failed the last time that it was sent."""
        self._since = 0.0
        """Loop time from which on it waits: since its body was there, or since something failed first."""
        self._breaks = self._crashes = 0
        self._may_have_acted = False
        self._pause_seconds = FIRST_PAUSE

    async def run(self) -> None:
        sent = self._sent
        if sent is not None:
            self._connection = sent.connection
            self._body.was_sent(sent.body, sent.in_memory)
        elif not self._body.streams:
            self._body.set(self._checked(await self._body.read()))
        self._since = self._loop.time()
        slots, hold = self._forwarder.places.of(self._operation), self._forwarder.hold
        while True:
            try:
                async with hold.place(slots, self._exchange, taken=sent is not None):
                    if sent is not None:
                        connection, sent = sent.connection, None
                        if self._passage.why is not None:
                            self.fail(self._passage.why)
                        await self._take(connection)
                    else:
                        await self._ask(await self._connect())
                break
            except Broken as broken:
                await self._after(_failure(broken), broken.reason)
            except Unavailable as answer:
                if not await self._after_unavailable(answer):
                    break
            except Refused:
                # Too long a wait, or too many that wait.
                if isinstance(self._last, Unavailable):
                    await self._say(self._last)
                    break
                if self._may_have_acted or self._incoming.begun:
                    self.fail("reset")
                raise
        if self._exchange.abandoned:
            raise Broken("client_gone")

    # Steps.

    def _checked(self, body: bytes) -> bytes:
        """The body to send; what it is about is noted for the audit log."""
        operation, exchange = self._operation, self._exchange
        if operation.access in TOLD_OF:
            exchange.target = target_of(operation, exchange.path, self._scope["query_string"], body)
        return self._forwarder.verified(exchange, body)

    async def _connect(self) -> Connection:
        """A connection to MLflow, waiting while it is away."""
        ours = self._forwarder
        began = time.perf_counter()
        try:
            while True:
                await ours.hold.until_up(self._since)
                try:
                    self._connection = await ours.pool.acquire()
                    return self._connection
                except Broken:
                    # Its end has not been noticed yet, or it has just been replaced.
                    await ours.hold.a_moment(self._since)
        finally:
            self._waited("mlflow", began)

    async def _ask(self, connection: Connection) -> None:
        """Send the request, and pass the answer on. Raises Broken and Unavailable."""
        if self._exchange.mlflow_started is None:
            self._exchange.mlflow_started = time.perf_counter()
        connection.send_head(self._head(), head_only=self._scope["method"] == "HEAD")
        self._body.send(connection)
        if not self._body.streams:
            self._passage.left_with_mlflow = not self._operation.native
            self._clock.mlflow(self._forwarder.rules.answer)
        await self._take(connection)

    async def _take(self, connection: Connection) -> None:
        """Pass the answer on. Raises Broken and Unavailable."""
        await connection.head()
        if not self._body.answered():
            connection.reusable = False
        await self._incoming.take(connection)

    def _head(self) -> bytes:
        exchange = self._exchange
        target: bytes = self._scope["raw_path"]
        if query := self._scope["query_string"]:
            target = b"%s?%s" % (target, query)
        asked = self._scope["headers"]
        if (rest := self._incoming.rest) is not None:
            asked = rest.asking(asked)
        return header_rules.head(
            self._scope["method"],
            target,
            header_rules.for_mlflow(
                asked,
                exchange,
                identity_of(self._scope),
                authority=self._forwarder.rules.authority,
                gateway=exchange.path.startswith("/gateway/"),
                provider_key=self._scope.get("provider_key", False),
                body_length=self._body.length,
                chunked=self._body.chunked,
            ),
        )

    # What failed, and what then.

    async def _after(self, failure: Failure, why: str) -> None:
        """Return where the request is to be sent again; else raises what ends it."""
        await self._broken_off()
        if self._incoming.moved:
            self._incoming.moved = False
            self._last, self._breaks = None, 0
        self._failed(failure)
        self._breaks += 1
        decision = self._decision(failure)
        if decision is Decision.CUT and self._incoming.rest is not None and self._body.kept is Kept.NONE:
            decision = Decision.AGAIN
        if decision is not Decision.AGAIN or self._breaks >= TRIES:
            self.fail(why)
        self._note("continued" if self._incoming.begun else _REASONS[failure])

    async def _after_unavailable(self, answer: Unavailable) -> bool:
        """Whether MLflow is to be asked again; else its answer has been passed on."""
        await self._broken_off()
        self._failed(answer)
        crashed = answer.failure is Failure.CRASHED
        self._crashes += crashed
        decision = self._decision(answer.failure)
        if decision is Decision.AGAIN and self._crashes < CRASHES and await self._pause():
            self._note("crashed" if crashed else "unavailable")
            return True
        await self._say(answer)
        return False

    async def _pause(self) -> bool:
        """Wait a little, the next time longer; False where there is no time or no room to wait."""
        seconds = self._pause_seconds
        self._pause_seconds = min(2 * seconds, LONGEST_PAUSE)
        began = time.perf_counter()
        try:
            return await self._forwarder.hold.pause(self._since, seconds)
        except Refused:
            return False
        finally:
            self._waited("again", began)

    def _waited(self, why: str, began: float) -> None:
        """Note, for the trace, that it waited from then on until now."""
        trace = self._exchange.trace
        if trace is not None:
            trace.waited(why, began)

    async def _say(self, answer: Unavailable) -> None:
        """Pass MLflow's last word on, unless its client would repeat what may have been done."""
        if given_up(self._operation, self._body.phase, answer.failure) is Decision.UNKNOWN:
            self.fail("failed")
        await self._incoming.say(answer.status, answer.headers, answer.body)

    def _failed(self, what: Failure | Unavailable) -> None:
        if self._last is None:
            self._since = self._loop.time()
        self._last = what
        of = what.failure if isinstance(what, Unavailable) else what
        if of is not Failure.UNREAD and of is not Failure.NOT_TAKEN and self._body.phase is Phase.WHOLE:
            self._may_have_acted = True

    def _decision(self, failure: Failure) -> Decision:
        phase = Phase.BEGUN if self._incoming.begun else self._body.phase
        return may_resend(self._operation, phase, failure, self._body.kept)

    async def _broken_off(self) -> None:
        """Leave the connection, and nobody in MLflow."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        await self._body.stop()
        self._passage.left_with_mlflow = False
        if self._exchange.abandoned:
            raise Broken("client_gone")
        self._clock.stop()

    def _note(self, reason: str) -> None:
        if self._exchange.resent is None:
            self._exchange.resent = []
        self._exchange.resent.append(reason)

    # The end.

    def _give_back(self, connection: Connection) -> None:
        self._exchange.mlflow_ended = time.perf_counter()
        self._connection = None
        self._passage.left_with_mlflow = False
        self._forwarder.pool.release(connection)

    def clean_up(self) -> None:
        """Whatever happened: no connection, task or counted byte stays behind."""
        if self._exchange.mlflow_started is not None and self._exchange.mlflow_ended is None:
            self._exchange.mlflow_ended = time.perf_counter()
        self._body.close()
        if self._connection is not None:
            self._connection.close()

    def fail(self, why: str) -> None:
        """Raise what ends the exchange: an answer of ours, or, once one has begun, its cutting off."""
        self._exchange.error = why
        if why == "client_gone":
            raise ClientGone
        if self._incoming.begun:
            raise CutShort
        if why == "revoked":
            raise endings.revoked()
        if why == "client_stalled":
            raise endings.client_stalled()
        if self._may_have_acted:
            decision = Decision.UNKNOWN
        else:
            failure = self._last if isinstance(self._last, Failure) else Failure.SILENT
            failure = Failure.SILENT if why == "stalled" else failure
            decision = given_up(self._operation, self._body.phase, failure)
        raise endings.given_up(self._operation, decision, why, self._forwarder.spool.each)


_REASONS = {Failure.UNREAD: "unread", Failure.RESET: "reset"}


def _failure(broken: Broken) -> Failure:
    if broken.unread:
        return Failure.UNREAD
    return Failure.BAD_ANSWER if broken.reason == "bad_answer" else Failure.RESET
