"""The generations of MLflow that there are: each is made here, noted for the next start, and ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy.mlflow_server import leftovers
from proxy.mlflow_server.generation import Exit, Generation
from proxy.mlflow_server.launch import GATE
from proxy.mlflow_server.output import Progress, masking, secrets_of
from proxy.mlflow_server.plan import Plan

logger = logging.getLogger("proxy.mlflow_server")


class Starts:
    """Makes generations in `runtime`, the directory of their sockets, and numbers them."""

    def __init__(
        self,
        runtime: Path,
        running_file: Path,
        jobs_token: str,
        observe: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.number = 0
        self._runtime = runtime
        self._running_file = running_file
        self._jobs_token = jobs_token
        self._observe = observe
        self._living: list[Generation] = []

    def new(self, plan: Plan, *, gated: bool = False, command: list[str] | None = None) -> Generation:
        """The next one, not started yet; with `gated` its job runner waits for ``open_gate``.

        With a `command` it is no MLflow, but something that runs in its place for once, and has number 0.
        """
        if command is None:
            self.number += 1
        number = self.number if command is None else 0
        socket = self._runtime / f"g{number}.sock"
        gate = {GATE: str(self._gate(number))} if gated else {}
        return Generation(
            number,
            socket,
            plan.command(socket) if command is None else command,
            {**plan.environment, **gate},
            plan.settings.grace_seconds,
            Progress(plan.database),
            masking([*secrets_of(plan.uri), plan.uri, self._jobs_token]),
            lambda line: self._observe("line", {"text": line, "generation": number}),
        )

    async def begin(self, generation: Generation) -> Exit | None:
        """Start its processes; why not, where that can't be done. ``end`` is to be called in any case."""
        self._living.append(generation)
        try:
            self._note()
            await generation.start()
        except OSError as error:
            self._living.remove(generation)
            why = Exit("exited", f"MLflow could not be started: {error.strerror}")
            generation.give_up(why)
            return why
        self._observe("starting", {"generation": generation.number})
        return None

    def open_gate(self, generation: Generation, moment: int) -> None:
        """Let its job runner start; up to `moment` (Unix time in ms) jobs were submitted to others."""
        gate = self._gate(generation.number)
        new = gate.with_suffix(".new")
        new.write_text(str(moment))
        new.rename(gate)

    def renote(self) -> None:
        """Note what is known by now of those that live."""
        try:
            self._note()
        except OSError as error:  # a full disk is no reason to serve nobody
            logger.warning("%s can't be written: %s", self._running_file, error.strerror)

    async def end(self, generation: Generation, grace: float) -> None:
        """End it, within `grace` seconds in good order; where that was done before, nothing more is done."""
        if generation not in self._living:
            return
        await generation.end(grace)
        self._gate(generation.number).unlink(missing_ok=True)
        with contextlib.suppress(ValueError):
            self._living.remove(generation)

    def forget(self) -> None:
        """Nothing is left that a next start would have to end."""
        self._running_file.unlink(missing_ok=True)

    def _gate(self, number: int) -> Path:
        return self._runtime / f"g{number}.jobs"

    def _note(self) -> None:
        starts = [leftovers.Start(one.marker, one.job_storage) for one in self._living]
        leftovers.write(self._running_file, self._runtime, starts)
