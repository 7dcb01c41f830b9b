"""Looks again and again whether MLflow answers and its database is reached, and says what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import NamedTuple

from proxy import guard
from proxy.http1 import Broken, Connection, Pool
from proxy.mlflow_server.output import driver_says, place_of
from proxy.mlflow_server.peers import holder
from proxy.mlflow_server.readiness import PATIENCE, QUESTION, answers

PROBLEMS = frozenset({"away", "frozen", "silent", "worker", "refused", "failed"})
"""What can be wrong, a closed set.

away: MLflow says that its database can't be reached; frozen: MLflow lives, and a call that reaches the
database is not answered; silent: it takes connections and answers nothing; worker: one of its processes does
so while others answer; refused: it takes no connection; failed: it answers with an error of another kind.
"""
STUCK = frozenset({"frozen", "silent", "worker"})
"""Those that may not end by themselves, and that another process may not have."""

LINES_A_WORKER = 3
"""Connections asked on, for each worker process where there are several. Which of them takes a connection is
chance, and one that hangs may take none any more: so each is to have one beforehand, and it is kept."""
MOST_SAID = 65536
"""Bytes of an answer that are looked at for the reason of an error."""
FIRST_WAIT, LONGEST_WAIT = 60.0, 3600.0
"""Seconds before a stuck MLflow is replaced once more; doubled each time."""


class Problem(NamedTuple):
    """What is wrong, by PROBLEMS, with a text for anybody to read: without MLflow's own words, which hold
    addresses and SQL."""

    kind: str
    text: str
    reason: str = ""
    """What MLflow gives for it, in a line for the log; empty where it says nothing."""


class Probe:
    """Asks one generation of MLflow. `uri` is its database's, `workers` how many processes answer, and `pace`
    tells the seconds between two rounds and the seconds that an answer may take. In `noticed` it counts by
    PROBLEMS how many times each began."""

    def __init__(
        self,
        socket: Path,
        uri: str,
        workers: int,
        pace: Callable[[], tuple[float, float]],
        noticed: Counter[str],
    ) -> None:
        self.problem: Problem | None = None
        self.latency: float | None = None
        """Seconds that the slowest answer of the latest round took; None where none came."""
        self._noticed = noticed
        self._socket = socket
        self._uri = uri
        self._database = place_of(uri)
        self._workers = workers
        self._pace = pace
        self._lines: list[_Line] = []
        self._most = 1 if workers == 1 else workers * LINES_A_WORKER
        self._stuck_since: float | None = None

    @property
    def stuck_for(self) -> float:
        """Seconds for which nothing but what is in STUCK was found; 0 where it is not."""
        return 0.0 if self._stuck_since is None else time.monotonic() - self._stuck_since

    @property
    def workers(self) -> set[int]:
        """The worker processes that are asked, where there are several and Linux tells which."""
        return {line.worker for line in self._lines if line.worker is not None}

    async def looks(self) -> AsyncGenerator[Problem | None, None]:
        """What is wrong, after each round, for ever; to be closed with ``aclose``."""
        try:
            while True:
                await self._pause(self._pace()[0])
                began = time.monotonic()
                problem = await self._look(self._pace()[1])
                if problem is not None and (self.problem is None or self.problem.kind != problem.kind):
                    self._noticed[problem.kind] += 1
                if problem is None or problem.kind not in STUCK:
                    self._stuck_since = None
                elif self._stuck_since is None:
                    self._stuck_since = began
                self.problem = problem
                yield problem
        finally:
            for line in self._lines:
                line.close()

    async def _pause(self, seconds: float) -> None:
        """Wait for the next round, which comes earlier where a late answer has arrived."""
        if late := [line.ask() for line in self._lines if not line.answered]:
            await asyncio.wait(late, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)

    async def _look(self, seconds: float) -> Problem | None:
        self._renew()
        await asyncio.wait([line.ask() for line in self._lines], timeout=seconds)
        silent = [line for line in self._lines if not line.answered]
        outcomes = [line.outcome for line in self._lines if line.answered]
        self.latency = max((line.took for line in self._lines if line.answered), default=None)
        if not outcomes:
            if await answers(self._socket, seconds):
                text = f"a call that reaches {self._database} was not answered within {seconds:g} s"
                return Problem("frozen", text)
            return Problem(
                "silent", f"MLflow takes connections and has answered nothing within {seconds:g} s"
            )
        for line in self._lines:
            if line.answered and line.outcome != 200:
                line.close()
        worst = max(outcomes, key=lambda outcome: (outcome != 200, outcome))
        if worst == 0:
            return Problem("refused", "MLflow takes no connection")
        if worst == 503:
            return Problem("away", f"{self._database} can't be reached", self._reason(503))
        if worst != 200:
            text = f"a call that reaches {self._database} was answered with {worst}"
            return Problem("failed", text, self._reason(worst))
        if silent:
            who = {line.worker for line in silent} - {line.worker for line in self._lines if line.answered}
            pids = sorted(pid for pid in who if pid is not None)
            name = f" (process {', '.join(map(str, pids))})" if pids else ""
            text = f"one of MLflow's {self._workers} workers{name} has answered nothing within {seconds:g} s"
            return Problem("worker", f"{text}, while others do")
        return None

    def _reason(self, status: int) -> str:
        """What MLflow says with an answer of that status."""
        said = next(line.said for line in self._lines if line.answered and line.outcome == status)
        try:
            message = json.loads(said)["message"]
        except (ValueError, KeyError, TypeError):
            return ""
        return driver_says(message, self._uri) if isinstance(message, str) else ""

    def _renew(self) -> None:
        """One connection is a new one in each round, so that it is seen whether MLflow takes any. Where a
        worker has but one, that is kept."""
        if len(self._lines) >= self._most:
            has = Counter(line.worker for line in self._lines)
            idle = [line for line in self._lines if line.answered]
            old = next((line for line in idle if line.worker is None or has[line.worker] > 1), None)
            if self._most == 1:
                old = next(iter(idle), None)
            if old is None:
                return
            self._lines.remove(old)
            old.close()
        while len(self._lines) < self._most:
            self._lines.append(_Line(self._socket, one_of_many=self._workers > 1))


class _Line:
    """One connection, and the question that is under way on it."""

    def __init__(self, socket: Path, *, one_of_many: bool) -> None:
        self.worker: int | None = None
        """The process that answers here, where that is asked for and can be known."""
        self._pool = Pool(socket)
        self._one_of_many = one_of_many
        self._connection: Connection | None = None
        self._task: asyncio.Task[int] | None = None
        self._asked = 0.0
        self.took = 0.0
        """Seconds until the latest answer."""
        self.said = b""
        """The beginning of the latest answer's body."""

    @property
    def answered(self) -> bool:
        return self._task is not None and self._task.done()

    @property
    def outcome(self) -> int:
        """The status it was answered with; 0 where no connection was taken."""
        assert self._task is not None
        return self._task.result()

    def ask(self) -> asyncio.Task[int]:
        """Ask, unless the last question still waits for its answer."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._exchange())
        return self._task

    async def _exchange(self) -> int:
        broken = 0
        while broken < 2:  # a kept connection may have been closed by MLflow since it was last used
            self._asked = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    connection = await self._pool.acquire()
                    try:
                        status, self.said = await _answer(connection)
                        if connection is not self._connection:
                            self._connection = connection
                            await self._find_worker(connection)
                    except BaseException:
                        connection.close()
                        raise
                    self._pool.release(connection)
            except TimeoutError:
                continue
            except Broken:
                broken += 1
                continue
            self.took = time.monotonic() - self._asked
            return status
        return 0

    async def _find_worker(self, connection: Connection) -> None:
        if self._one_of_many and connection.transport is not None:
            ours = connection.transport.get_extra_info("socket")
            self.worker = await asyncio.to_thread(_child_at, ours.fileno())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._pool.close()


async def _answer(connection: Connection) -> tuple[int, bytes]:
    connection.send_head(f"GET {QUESTION} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(), head_only=False)
    await connection.head()
    said = b""
    while piece := await connection.piece():
        said += piece[: MOST_SAID - len(said)]
    return connection.status, said


def _child_at(connection: int) -> int | None:
    """The process of those that we started, at the other end of the connection with that descriptor."""
    return holder(connection, guard.descendants(os.getpid()))


class Replacing:
    """When a stuck MLflow is to be replaced: after so many seconds, and ever more rarely where that did not
    mend it."""

    def __init__(self, first_wait: float = FIRST_WAIT) -> None:
        self._first_wait = self._wait = first_wait
        self._not_before = 0.0

    def due(self, stuck_for: float, after: float | None) -> bool:
        """Whether it is now, and counts as done then; `stuck_for` is Probe's, `after` PROXY_STUCK_RESTART."""
        now = time.monotonic()
        if not stuck_for and now > self._not_before:
            self._wait = self._first_wait
        if after is None or stuck_for < after or now < self._not_before:
            return False
        self._not_before = now + self._wait
        self._wait = min(self._wait * 2, LONGEST_WAIT)
        return True
