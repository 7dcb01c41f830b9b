"""What stands before MLflow: path check, host check, cross-origin check, authentication, authorization."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

from proxy import access, cross_origin, paths
from proxy.auth import Refusal
from proxy.exchange import Exchange, Refused, Trace
from proxy.headers import Asked
from proxy.hosts import Hosts
from proxy.identity import Identity, Role
from proxy.operations import UNPARSED, Access, Operation, operation_of
from proxy.pages.errors import is_navigation

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Found = TypeVar("Found")
AUTHENTICATION = "authentication"
"""What the time that it takes is called in a trace."""


class Authentication(Protocol):
    """Who is calling, by one header of the request: `recall` what was verified lately, else `verify`."""

    def recall(self, header: bytes | None, exchange: Exchange) -> Identity | None: ...
    async def verify(self, header: bytes | None, exchange: Exchange) -> Identity | Refusal: ...


class Credentials(Authentication, Protocol):
    """Those of programs, and passwords, by the Authorization header."""

    def holds_token(self, authorization: bytes) -> bool:
        """Whether what looks like a user name and password is a token."""


class Sessions(Authentication, Protocol):
    """People's sessions, by the Cookie header."""

    def knew(self, cookie: bytes | None) -> bool:
        """Whether it is a session's of ours, be that over or not."""


class SignIn(NamedTuple):
    """People's sessions, and what a browser without one is answered."""

    sessions: Sessions
    """Asked with the Cookie header, where no Authorization came."""
    redirect: App
    hint: str
    """Where to sign in, for a caller who is no browser."""
    passwords: bool
    """Whether a user name and password sent with a request count beside sessions (PROXY_BASIC_AUTH)."""


class Page(NamedTuple):
    """A page of ours: its operation, which says who may, and what answers."""

    operation: Operation
    app: App
    anywhere: bool = False
    """At the root also where the public URL has a path, and under any Host: probes and scrapers ask the
    process, not the name."""


class Route(NamedTuple):
    """Where a request to MLflow goes."""

    path: paths.CanonicalPath
    operation: Operation


class Gate:
    """An ASGI application: `pages` by exact path, everything else to `forward` once it is let through."""

    def __init__(
        self,
        pages: Mapping[str, Page],
        answers: Mapping[str, App],
        forward: App,
        authentication: Credentials,
        hosts: Hosts,
        *,
        prefix: str,
        delete_role: Role,
        direct_artifacts: bool,
        sign_in: SignIn | None = None,
    ) -> None:
        self._sign_in = sign_in
        self._pages = pages
        self._answers = answers
        self._forward = forward
        self._authentication = authentication
        self._hosts = hosts
        self._prefix = prefix
        self._delete_role = delete_role
        self._direct_artifacts = direct_artifacts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        asked: Asked = scope["asked"]
        if scope["hidden"] is not None:
            exchange.operation = UNPARSED
            raise Refused(400, f"The request is refused: {scope['hidden']}.", reason="unparsed")
        page = self._pages.get(scope["path"])
        if page is None or not page.anywhere:
            operation = self._operation(scope, exchange)
            page = self._pages.get(exchange.path)
        if page is not None:
            operation = exchange.operation = page.operation

        authorization = asked.authorization
        if page is None or not page.anywhere:
            self._check_site(exchange, operation, asked)
            # A coding agent sends its model provider's key in Authorization and its credential for MLflow
            # in X-MLflow-Authorization (mlflow/gateway/constants.py).
            if asked.for_mlflow is not None and exchange.path.startswith("/gateway/"):
                scope["provider_key"] = _may_be_a_providers(authorization, asked.for_mlflow)
                authorization = asked.for_mlflow
        if operation.access is not Access.OPEN:
            if self._sign_in is not None and not self._sign_in.passwords and not exchange.internal:
                scope["challenge"] = False
                authorization = self._that_counts(authorization)
            if self._sign_in is not None and authorization is None and not exchange.internal:
                session = self._by_session(self._sign_in, scope, exchange, operation, asked.cookie)
                instead = await (session if exchange.trace is None else _timed(session, exchange.trace))
                if instead is not None:
                    await instead(scope, receive, send)
                    return
            else:
                credential: Awaitable[Identity] = self._by_credential(exchange, authorization)
                if exchange.trace is not None:
                    credential = _timed(credential, exchange.trace)
                exchange.identity = await credential
                self._authorize(exchange, operation)
        app = page.app if page is not None else self._answers.get(operation.name, self._forward)
        await app(scope, receive, send)

    def at_once(self, route: Route, exchange: Exchange, asked: Asked) -> App | None:
        """As __call__, for a request for MLflow whose caller is remembered: the application that answers it.
        None, and nothing has happened, where that takes a wait, or a session's cookie.

        Raises Refused.
        """
        operation, exchange.path = route.operation, route.path.decoded
        exchange.operation = operation
        self._check_site(exchange, operation, asked)
        authorization = asked.authorization
        if self._sign_in is not None and not self._sign_in.passwords:
            authorization = self._that_counts(authorization)
        trace = exchange.trace
        began = 0.0 if trace is None else time.perf_counter()
        identity = self._authentication.recall(authorization, exchange)
        if identity is None:
            return None
        if trace is not None:
            trace.stretch(AUTHENTICATION, began, 0)
        exchange.identity = identity
        self._authorize(exchange, operation)
        return self._forward

    def route(self, method: str, raw_path: bytes) -> Route | None:
        """Where a request goes, if it is for MLflow alone; None for every other one, refused ones too."""
        try:
            path = paths.canonical(raw_path, self._prefix)
        except paths.BadPath:
            return None
        if path is None or path.decoded in self._pages or raw_path.decode("latin-1") in self._pages:
            return None
        operation = operation_of(method, path.decoded)
        return None if operation.name in self._answers else Route(path, operation)

    def _that_counts(self, authorization: bytes | None) -> bytes | None:
        """That credential, unless it is a password where only sessions count: a browser may remember one from
        before."""
        if (
            authorization is not None
            and authorization[:6].lower() == b"basic "
            and not self._authentication.holds_token(authorization)
        ):
            return None
        return authorization

    def _check_site(self, exchange: Exchange, operation: Operation, asked: Asked) -> None:
        hosts = asked.hosts
        if len(hosts) > 1:
            # RFC 9112, section 3.2: something before us may have gone by the other one.
            raise Refused(400, "The request is refused: it has more than one Host.", reason="bad_request")
        host = hosts[0] if hosts else b""
        if not self._hosts.served(host):
            raise Refused(
                421,
                f"{host.decode('latin-1')[:100]!r} is not a name this server answers to. "
                "Its operator adds it to PROXY_ALLOWED_HOSTS or sets PROXY_PUBLIC_URL.",
                reason="misdirected",
            )
        why = cross_origin.refused(
            exchange.method,
            reads=operation.access is Access.READ or operation.access is Access.OPEN,
            fetch_site=asked.fetch_site,
            origin=asked.origin,
            own_origins=() if asked.origin is None else self._hosts.origins(exchange.scheme, host),
        )
        if why is not None:
            raise Refused(403, f"The request is refused: {why}.", reason="cross_origin")

    async def _by_session(
        self,
        sign_in: SignIn,
        scope: Scope,
        exchange: Exchange,
        operation: Operation,
        cookie: bytes | None,
    ) -> App | None:
        """Let the request through by its session, or return what answers it instead."""
        identity = sign_in.sessions.recall(cookie, exchange)
        if identity is None:
            outcome = await sign_in.sessions.verify(cookie, exchange)
            if isinstance(outcome, Refusal):
                if outcome.reason == "unauthenticated":
                    if _ui_file(exchange) and sign_in.sessions.knew(cookie):
                        # A page that stays open loads its parts as they are needed: without them it breaks
                        # before it can offer to sign in again. They are MLflow's, and hold nobody's data.
                        return self._answers.get(operation.name, self._forward)
                    if is_navigation(scope):
                        exchange.refusal = outcome.reason
                        return sign_in.redirect
                    # A browser that is challenged in answer to a script's call asks for a password by itself.
                    scope["challenge"] = sign_in.passwords and not _by_a_script(scope)
                    outcome = replace(outcome, message=f"{outcome.message} {sign_in.hint}")
                raise _refused(outcome, exchange)
            identity = outcome
        exchange.identity = identity
        self._authorize(exchange, operation)
        return None

    async def _by_credential(self, exchange: Exchange, authorization: bytes | None) -> Identity:
        identity = self._authentication.recall(authorization, exchange)
        if identity is not None:
            return identity
        outcome = await self._authentication.verify(authorization, exchange)
        if isinstance(outcome, Refusal):
            raise _refused(outcome, exchange)
        return outcome

    def _authorize(self, exchange: Exchange, operation: Operation) -> None:
        assert exchange.identity is not None
        message = access.allowed(exchange.identity, operation, self._delete_role, self._direct_artifacts)
        if message is None:
            return
        if operation.access is Access.CLOSED and not self._direct_artifacts:
            # 501 rather than 403: MLflow's client, where it was told to try, then falls back to us.
            raise Refused(501, message, reason="not_served")
        raise Refused(403, message, reason="forbidden")

    def _operation(self, scope: Scope, exchange: Exchange) -> Operation:
        try:
            path = paths.canonical(scope["raw_path"], self._prefix)
        except paths.BadPath as error:
            exchange.operation = UNPARSED
            raise Refused(400, f"The request's path is refused: {error}.", reason="bad_path") from None
        if path is None:
            exchange.operation = UNPARSED
            if scope["path"] == self._prefix:
                raise Refused(
                    308,
                    f"MLflow is at {self._prefix}/.",
                    reason="bad_path",
                    headers=((b"location", self._prefix.encode() + b"/"),),
                )
            raise Refused(404, f"Everything here is below {self._prefix}/.", reason="bad_path")
        exchange.path = path.decoded
        scope["path"] = path.decoded
        scope["raw_path"] = path.encoded
        exchange.operation = operation_of(exchange.method, path.decoded)
        return exchange.operation


async def _timed(authentication: Awaitable[Found], trace: Trace) -> Found:
    began = time.perf_counter()
    try:
        return await authentication
    finally:
        trace.stretch(AUTHENTICATION, began, 0)


def _ui_file(exchange: Exchange) -> bool:
    return exchange.method in ("GET", "HEAD") and exchange.path.startswith("/static-files/")


def _by_a_script(scope: Scope) -> bool:
    """Whether a browser sends it for a page's script (Fetch Metadata); navigations are dealt with before."""
    return any(name == b"sec-fetch-mode" for name, _ in scope["headers"])


_STATUS = {
    "locked_out": 429,
    "no_database": 503,
    "overloaded": 503,
    "provider_failed": 503,
    "not_admitted": 403,
}


def _refused(refusal: Refusal, exchange: Exchange) -> Refused:
    status = _STATUS.get(refusal.reason, 401)
    if status == 429 and exchange.user_agent.startswith("mlflow-python-client/"):
        # It would sleep for as long as Retry-After says, in silence; a 401 is raised with the message.
        return Refused(401, refusal.message, reason=refusal.reason)
    return Refused(status, refusal.message, reason=refusal.reason, retry_after=refusal.retry_after)


def _may_be_a_providers(authorization: bytes | None, for_mlflow: bytes) -> bool:
    """Whether Authorization holds a key that a model provider may see: a user name and password are ours,
    and so is what was sent for MLflow as well."""
    return (
        authorization is not None
        and authorization != for_mlflow
        and not authorization.lstrip().lower().startswith(b"basic")
    )


def pages_alone(pages: Mapping[str, Page]) -> App:
    """An application of those pages and nothing else, whoever asks: a listener of its own protects it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        page = pages.get(scope["path"])
        if page is None:
            raise Refused(404, f"Here are {', '.join(pages)} and nothing else.", reason="bad_path")
        scope["exchange"].operation = page.operation
        await page.app(scope, receive, send)

    return app
