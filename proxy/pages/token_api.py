"""/-/api/tokens: a person's tokens, for programs: listed, made, renewed and revoked, in JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.exchange import Exchange, Refused
from proxy.identity import Identity, Role, identity_of
from proxy.pages.answers import JSON, App, Headers, Receive, Scope, Send, answer
from proxy.pages.json_body import json_body
from proxy.pages.paging import asked_page

PATH = "/-/api/tokens"
_USUAL = 90 * 86400.0
"""Seconds for which a token is made where nothing else is asked: longer than a training run, shorter than
people stay."""
_CURRENT = "current"


class Token(Protocol):
    """A token as its row in the database has it, without its secret. Times are Unix seconds."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def created(self) -> float: ...
    @property
    def expires(self) -> float: ...
    @property
    def last_used(self) -> float | None: ...
    @property
    def last_used_from(self) -> str | None: ...
    @property
    def state(self) -> str: ...


class Tokens(Protocol):
    """What makes and ends them (proxy.auth.tokens); each raises Refused for what may not be."""

    async def create(
        self,
        owner: Identity,
        *,
        name: str,
        lifetime: float,
        role: Role,
        read_only: bool,
        exchange: Exchange,
    ) -> tuple[str, Token]: ...
    async def renew(
        self, owner: Identity, token_id: str, *, overlap: float | None, exchange: Exchange
    ) -> tuple[str, Token]: ...
    async def revoke(self, actor: Identity, token_id: str, exchange: Exchange) -> None: ...
    async def list_for(self, identity: Identity) -> Sequence[Token]: ...


def token_api(tokens: Tokens, longest: float) -> dict[str, App]:
    """The applications by path; `longest` is PROXY_TOKEN_MAX_LIFETIME, in seconds.

    GET lists, in pages (paging.py). POST of ``{"name": …, "lifetime": seconds or "expires": Unix seconds,
    "role"?, "read_only"?}`` makes one: 201, with its secret as ``token``. Below it are ``/renew`` (``{"id":
    …, "overlap"?: seconds}``, 201) and ``/revoke`` (``{"id": …}``, 200; "current" is the token that the
    request came with).
    """
    usual = min(_USUAL, longest)

    async def collection(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            page = asked_page(scope["query_string"])
            found = await tokens.list_for(_caller(scope))
            told: dict[str, object] = {
                "tokens": [_shown(token) for token in found[page.start : page.start + page.size]]
            }
            await _told(scope, send, 200, told, page.links(len(found)))
            return
        asked = await _asked(scope, receive, "GET, HEAD, POST")
        wanted = _wanted(asked, _caller(scope), usual)
        secret, token = await tokens.create(
            _caller(scope),
            name=wanted.name,
            lifetime=wanted.lifetime,
            role=wanted.role,
            read_only=wanted.read_only,
            exchange=scope["exchange"],
        )
        await _told(scope, send, 201, {"token": secret, **_shown(token)})

    async def renew(scope: Scope, receive: Receive, send: Send) -> None:
        asked = await _asked(scope, receive, "POST")
        _known(asked, "id", "overlap")
        overlap = _number(asked, "overlap")
        secret, token = await tokens.renew(
            _caller(scope), _id(asked, _caller(scope)), overlap=overlap, exchange=scope["exchange"]
        )
        await _told(scope, send, 201, {"token": secret, **_shown(token)})

    async def revoke(scope: Scope, receive: Receive, send: Send) -> None:
        asked = await _asked(scope, receive, "POST")
        _known(asked, "id")
        await tokens.revoke(_caller(scope), _id(asked, _caller(scope)), scope["exchange"])
        await _told(scope, send, 200, {})

    return {PATH: collection, f"{PATH}/renew": renew, f"{PATH}/revoke": revoke}


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    lifetime: float
    role: Role
    read_only: bool


def _wanted(asked: Mapping[str, Any], caller: Identity, usual: float) -> _Wanted:
    """What the body asks for. Names' and lifetimes' bounds are for whoever makes the token to check."""
    _known(asked, "name", "lifetime", "expires", "role", "read_only")
    name, role, read_only = asked.get("name"), asked.get("role"), asked.get("read_only", False)
    if not isinstance(name, str):
        raise _wrong('Name the token: {"name": "what it is for"}.')
    if not isinstance(read_only, bool):
        raise _wrong("read_only is true or false.")
    lifetime, expires = _number(asked, "lifetime"), _number(asked, "expires")
    if lifetime is not None and expires is not None:
        raise _wrong("lifetime and expires exclude each other.")
    if expires is not None:
        lifetime = expires - time.time()
    try:
        given = caller.role if role is None else Role.parse(role if isinstance(role, str) else "")
    except ValueError:
        raise _wrong("role is viewer, editor or admin.") from None
    return _Wanted(name, usual if lifetime is None else lifetime, given, read_only)


def _id(asked: Mapping[str, Any], caller: Identity) -> str:
    wanted = asked.get("id")
    if not isinstance(wanted, str) or not wanted:
        raise _wrong('Say which token: {"id": …}, as the list of tokens has it.')
    if wanted != _CURRENT:
        return wanted
    if caller.method != "token" or caller.credential is None:
        raise _wrong('"current" is the token that a request comes with, and this one came with none.')
    return caller.credential.id


def _known(asked: Mapping[str, Any], *names: str) -> None:
    # What is misspelt would be passed over, and the token be good for more than was meant.
    for name in asked:
        if name not in names:
            raise _wrong(f"{name[:50]!r} is none of {', '.join(names)}.")


def _number(asked: Mapping[str, Any], name: str) -> float | None:
    value = asked.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(f"{name} is a number of seconds.")
    return float(value)


async def _asked(scope: Scope, receive: Receive, methods: str) -> dict[str, Any]:
    if scope["method"] != "POST":
        raise Refused(
            405,
            f"Only {methods} is served here.",
            reason="bad_request",
            headers=((b"allow", methods.encode()),),
        )
    return await json_body(scope, receive)


def _caller(scope: Scope) -> Identity:
    identity = identity_of(scope)
    assert identity is not None
    return identity


def _shown(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "name": token.name,
        "user": token.user,
        "role": token.role.name.lower(),
        "read_only": token.read_only,
        "created": token.created,
        "expires": token.expires,
        "last_used": token.last_used,
        "last_used_from": token.last_used_from,
        "state": token.state,
    }


async def _told(
    scope: Scope, send: Send, status: int, data: dict[str, object], headers: Headers = ()
) -> None:
    scope["exchange"].status = status
    await answer(scope, send, status, orjson.dumps(data), JSON, headers=headers)


def _wrong(message: str) -> Refused:
    return Refused(400, message, reason="bad_request")
