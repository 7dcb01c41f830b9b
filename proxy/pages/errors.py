"""Refusals: the one place that words them, in MLflow's shape for a client and as a page for a person."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from proxy.exchange import Exchange
from proxy.pages.answers import HTML, JSON, Headers, Scope, Send, answer, head
from proxy.pages.templating import Page

# Names of mlflow.protos.databricks_pb2.ErrorCode, as mlflow/exceptions.py pairs them with statuses. Not
# RESOURCE_DOES_NOT_EXIST for 404: the client takes that for "there is no such run" and goes on.
CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    405: "BAD_REQUEST",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "RESOURCE_LIMIT_EXCEEDED",
    414: "BAD_REQUEST",
    421: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED",
    431: "BAD_REQUEST",
    500: "INTERNAL_ERROR",
    501: "NOT_IMPLEMENTED",
    502: "TEMPORARILY_UNAVAILABLE",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TITLES = {
    400: "This request can't be served",
    401: "Sign in to see MLflow",
    403: "This is not open to you",
    404: "There is nothing here",
    408: "The request took too long",
    413: "That is too much at once",
    421: "This is not the server's name",
    429: "Too many attempts",
    500: "Something broke in the proxy",
    502: "MLflow gave no answer",
    503: "MLflow is not ready",
    504: "MLflow took too long",
}
_CHALLENGE = (b"www-authenticate", b'Basic realm="MLflow", charset="UTF-8"')
_PAGE = Page("refusal.html")


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    message: str,
    *,
    reason: str | None = None,
    retry_after: int | None = None,
    headers: Headers = (),
) -> None:
    """Answer with a refusal of ours, and note it in the exchange.

    A browser that navigates, or sends a form, gets a page; every other caller `{"error_code": …, "message":
    …}`, which MLflow's client raises as a RestException with this message. `message` says what to do.
    `reason` is one of exchange.REFUSALS and is left as it was where it is None; `retry_after` is in seconds.
    A 401 carries the challenge that makes a browser ask for a password (RFC 7617), unless
    ``scope["challenge"]`` is False.
    """
    exchange: Exchange = scope["exchange"]
    exchange.status = status
    if reason is not None:
        exchange.refusal = reason
    extra = [*headers, *_extra(status, retry_after, challenge=scope.get("challenge", True))]
    if is_navigation(scope) or _is_form(scope):
        body = _PAGE.render(
            status=status,
            phrase=_phrase(status),
            title=_TITLES.get(status, _phrase(status)),
            message=message,
            request_id=exchange.request_id,
        )
        await answer(scope, send, status, body, HTML, headers=extra, policy=_PAGE.policy)
    else:
        await answer(scope, send, status, json_body(status, message), JSON, headers=extra)


def raw_refusal(status: int, message: str, request_id: str) -> bytes:
    """The whole answer, head and body, to bytes that never became a request; the connection ends after it."""
    body = json_body(status, message)
    fields = [
        *head(JSON, len(body)),
        (b"x-request-id", request_id.encode("ascii")),
        (b"connection", b"close"),
        *_extra(status, None),
    ]
    start = f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode("ascii")
    return start + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + body


def json_body(status: int, message: str) -> bytes:
    """An error as MLflow's server words it (mlflow/exceptions.py, MlflowException.serialize_as_json)."""
    code = CODES.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR")
    message = message.encode("utf-8", "replace").decode()
    return orjson.dumps({"error_code": code, "message": message})


def is_navigation(scope: Scope) -> bool:
    """Whether a browser asks for a page to show, rather than a script or a client for data.

    Fetch metadata says so outright (W3C, 2.3). A browser that sends none (it sends none over plain HTTP
    to a name that is not loopback) is known by asking for HTML under a browser's name.
    """
    if scope["method"] not in ("GET", "HEAD"):
        return False
    accept = user_agent = b""
    for name, value in scope["headers"]:
        if name == b"sec-fetch-mode":
            return bool(value == b"navigate")
        if name == b"accept":
            accept = value
        elif name == b"user-agent":
            user_agent = value
    return b"text/html" in accept and b"Mozilla/" in user_agent


def _is_form(scope: Scope) -> bool:
    """Whether a browser sends a form of a page, in whose place it shows the answer."""
    if scope["method"] != "POST":
        return False
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            return kind == b"application/x-www-form-urlencoded" and is_navigation({**scope, "method": "GET"})
    return False


def _extra(status: int, retry_after: int | None, *, challenge: bool = True) -> list[tuple[bytes, bytes]]:
    extra = []
    if status == 401 and challenge:
        extra.append(_CHALLENGE)
    if retry_after is not None:
        extra.append((b"retry-after", b"%d" % retry_after))
    return extra


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
