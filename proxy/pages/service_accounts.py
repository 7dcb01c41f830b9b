"""/-/account/service-accounts: what belongs to no person, for admins: made, given tokens, removed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qs

from proxy.exchange import Exchange, Refused
from proxy.identity import SERVICE_PREFIX, Identity, Role
from proxy.pages import token_forms, tokens
from proxy.pages.answers import HTML, Receive, Scope, Send, answer
from proxy.pages.forms import form
from proxy.pages.templating import Page
from proxy.pages.tokens import SERVICE_ACCOUNTS, MayManage, listed, managing, posted, refusal, see_other
from proxy.pages.wording import moment, span

_PAGE = Page("service_accounts.html", forms=True)


class ServiceAccount(Protocol):
    """A service account as its row in the database has it; `name` is without the prefix of its user name."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def description(self) -> str: ...
    @property
    def created(self) -> float:
        """Unix seconds."""
        ...

    @property
    def created_by(self) -> str: ...


class Tokens(tokens.Tokens, Protocol):
    """The tokens, and the service accounts that some are for; each raises Refused as those do."""

    async def create_service_account(
        self, actor: Identity, name: str, role: Role, description: str, exchange: Exchange
    ) -> object: ...
    async def remove_service_account(self, actor: Identity, name: str, exchange: Exchange) -> object: ...
    async def list_service_accounts(self) -> Sequence[ServiceAccount]: ...


class ServiceAccountsPage:
    """``/-/account/service-accounts``: GET shows them with their tokens, POST makes one."""

    def __init__(self, tokens: Tokens, rules: token_forms.Rules, may_manage: MayManage) -> None:
        self._tokens = tokens
        self._rules = rules
        self._may_manage = may_manage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            body = await self._render(scope, self._admin(scope), done=_done(scope))
            scope["exchange"].status = 200
            await answer(scope, send, 200, body, HTML, policy=_PAGE.policy)
            return
        if scope["method"] != "POST":
            allow = (b"allow", b"GET, HEAD, POST")
            raise Refused(405, "Only GET and POST are served here.", reason="bad_request", headers=(allow,))
        identity = self._admin(scope)
        fields = await form(scope, receive)
        try:
            await self._tokens.create_service_account(
                identity,
                fields.get("name", "").strip(),
                token_forms.role(fields),
                fields.get("description", "").strip(),
                scope["exchange"],
            )
        except Refused as refused:
            await self.again(scope, send, refused, fields)
            return
        await see_other(scope, send, f"{self._rules.prefix}{SERVICE_ACCOUNTS}?made")

    async def remove(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST ``/-/account/service-accounts/remove``: the account of the form's `name`, with its tokens."""
        sent = await posted(scope, receive, send, f"{self._rules.prefix}{SERVICE_ACCOUNTS}", self._may_manage)
        if sent is None:
            return
        identity, fields = sent
        _only_admins(identity)
        try:
            await self._tokens.remove_service_account(identity, fields.get("name", ""), scope["exchange"])
        except Refused as refused:
            await self.again(scope, send, refused, fields)
            return
        await see_other(scope, send, f"{self._rules.prefix}{SERVICE_ACCOUNTS}?removed")

    async def again(self, scope: Scope, send: Send, refused: Refused, fields: Mapping[str, str]) -> None:
        """The page in answer to a form of it that was refused, with what was typed."""
        body = await self._render(scope, self._admin(scope), refused=refused, typed=fields)
        headers = refusal(scope, refused)
        await answer(scope, send, refused.status, body, HTML, headers=headers, policy=_PAGE.policy)

    def _admin(self, scope: Scope) -> Identity:
        identity = managing(scope, self._may_manage)
        _only_admins(identity)
        return identity

    async def _render(
        self,
        scope: Scope,
        identity: Identity,
        *,
        done: str | None = None,
        refused: Refused | None = None,
        typed: Mapping[str, str] | None = None,
    ) -> bytes:
        now, typed = time.time(), typed or {}
        accounts: Sequence[ServiceAccount] | None
        by_user: dict[str, list[tokens.Token]] = {}
        try:
            accounts = await self._tokens.list_service_accounts()
            for token in await self._tokens.list_all():
                by_user.setdefault(token.user, []).append(token)
        except Refused:
            # Where the database is away, what was typed is still to be kept.
            if refused is None:
                raise
            accounts = None
        # The form for a token has an expiry, the one for an account a description.
        for_account = typed.get("service_account") if "expiry" in typed else None
        making = "description" in typed
        return _PAGE.render(
            prefix=self._rules.prefix,
            done=done,
            problem=refused.message if refused else None,
            accounts=None
            if accounts is None
            else [
                {
                    "name": account.name,
                    "user": f"{SERVICE_PREFIX}{account.name}",
                    "role": account.role.name.lower(),
                    "description": account.description,
                    "by": account.created_by,
                    "created": span(now - account.created),
                    "created_at": moment(account.created),
                    "tokens": listed(by_user.get(f"{SERVICE_PREFIX}{account.name}", []), now),
                    "making": account.name == for_account,
                    "new": token_forms.choices(
                        self._rules,
                        min(account.role, identity.role),
                        now,
                        typed if account.name == for_account else {},
                    ),
                }
                for account in accounts
            ],
            overlaps=token_forms.overlaps(self._rules),
            making=making,
            name=typed.get("name", "") if making else "",
            description=typed.get("description", ""),
            **token_forms.roles(identity.role, typed if making else {}),
        )


_DONE = {
    "made": "The service account is there. Make a token for it now.",
    "removed": "The service account is removed, and its tokens count no more.",
    "revoked": "The token is revoked: it counts no more.",
}


def _done(scope: Scope) -> str | None:
    try:
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise Refused(400, "The query can't be read.", reason="bad_request") from None
    return next((words for name, words in _DONE.items() if name in query), None)


def _only_admins(identity: Identity) -> None:
    if identity.role < Role.ADMIN:
        message = (
            f"{identity.user} is no admin; service accounts are for admins. "
            "Ask an administrator of this server."
        )
        raise Refused(403, message, reason="forbidden")
