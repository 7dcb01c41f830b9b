"""What is known of one request so far: each layer writes its part, log and metrics read it at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.identity import Identity
    from proxy.operations import Operation

# Closed sets: they are metric labels and log values, so nothing else may be written into an Exchange.
REFUSALS = frozenset(
    {
        "bad_path",  # no canonical path, or one that MLflow would read differently
        "bad_request",  # anything else about the request that can't be forwarded as it is
        "misdirected",  # a Host that is not served here
        "cross_origin",  # a browser's write from another site
        "unauthenticated",  # no credential, or a wrong one
        "locked_out",  # too many wrong ones lately
        "sign_in_failed",  # a sign-in with the identity provider that is not valid, or that it refused
        "provider_failed",  # the identity provider gave no usable answer
        "not_admitted",  # vouched for by the identity provider, but nobody who gets in or has a role here
        "forbidden",  # the role does not allow the operation
        "not_served",  # a route of MLflow that is closed here, whoever asks (presigned URLs)
        "body_too_large",
        "not_ready",  # MLflow was away for longer than a request may wait
        "no_database",  # the sessions' database does not answer, so nobody can say who is calling
        "overloaded",  # a bound on waiting requests or held bytes was reached
        "unparsed",  # refused by the HTTP parser
    }
)
ERRORS = frozenset(
    {
        "refused",  # MLflow's socket took no connection
        "reset",  # MLflow ended the connection before the answer was whole
        "bad_answer",  # MLflow's answer is not HTTP
        "failed",  # MLflow answered that it failed on the way, in what must not be repeated
        "stalled",  # MLflow sent nothing for too long
        "client_stalled",  # the client sent or took nothing for too long
        "client_gone",  # the client left before the answer was whole
        "cut_short",  # stopped by our own end
        "revoked",  # the credential that it came with was revoked while it was under way
        "crashed",  # a defect of ours
    }
)


RESENDS = frozenset(
    {
        "unread",  # the connection broke, and MLflow had not read the request to its end
        "reset",  # the connection broke before the answer, and the operation may be sent again
        "unavailable",  # MLflow answered that its database is away
        "crashed",  # MLflow answered with a 500 of no handler's
        "continued",  # a download broke off, and the rest of it was asked for
    }
)


class Trace:
    """What is noted of one request for its trace, where requests are traced (proxy.tracing).

    Ids are hexadecimal digits, as W3C Trace Context writes them.
    """

    __slots__ = ("id", "mlflow", "parent", "sampled", "span", "state", "stretches")

    LEAST = 0.001
    """Seconds: a wait or a body that took less is no stretch."""

    def __init__(
        self, trace_id: str, span: str, mlflow: str, *, parent: str | None, sampled: bool, state: str
    ) -> None:
        self.id = trace_id
        self.span = span
        """The request's own span."""
        self.mlflow = mlflow
        """The span of MLflow's time: what MLflow gets as its parent."""
        self.parent = parent
        """The client's span; None where it named none."""
        self.sampled = sampled
        """Whether it is recorded."""
        self.state = state
        """The client's ``tracestate``; empty without one."""
        self.stretches: list[tuple[str, float, float]] = []
        """What took time: its name, when it began and when it ended."""

    def stretch(self, name: str, began: float, least: float = LEAST) -> None:
        """Note what began then and ends now, unless it took less than `least` seconds."""
        now = time.perf_counter()
        if now - began >= least:
            self.stretches.append((name, began, now))

    def waited(self, why: str, began: float) -> None:
        """Note that it waited from then on until now: for a place in MLflow, for MLflow itself ("mlflow"), or
        to be sent again ("again")."""
        self.stretch(f"waiting {why}", began)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What MLflow is told (www.w3.org/TR/trace-context/)."""
        told = [(b"traceparent", b"00-%b-%b-0%d" % (self.id.encode(), self.mlflow.encode(), self.sampled))]
        if self.state:
            told.append((b"tracestate", self.state.encode("ascii")))
        return told


class Exchange:
    """One request and its answer. Times are ``time.perf_counter()`` seconds unless said."""

    __slots__ = (
        "abandoned",
        "bytes_in",
        "bytes_out",
        "client",
        "ended",
        "error",
        "first_byte",
        "identity",
        "internal",
        "method",
        "mlflow_ended",
        "mlflow_started",
        "operation",
        "path",
        "received",
        "refusal",
        "request_id",
        "resent",
        "scheme",
        "session",
        "set_cookie",
        "started",
        "status",
        "target",
        "trace",
        "user_agent",
    )

    def __init__(self, method: str, path: str, started: float, received: float) -> None:
        self.method = method
        self.path = path
        """The decoded path as received, until the path check has put the canonical one here."""
        self.started = started
        self.received = received
        """Unix time of arrival, in seconds."""
        self.ended: float | None = None
        self.first_byte: float | None = None
        """When the answer's first part was handed to the client's connection."""
        self.mlflow_started: float | None = None
        """When the request's first byte was sent to MLflow."""
        self.mlflow_ended: float | None = None
        """When MLflow's answer was whole, or had failed."""
        self.request_id = ""
        self.client = ""
        """The client's address, after trusted proxies were looked through; no port."""
        self.scheme = "http"
        self.user_agent = ""
        self.internal = False
        """True on the loopback listener that only MLflow's own jobs use."""
        self.operation: Operation | None = None
        self.identity: Identity | None = None
        self.session: str | None = None
        """The id of the caller's session, as lists of sessions have it; it opens nothing."""
        self.set_cookie: bytes | None = None
        """A Set-Cookie header that the answer has to carry: the session's newer cookie."""
        # Starlette and uvicorn write a crash's 500 where we do not see it, so a status begins there.
        self.status = 500
        self.target: dict[str, str] = {}
        """What the request's body names, where the audit log tells of it: experiment, run, model."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.refusal: str | None = None
        """Why we refused, from REFUSALS; None where MLflow or a page of ours answered."""
        self.error: str | None = None
        """What failed, from ERRORS."""
        self.resent: list[str] | None = None
        """Why it was sent to MLflow again, each time, from RESENDS; None where it was sent once."""
        self.trace: Trace | None = None
        """None where requests are not traced."""
        self.abandoned = False
        """True where the client left and MLflow was still at work for it."""


class Refused(Exception):
    """Raised by any layer to end a request with an answer of ours; the edge writes it.

    `reason` is one of REFUSALS or ERRORS; `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str,
        retry_after: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after = retry_after
        self.headers = headers
