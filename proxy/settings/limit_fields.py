"""The settings of what is bounded: waits, places, bodies and times."""

from __future__ import annotations

from typing import Annotated

from pydantic_settings import BaseSettings

from proxy.settings import values
from proxy.settings.kinds import Seconds, Size, setting
from proxy.settings.values import read


class LimitFields(BaseSettings):
    """The part of Settings that those are."""

    body_limit: Size = setting(
        "PROXY_BODY_LIMIT",
        "Limits",
        100 * 2**20,
        "The largest request body on any route but the artifact streams, which have no limit; more is "
        "refused with 413. A size: 104857600, 100MiB, 64KB.",
    )
    buffer_bytes: Size = setting(
        "PROXY_BUFFER_BYTES",
        "Limits",
        256 * 2**20,
        "The memory that all buffered and waiting request bodies together may take.",
    )
    resend_body_limit: Size = setting(
        "PROXY_RESEND_BODY_LIMIT",
        "Limits",
        32 * 2**20,
        "The largest request body that is kept until MLflow has answered, so that the request can be sent "
        "again where MLflow ends in the middle of it; above 1 MiB it is kept in a file. An upload that is "
        "larger passes through and fails with its MLflow.",
    )
    resend_spool_bytes: Size = setting(
        "PROXY_RESEND_SPOOL_BYTES",
        "Limits",
        512 * 2**20,
        "What those files may take together, in PROXY_RUNTIME_DIR; they have no name and are gone with the "
        "request. Where it is used up, further bodies are not kept.",
    )
    hold_requests: Annotated[int, read(values.whole_number(1, 1_000_000))] = setting(
        "PROXY_HOLD_REQUESTS",
        "Limits",
        1000,
        "Requests that may wait at once, while MLflow starts or is busy; more are refused with 503.",
    )
    hold_seconds: Seconds = setting(
        "PROXY_HOLD_SECONDS",
        "Limits",
        60.0,
        "Seconds that a request may wait for MLflow to be ready before it is refused with 503 and "
        "Retry-After.",
    )
    mlflow_concurrency: Annotated[int, read(values.whole_number(1, 40))] = setting(
        "PROXY_MLFLOW_CONCURRENCY",
        "Limits",
        36,
        "Requests at once in the threads of one MLflow worker; it has 40, and the rest is kept for the "
        "ready check.",
    )
    user_concurrency: Annotated[int | None, read(values.whole_number(1, 2560))] = setting(
        "PROXY_USER_CONCURRENCY",
        "Limits",
        None,
        "Requests of one user at once in MLflow's threads, of all workers together. Who has as many waits, "
        "while others' requests pass.",
        default_note="half of PROXY_MLFLOW_CONCURRENCY for all workers",
    )
    whole_downloads: Annotated[int, read(values.whole_number(1, 40))] = setting(
        "PROXY_WHOLE_DOWNLOADS",
        "Limits",
        4,
        "Downloads at once of the kind that MLflow reads into memory whole (the UI's get-artifact).",
    )
    stall_timeout: Seconds = setting(
        "PROXY_STALL_TIMEOUT",
        "Limits",
        120.0,
        "Seconds in which no byte of a stream moves before it is ended. There is no limit on its whole time.",
    )
    answer_timeout: Seconds = setting(
        "PROXY_ANSWER_TIMEOUT",
        "Limits",
        900.0,
        "Seconds in which MLflow says nothing, after the request was sent or between two events, before it "
        "is given up.",
    )
    abandoned_timeout: Seconds = setting(
        "PROXY_ABANDONED_TIMEOUT",
        "Limits",
        300.0,
        "Seconds for which the answer to a request whose client has left is still awaited, as MLflow can't "
        "be stopped.",
    )
    grace_seconds: Seconds = setting(
        "PROXY_GRACE_SECONDS",
        "Limits",
        30.0,
        "Seconds that running requests get to finish when the service is stopped.",
    )
