"""Runs the checks beside each other, each within its time, and gives what they say in their order."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from proxy.doctor.case import Case
from proxy.doctor.result import Result, failure, skipped
from proxy.errors import UserError

log = logging.getLogger("proxy.doctor")


@dataclass(frozen=True, slots=True)
class Check:
    """One group of things that are looked at together."""

    name: str
    about: str
    """What it looks at, for the help."""
    look: Callable[[Case], Iterable[Result]]
    seconds: Callable[[Case], float]
    """How long all of it may take."""
    needs: tuple[str, ...] = ()
    """The settings without which it can't be done: it is skipped where one of them is wrong."""


@dataclass(slots=True)
class Report:
    """What one check has said."""

    name: str
    results: list[Result]
    seconds: float


def examine(case: Case, checks: Sequence[Check]) -> Iterator[Report]:
    """Run them all at once; a report each, in their order, as soon as it and those before it are complete.

    A check that is not done in time is left to itself, in a thread that ends with the process; what it had
    said counts.
    """
    running = [_Running(case, check) for check in checks]
    for one in running:
        yield one.report()


class _Running:
    def __init__(self, case: Case, check: Check) -> None:
        self._case = case
        self._check = check
        self._said: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self._began = time.monotonic()
        self._seconds = check.seconds(case)
        self._ended = 0.0
        threading.Thread(target=self._run, name=f"doctor-{check.name}", daemon=True).start()

    def report(self) -> Report:
        results: list[Result] = []
        deadline = self._began + self._seconds
        while True:
            try:
                result = self._said.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                results.append(
                    failure(
                        "deadline",
                        f"not done within {self._seconds:g} s",
                        "something stands still that was asked after what is told above; "
                        f"try `mlflow-proxy doctor {self._check.name}` again, with --patience for longer",
                    )
                )
                return Report(self._check.name, results, time.monotonic() - self._began)
            if result is None:
                return Report(self._check.name, results, self._ended - self._began)
            results.append(result)

    def _run(self) -> None:
        try:
            wrong = [name for name in self._check.needs if self._case.is_wrong(name)]
            if wrong:
                self._said.put(skipped("settings", f"{', '.join(wrong)} can't be read (see settings)"))
                return
            for result in self._check.look(self._case):
                self._said.put(result)
        except UserError as error:
            for line in str(error).splitlines():
                self._said.put(failure("settings", line, "put it right as that line says"))
        except PermissionError as error:
            self._said.put(
                failure(
                    "user",
                    f"{error.filename or 'a file'} can't be looked at by user id {os.geteuid()}",
                    "run the doctor as the service's user: sudo -u USER mlflow-proxy doctor",
                )
            )
        except Exception as error:
            # One that nobody has thought of must not keep the others from being told.
            log.debug("the check %s has failed", self._check.name, exc_info=True)
            self._said.put(
                failure(
                    "doctor",
                    f"the check itself failed: {type(error).__name__}: {error}",
                    "this is a defect of the doctor: report it, with -v for where it happened",
                )
            )
        finally:
            self._ended = time.monotonic()
            self._said.put(None)
