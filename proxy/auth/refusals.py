"""What a caller is told who is not let in: what is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

WHAT_TO_SET = (
    "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, for MLflow's "
    "client, or sign in where your browser asks for it."
)
NO_CREDENTIAL = f"No credential was sent. {WHAT_TO_SET}"
WRONG_HERE = "The user name or password is wrong."
"""For a person who has typed them into a form of ours."""
NO_TOKEN_HERE = "This is a token, which programs send. Type your password to sign in."  # noqa: S105
WRONG = (
    f"{WRONG_HERE} Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; "
    "the administrator of this server can set a new password."
)
BAD_BEARER = (
    "This is no token that counts here. Make one on the page /-/account of this server, or with "
    "`mlflow-proxy login`, and set MLFLOW_TRACKING_TOKEN to the whole of it."
)
NO_PASSWORDS = (
    "Passwords are switched off here (PROXY_BASIC_AUTH): sign in with the identity provider, in a browser."
)
TOO_MANY_TOKENS = "Too many new tokens are being looked up at this moment. Try again in a second."
NOT_A_JOB = "This address is for MLflow's own jobs. Use the server's public URL."


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a caller is not let in."""

    reason: str
    """``unauthenticated`` (401), ``not_admitted`` (403), ``locked_out`` (429), ``no_database``,
    ``overloaded`` or ``provider_failed`` (503)."""
    message: str
    """What is wrong and what to do; for the caller, so the same for an unknown user and a wrong password."""
    retry_after: int | None
    """Seconds, where trying again later helps."""


def locked_out(kind: str, what: str, seconds: int) -> str:
    """``kind`` is ``passwords`` or ``tokens``; ``what`` completes "Too many wrong … were sent …"
    (login_limits.LockedOut.what)."""
    right = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if kind == "tokens":
        right = "MLFLOW_TRACKING_TOKEN"
    wait = _duration(seconds)
    return f"Too many wrong {kind} were sent {what}. Wait {wait}, then try again with the right {right}."


def busy(seconds: int) -> str:
    return f"Too many passwords are being checked at this moment. Try again in {_duration(seconds)}."


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    parts = [
        f"{count} {unit}{'' if count == 1 else 's'}"
        for count, unit in ((minutes, "minute"), (rest, "second"))
        if count
    ]
    return " and ".join(parts)
