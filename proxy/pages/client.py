"""What programs ask of this server about itself and about them: how one signs in, and who one is."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from proxy.exchange import Exchange
from proxy.identity import PASSWORD_ISSUER, SERVICE_ISSUER, Identity, identity_of
from proxy.pages.answers import JSON, App, Receive, Scope, Send, answer
from proxy.pages.health import other_method

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Provider:
    """What `mlflow-proxy login` needs to know to sign in with the identity provider."""

    issuer: str
    client_id: str
    """Of the public client for that: PROXY_CLI_CLIENT_ID."""
    scopes: str
    audience: str
    """Whom an access token has to be for, of PROXY_JWT_AUDIENCE."""


def login_json(provider: Provider | None, *, passwords: bool, public_url: str | None) -> App:
    """The application for GET ``/-/login.json``, open to everybody: how a program signs in here.

    `provider` is None where its access tokens are not accepted, `passwords` whether a user name and password
    count (PROXY_BASIC_AUTH), `public_url` PROXY_PUBLIC_URL; without it the address asked for is given.
    """
    methods = [
        *(["provider"] if provider is not None else []),
        *(["password"] if passwords else []),
        "token",
    ]
    told = {
        "version": _VERSION,
        "name": "mlflow-proxy",
        "methods": methods,
        "issuer": provider.issuer if provider else None,
        "client_id": provider.client_id if provider else None,
        "scopes": provider.scopes if provider else None,
        "audience": provider.audience if provider else None,
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await other_method(scope, send):
            return
        exchange: Exchange = scope["exchange"]
        exchange.status = 200
        body = orjson.dumps({**told, "account": f"{public_url or _address(scope)}/-/account"})
        await answer(scope, send, 200, body, JSON)

    return app


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer GET ``/-/whoami``: the verified caller and the credential, never a secret."""
    if await other_method(scope, send):
        return
    identity = identity_of(scope)
    assert identity is not None
    scope["exchange"].status = 200
    await answer(scope, send, 200, orjson.dumps(_told(identity)), JSON)


def _told(identity: Identity) -> dict[str, object]:
    credential = identity.credential
    return {
        "user": identity.user,
        "role": identity.role.name.lower(),
        "method": identity.method,
        "account": {PASSWORD_ISSUER: "password", SERVICE_ISSUER: "service"}.get(identity.issuer, "provider"),
        "credential": None
        if credential is None
        else {
            "id": credential.id,
            "name": credential.name,
            "expires": credential.expires,
            "read_only": credential.read_only,
        },
    }


def _address(scope: Scope) -> str:
    """The address that the request came by; its Host is one of ours (gate.py)."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return f"{scope['exchange'].scheme}://{host.decode('latin-1').lower()}"
