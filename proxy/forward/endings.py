"""How an exchange ends that MLflow did not answer: what the client is told, or that it is cut."""

from __future__ import annotations

from proxy.exchange import Refused
from proxy.forward.resending import Decision
from proxy.operations import Operation


class ClientGone(Exception):
    """The client has left; nobody is there to be answered."""


class CutShort(Exception):
    """An answer that has begun can't be completed: the client must see that it is not whole."""


def revoked() -> Refused:
    """The answer where what the request came with counts no more."""
    return Refused(
        401,
        "The credential of this request was revoked, or its session ended, while it was under way. "
        "What it had sent so far is dropped.",
        reason="revoked",
    )


def client_stalled() -> Refused:
    """The answer to a body that stopped coming."""
    return Refused(
        408,
        "No byte of the request's body came for too long (PROXY_STALL_TIMEOUT).",
        reason="client_stalled",
    )


_WHAT = {
    "stalled": "MLflow did not answer in time (PROXY_ANSWER_TIMEOUT)",
    "bad_answer": "MLflow's answer was not HTTP",
    "failed": "MLflow failed on the way, or its database did",
}


def given_up(operation: Operation, decision: Decision, why: str, limit: int) -> Refused:
    """The answer where MLflow gave none, or none that tells what it did.

    `why` is the reason, of exchange.ERRORS, and `limit` the PROXY_RESEND_BODY_LIMIT in force.

    503 and Retry-After only where MLflow has certainly not acted. MLflow's client repeats every POST that is
    answered with 408, 429, 500, 502, 503 or 504 (mlflow/utils/request_utils.py), so what may have been done
    and must not be done twice gets none of those.
    """
    silent = why == "stalled"
    what = _WHAT.get(why, "MLflow ended the connection before it answered")
    if decision is Decision.NOT_DONE and not silent and why != "bad_answer":
        return Refused(
            503,
            f"{what}. It had not read the whole request and has not acted on it; the request could not be "
            f"sent again from here (a body of more than {limit} bytes is not kept: PROXY_RESEND_BODY_LIMIT). "
            "Try again.",
            reason=why,
            retry_after=1,
        )
    if operation.again:
        return Refused(
            504 if silent else 502,
            f"{what}; it may have acted on the request. To repeat {operation.name} does no harm.",
            reason=why,
        )
    return Refused(
        409,
        f"{what}; it may have acted on the request. {operation.name} is not repeated, because that could do "
        "it twice: look whether it was done before you call it again.",
        reason=why,
    )
