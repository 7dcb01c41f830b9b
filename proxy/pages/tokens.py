"""The tokens on our pages: their list, what makes, renews and revokes one, the secret shown once."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from proxy.exchange import Exchange, Refused
from proxy.identity import SERVICE_PREFIX, Identity, Role, identity_of
from proxy.pages import token_forms
from proxy.pages.answers import HTML, Headers, Receive, Scope, Send, answer
from proxy.pages.forms import form
from proxy.pages.templating import Page
from proxy.pages.token_forms import DAY, Rules
from proxy.pages.wording import ahead, duration, moment, span

ACCOUNT = "/-/account"
SERVICE_ACCOUNTS = f"{ACCOUNT}/service-accounts"
_MADE = Page("token_made.html", script="token_made.js")
_OVER = ("expired", "revoked")
OVER_SHOWN = 10
"""How many tokens that are over a page shows of an owner."""
_SOON = 7 * DAY
"""Seconds before its expiry from which a token is marked."""

MayManage = Callable[[Identity], str | None]
"""Why somebody may not manage tokens and sessions (a token may not, whatever its role), or None."""


class Token(Protocol):
    """A token as its row in the database has it, without its secret. Times are Unix seconds."""

    @property
    def id(self) -> str:
        """What names it in a form: it opens nothing."""
        ...

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
    def created_by(self) -> str: ...
    @property
    def expires(self) -> float: ...
    @property
    def last_used(self) -> float | None: ...
    @property
    def last_used_from(self) -> str | None: ...
    @property
    def state(self) -> str:
        """``active``, ``expired``, ``revoked``, ``owner gone`` or ``suspended``."""
        ...

    @property
    def revoked_by(self) -> str | None: ...
    @property
    def renewed(self) -> float | None:
        """When another one was made in its place."""
        ...


class Tokens(Protocol):
    """The tokens; each raises Refused: 400, 403, 404 and 409 for what can't be, 503 without the database."""

    async def create(
        self,
        owner: Identity,
        *,
        name: str,
        lifetime: float,
        role: Role,
        read_only: bool,
        exchange: Exchange,
        service_account: str | None = None,
    ) -> tuple[str, Token]: ...
    async def renew(
        self, owner: Identity, token_id: str, *, overlap: float | None, exchange: Exchange
    ) -> tuple[str, Token]: ...
    async def revoke(self, actor: Identity, token_id: str, exchange: Exchange) -> None: ...
    async def list_for(self, identity: Identity) -> Sequence[Token]: ...
    async def list_all(self) -> Sequence[Token]: ...


class Show(Protocol):
    """A page with forms about tokens, shown again with what was wrong and what was typed."""

    async def __call__(
        self, scope: Scope, send: Send, refused: Refused, fields: Mapping[str, str]
    ) -> None: ...


class TokenForms:
    """What the forms about tokens are sent to; each method is an ASGI application.

    `account` and `service_accounts` show the page that a form stood on, once more where it was refused.
    """

    def __init__(
        self, tokens: Tokens, rules: Rules, may_manage: MayManage, account: Show, service_accounts: Show
    ) -> None:
        self._tokens = tokens
        self._rules = rules
        self._may_manage = may_manage
        self._account = account
        self._service_accounts = service_accounts

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST ``/-/account/tokens``: the answer is the one page that ever shows the secret."""
        sent = await posted(scope, receive, send, self._back(ACCOUNT), self._may_manage)
        if sent is None:
            return
        identity, fields = sent
        account = fields.get("service_account")
        try:
            asked = token_forms.asked(fields, time.time())
            secret, token = await self._tokens.create(
                identity,
                name=asked.name,
                lifetime=asked.lifetime,
                role=asked.role,
                read_only=asked.read_only,
                exchange=scope["exchange"],
                service_account=account,
            )
        except Refused as refused:
            show = self._account if account is None else self._service_accounts
            await show(scope, send, refused, fields)
            return
        await self._show_once(scope, send, secret, token, None)

    async def renew(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST ``/-/account/tokens/renew``: a new secret, shown once, in place of the form's `token`."""
        sent = await posted(scope, receive, send, self._back(ACCOUNT), self._may_manage)
        if sent is None:
            return
        identity, fields = sent
        try:
            overlap = token_forms.overlap(fields)
            secret, token = await self._tokens.renew(
                identity, fields.get("token", ""), overlap=overlap, exchange=scope["exchange"]
            )
        except Refused as refused:
            await self._again(fields)(scope, send, refused, fields)
            return
        await self._show_once(scope, send, secret, token, overlap)

    async def revoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST ``/-/account/tokens/revoke``: ends the form's `token`; whose it may be, the tokens decide."""
        sent = await posted(scope, receive, send, self._back(ACCOUNT), self._may_manage)
        if sent is None:
            return
        identity, fields = sent
        try:
            await self._tokens.revoke(identity, fields.get("token", ""), scope["exchange"])
        except Refused as refused:
            await self._again(fields)(scope, send, refused, fields)
            return
        if fields.get("back") == "service-accounts":
            where = f"{SERVICE_ACCOUNTS}?revoked"
        else:
            everyone = identity.role >= Role.ADMIN and fields.get("back") == "everyone"
            where = f"{ACCOUNT}?revoked{'&everyone' if everyone else ''}"
        await see_other(scope, send, self._back(where))

    def _again(self, fields: Mapping[str, str]) -> Show:
        return self._service_accounts if fields.get("back") == "service-accounts" else self._account

    def _back(self, path: str) -> str:
        return f"{self._rules.prefix}{path}"

    async def _show_once(
        self, scope: Scope, send: Send, secret: str, token: Token, overlap: float | None
    ) -> None:
        service = token.user.startswith(SERVICE_PREFIX)
        body = _MADE.render(
            secret=secret,
            token=shown(token, time.time()),
            lines=shell_lines(address(scope, self._rules), secret),
            credentials=credentials_file(secret),
            own_authority=self._rules.own_authority,
            old=None if overlap is None else duration(overlap) if overlap else "",
            service=service,
            back=self._back(SERVICE_ACCOUNTS if service else ACCOUNT),
        )
        scope["exchange"].status = 200
        await answer(scope, send, 200, body, HTML, policy=_MADE.policy)


async def posted(
    scope: Scope, receive: Receive, send: Send, back: str, may_manage: MayManage
) -> tuple[Identity, dict[str, str]] | None:
    """Who sent a form, and its fields. None where it was only looked at, and has been led `back`.

    A form that is refused leaves the browser at the form's own address, and people reload.
    Raises Refused: 403 for a caller who may manage nothing, 405, and what `form` raises.
    """
    if scope["method"] in ("GET", "HEAD"):
        await see_other(scope, send, back)
        return None
    if scope["method"] != "POST":
        allow = (b"allow", b"GET, HEAD, POST")
        raise Refused(405, "Only POST is served here.", reason="bad_request", headers=(allow,))
    return managing(scope, may_manage), await form(scope, receive)


def managing(scope: Scope, may_manage: MayManage) -> Identity:
    """The caller. Raises Refused (403) where `may_manage` says why not."""
    identity = identity_of(scope)
    assert identity is not None
    if (why := may_manage(identity)) is not None:
        raise Refused(403, why, reason="forbidden")
    return identity


async def see_other(scope: Scope, send: Send, where: str) -> None:
    """Lead a browser on with GET (RFC 9110, section 15.4.4); `where` is a path of ours."""
    scope["exchange"].status = 303
    await answer(scope, send, 303, b"", HTML, headers=((b"location", where.encode()),))


def refusal(scope: Scope, refused: Refused) -> Headers:
    """Note in the exchange that a page says why something was refused; the headers that go with it."""
    exchange: Exchange = scope["exchange"]
    exchange.status = refused.status
    exchange.refusal = refused.reason
    if refused.retry_after is None:
        return refused.headers
    return (*refused.headers, (b"retry-after", b"%d" % refused.retry_after))


def shown(token: Token, now: float) -> dict[str, object]:
    """A token for a template."""
    return {
        "id": token.id,
        "name": token.name,
        "user": token.user,
        "role": token.role.name.lower(),
        "read_only": token.read_only,
        "state": token.state,
        "by": token.created_by if token.created_by != token.user else "",
        "created": span(now - token.created),
        "created_at": moment(token.created),
        "expires": ahead(token.expires - now) if token.expires > now else span(now - token.expires),
        "expires_at": moment(token.expires),
        "soon": 0 < token.expires - now < _SOON,
        "used": None if token.last_used is None else span(now - token.last_used),
        "used_at": "" if token.last_used is None else moment(token.last_used),
        "used_from": token.last_used_from or "an unknown address",
        "replaced": token.renewed is not None,
        "revoked_by": token.revoked_by or "",
    }


def listed(tokens: Sequence[Token], now: float) -> dict[str, object]:
    """Those that count, or may count again, and the OVER_SHOWN newest that are over, for a template, and how
    many of the latter are left out."""
    over = [token for token in tokens if token.state in _OVER]
    over.sort(key=lambda token: token.created, reverse=True)
    return {
        "live": [shown(token, now) for token in tokens if token.state not in _OVER],
        "over": [shown(token, now) for token in over[:OVER_SHOWN]],
        "hidden": len(over[OVER_SHOWN:]),
    }


def address(scope: Scope, rules: Rules) -> str:
    """This server's address, as MLFLOW_TRACKING_URI wants it."""
    if rules.public_url:
        return rules.public_url.rstrip("/")
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return f"{scope['exchange'].scheme}://{host.decode('latin-1')}"


def shell_lines(url: str, secret: str) -> str:
    """What makes MLflow's client use the token, for a shell.

    A user name and password beat the token where they are set (mlflow/utils/rest_utils.py, http_request).
    """
    return (
        f"export MLFLOW_TRACKING_URI={shlex.quote(url)}\n"
        f"export MLFLOW_TRACKING_TOKEN={shlex.quote(secret)}\n"
        "unset MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD"
    )


def credentials_file(secret: str) -> str:
    """The same for ``~/.mlflow/credentials`` (mlflow/utils/credentials.py), which knows no token.

    Beside a token any user name will do, and a person's may hold what neither the file (%) nor Basic (:) can.
    """
    return f"[mlflow]\nmlflow_tracking_username = token\nmlflow_tracking_password = {secret}"
