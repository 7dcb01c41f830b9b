"""What stands before MLflow: path check, host check, cross-origin check, authentication, authorization."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple, Protocol

from proxy import access, cross_origin, paths
from proxy.auth import Refusal
from proxy.exchange import Exchange, Refused
from proxy.hosts import Hosts
from proxy.identity import Identity, Role
from proxy.operations import UNPARSED, Access, Operation, operation_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Authentication(Protocol):
    """Who is calling, by the Authorization header: `recall` what was verified lately, else `verify`."""

    def recall(self, authorization: bytes | None, exchange: Exchange) -> Identity | None: ...
    async def verify(self, authorization: bytes | None, exchange: Exchange) -> Identity | Refusal: ...


class Page(NamedTuple):
    """A page of ours, served at any Host: its operation, which says who may, and what answers."""

    operation: Operation
    app: App


class Gate:
    """An ASGI application: `pages` by exact path, everything else to `forward` once it is let through."""

    def __init__(
        self,
        pages: Mapping[str, Page],
        answers: Mapping[str, App],
        forward: App,
        authentication: Authentication,
        hosts: Hosts,
        *,
        prefix: str,
        delete_role: Role,
        direct_artifacts: bool,
    ) -> None:
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
        if scope["hidden"] is not None:
            exchange.operation = UNPARSED
            raise Refused(400, f"The request is refused: {scope['hidden']}.", reason="unparsed")
        # At the root also where the public URL has a path: probes and scrapers ask the process, not the name.
        page = self._pages.get(scope["path"])
        operation = page.operation if page else self._operation(scope, exchange)
        if page is None:
            page = self._pages.get(exchange.path)
        if page is not None:
            operation = exchange.operation = page.operation

        authorization = for_mlflow = fetch_site = origin = None
        hosts = []
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"host":
                hosts.append(value)
            elif name == b"sec-fetch-site":
                fetch_site = value
            elif name == b"origin":
                origin = value
            elif name == b"x-mlflow-authorization":
                for_mlflow = value

        if page is None:
            self._check_site(exchange, operation, hosts, fetch_site, origin)
            # A coding agent sends its model provider's key in Authorization and its credential for MLflow
            # in X-MLflow-Authorization (mlflow/gateway/constants.py).
            if for_mlflow is not None and exchange.path.startswith("/gateway/"):
                scope["provider_key"] = _may_be_a_providers(authorization, for_mlflow)
                authorization = for_mlflow
        if operation.access is not Access.OPEN:
            await self._admit(exchange, operation, authorization)
        app = page.app if page is not None else self._answers.get(operation.name, self._forward)
        await app(scope, receive, send)

    def _check_site(
        self,
        exchange: Exchange,
        operation: Operation,
        hosts: list[bytes],
        fetch_site: bytes | None,
        origin: bytes | None,
    ) -> None:
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
            reads=operation.access in (Access.READ, Access.OPEN),
            fetch_site=fetch_site,
            origin=origin,
            own_origins=self._hosts.origins(exchange.scheme, host),
        )
        if why is not None:
            raise Refused(403, f"The request is refused: {why}.", reason="cross_origin")

    async def _admit(self, exchange: Exchange, operation: Operation, authorization: bytes | None) -> None:
        """Say who is calling; raise Refused where that can't be said, or where they may not do this."""
        identity = self._authentication.recall(authorization, exchange)
        if identity is None:
            outcome = await self._authentication.verify(authorization, exchange)
            if isinstance(outcome, Refusal):
                status = 429 if outcome.reason == "locked_out" else 401
                raise Refused(status, outcome.message, reason=outcome.reason, retry_after=outcome.retry_after)
            identity = outcome
        exchange.identity = identity
        message = access.allowed(identity, operation, self._delete_role, self._direct_artifacts)
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
