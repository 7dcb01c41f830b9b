"""Whether a request that failed at MLflow is sent again: the whole policy, in one pure function."""

from __future__ import annotations

import enum

from proxy.operations import Operation

TRIES = 4
"""How often a request is sent at most, where its connection breaks: one that ends MLflow itself must not do
that for ever."""
CRASHES = 3
"""How often MLflow is asked at most where it answers that it crashed: that may be a defect of its."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0
"""Seconds before MLflow, whose database is away, is asked again: doubled each time."""


class Phase(enum.Enum):
    """How far a request had come when it failed."""

    NOTHING = "nothing was sent"
    PART = "its head, or a part of its body, was sent"
    WHOLE = "the whole of it was sent"
    BEGUN = "a part of its answer has reached the client"


class Failure(enum.Enum):
    """What failed."""

    REFUSED = "MLflow took no connection"
    UNREAD = "the connection broke, and MLflow had not read the request to its end"
    RESET = "the connection broke"
    NOT_TAKEN = "MLflow answered that its database did not take it"
    LOST = "MLflow answered that the connection to its database broke"
    CRASHED = "MLflow answered with an error that none of its handlers knew"
    BAD_ANSWER = "what came was no HTTP"
    SILENT = "no answer came in time"


class Kept(enum.Enum):
    """What is left of the request's body."""

    NONE = "it has none"
    MEMORY = "all of it that was taken from the client is in memory"
    FILE = "all of it that was taken from the client is there, some in a file"
    GONE = "it has passed through"


class Decision(enum.Enum):
    """What becomes of the request."""

    AGAIN = "it is sent again"
    NOT_DONE = "it is given up, and MLflow has certainly not acted on it"
    UNKNOWN = "it is given up, and MLflow may have acted on it"
    PASS = "MLflow's answer is passed on"  # noqa: S105 - no password
    CUT = "the answer is cut off"


def may_resend(operation: Operation, phase: Phase, failure: Failure, body: Kept) -> Decision:
    """What to do about a request that failed, while there is time and a try left.

    MLflow acts on nothing that it has not read to its end: its web server hands a request to Flask when the
    body is there, and an upload is published when it is whole (mlflow/server/fastapi_app.py,
    mlflow/store/artifact/local_artifact_repo.py). Beyond that point `operation.again` decides.
    """
    if phase is Phase.BEGUN:
        return Decision.CUT
    if body is not Kept.GONE:
        if failure in _NEVER_HAD_IT or (failure is Failure.RESET and phase is not Phase.WHOLE):
            return Decision.AGAIN
        if operation.again and (failure is Failure.RESET or failure in ANSWERED):
            return Decision.AGAIN
        if operation.commits_last and failure is Failure.NOT_TAKEN:
            return Decision.AGAIN
    return given_up(operation, phase, failure)


def given_up(operation: Operation, phase: Phase, failure: Failure) -> Decision:
    """The same where no time, or no try, is left."""
    if phase is Phase.BEGUN:
        return Decision.CUT
    if failure in ANSWERED:
        # MLflow's client repeats what is answered with 500 or 503.
        return Decision.PASS if operation.again or failure is Failure.NOT_TAKEN else Decision.UNKNOWN
    if failure in _NEVER_HAD_IT or phase is not Phase.WHOLE:
        return Decision.NOT_DONE
    return Decision.UNKNOWN


ANSWERED = (Failure.NOT_TAKEN, Failure.LOST, Failure.CRASHED)
"""Those that MLflow tells itself, of a request that it has read."""
_NEVER_HAD_IT = (Failure.REFUSED, Failure.UNREAD)
