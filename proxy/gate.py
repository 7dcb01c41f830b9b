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
    """A page of ours that needs no credential of MLflow's users: its operation, and what answers."""

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
        if page := self._pages.get(scope["path"]):  # at the root also where the public URL has a path
            exchange.operation = page.operation
            await page.app(scope, receive, send)
            return
        operation = self._operation(scope, exchange)
        if page := self._pages.get(exchange.path):
            exchange.operation = page.operation
            await page.app(scope, receive, send)
            return

        authorization = host = provider_authorization = fetch_site = origin = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"host":
                host = value
            elif name == b"sec-fetch-site":
                fetch_site = value
            elif name == b"origin":
                origin = value
            elif name == b"x-mlflow-authorization":
                provider_authorization = value

        if operation.access is Access.OPEN:
            await self._forward(scope, receive, send)
            return
        if not exchange.internal and not self._hosts.served(host or b""):
            shown = (host or b"").decode("latin-1")[:100]
            raise Refused(
                421,
                f"{shown!r} is not a name this server answers to. "
                "Its operator adds it to PROXY_ALLOWED_HOSTS or sets PROXY_PUBLIC_URL.",
                reason="misdirected",
            )
        why = cross_origin.refused(
            exchange.method,
            reads=operation.access is Access.READ,
            fetch_site=fetch_site,
            origin=origin,
            own_origins=self._hosts.origins(exchange.scheme, host or b""),
        )
        if why is not None:
            raise Refused(403, f"The request is refused: {why}.", reason="cross_origin")

        # A coding agent sends its model provider's key in Authorization and its credential for MLflow in
        # X-MLflow-Authorization (mlflow/gateway/constants.py).
        if provider_authorization is not None and exchange.path.startswith("/gateway/"):
            scope["provider_key"] = True
            authorization = provider_authorization
        identity = self._authentication.recall(authorization, exchange)
        if identity is None:
            identity = await self._verified(authorization, exchange)
        exchange.identity = identity

        if operation.access is Access.CLOSED and not self._direct_artifacts:
            # 501 rather than 403: MLflow's client, where it was told to try, then falls back to us.
            raise Refused(
                501,
                "Artifacts go through this server, not directly to the store (PROXY_DIRECT_ARTIFACTS is off).",
                reason="not_served",
            )
        message = access.allowed(identity, operation, self._delete_role, self._direct_artifacts)
        if message is not None:
            raise Refused(403, message, reason="forbidden")
        app = self._answers.get(operation.name, self._forward)
        await app(scope, receive, send)

    def _operation(self, scope: Scope, exchange: Exchange) -> Operation:
        if scope["hidden"] is not None:
            exchange.operation = UNPARSED
            raise Refused(400, f"The request is refused: {scope['hidden']}.", reason="unparsed")
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

    async def _verified(self, authorization: bytes | None, exchange: Exchange) -> Identity:
        outcome = await self._authentication.verify(authorization, exchange)
        if isinstance(outcome, Identity):
            return outcome
        status = 429 if outcome.reason == "locked_out" else 401
        raise Refused(status, outcome.message, reason=outcome.reason, retry_after=outcome.retry_after)
