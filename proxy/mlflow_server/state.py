"""How MLflow is, for whoever asks: up, ready, and what is wrong where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy.mlflow_server.generation import Generation
from proxy.mlflow_server.probing import Problem

logger = logging.getLogger("proxy.mlflow_server")


class State:
    """What MlflowServer says of itself. Only MlflowServer changes it."""

    def __init__(self, socket: Path, observe: Callable[[str, dict[str, Any]], None]) -> None:
        self.socket = socket
        """Where requests go. Missing while nothing is ready; another file (another inode) with each
        generation."""
        self.ready = False
        self.away_since: float | None = None
        """When it was last seen to go, in ``time.monotonic()`` seconds; None where it was never up."""
        self.started_at: float | None = None
        """Unix time at which the running generation was started."""
        self.problem: str | None = None
        """What is wrong with the running generation now, by probing.PROBLEMS."""
        self._observe = observe
        self._current: Generation | None = None
        self._state = "MLflow has not been started"
        self._database_problem: str | None = None
        self._jobs_problem: str | None = None
        self._became_ready = asyncio.Event()
        self._now_up = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of ``mlflow server``; None while it does not run."""
        return self._current.pid if self._current is not None else None

    @property
    def reason(self) -> str:
        """Why it is not ready, for anybody to read; empty where it is."""
        if self.ready:
            return ""
        if self._current is None or self._current.over.done():
            return self._state
        if self._current.ready_since is not None:
            return self._database_problem or ""
        seconds = int(time.monotonic() - self._current.started)
        return f"MLflow is starting: {self._current.progress.step or 'loading'} ({seconds} s)"

    def checks(self) -> dict[str, str | None]:
        """Each check by name: None where it is good, else what is wrong, for anybody to read."""
        current = self._current
        running = current is not None and current.ready_since is not None and not current.over.done()
        mlflow = None if running else self.reason
        return {
            "mlflow": mlflow,
            "database": mlflow or self._database_problem,
            "jobs": mlflow or self._jobs_problem,
        }

    @property
    def up(self) -> bool:
        """Whether a generation has taken the socket: requests reach it, though its database may be away."""
        return self._now_up.is_set()

    async def wait_up(self, timeout: float) -> bool:  # noqa: ASYNC109 - False at the deadline, nothing raised
        """Wait until it is up; False where it is not after so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._now_up.wait(), timeout)
        return self.up

    async def wait_ready(self, timeout: float) -> bool:  # noqa: ASYNC109 - False at the deadline, nothing raised
        """Wait until MLflow is ready; False where it is not after so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._became_ready.wait(), timeout)
        return self.ready

    def _known(self) -> Generation:
        assert self._current is not None
        return self._current

    def _looked(self, found: Problem | None) -> None:
        self.problem = None if found is None else found.kind
        problem = None if found is None else found.text
        if problem != self._database_problem:
            self._database_problem = problem
            if found is not None:
                reason = f": {found.reason}" if found.reason else ""
                logger.warning("MLflow is not ready: %s%s", found.text, reason)
            else:
                logger.info("MLflow is ready again")
            self._observe("database", {"problem": problem})
        # One of several workers that hangs takes its share of the requests, and the others serve.
        self._set_ready(found is None or found.kind == "worker")

    def _wait_for(self, what: str) -> None:
        self._state = what
        self._current = None

    def _show(self, process: Generation) -> None:
        self._current = process

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        if ready:
            self._became_ready.set()
        else:
            self._became_ready.clear()

    def _unready(self, state: str) -> None:
        """Nothing is served any more: no connection may be made to what is ending."""
        self._state = state
        self.problem = None
        self._set_ready(False)
        if self._now_up.is_set():
            self.away_since = time.monotonic()
        self._now_up.clear()
        self.socket.unlink(missing_ok=True)
