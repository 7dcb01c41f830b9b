"""/-/account: who one is here, one's tokens and sessions, the ways to end each; for an admin everybody's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qs

from proxy.exchange import Exchange, Refused
from proxy.identity import Identity, Role, identity_of
from proxy.pages import service_accounts, token_forms
from proxy.pages.answers import HTML, App, Receive, Scope, Send, answer
from proxy.pages.health import other_method
from proxy.pages.service_accounts import ServiceAccountsPage
from proxy.pages.templating import Page
from proxy.pages.token_forms import Rules
from proxy.pages.tokens import (
    ACCOUNT,
    SERVICE_ACCOUNTS,
    MayManage,
    Token,
    TokenForms,
    Tokens,
    address,
    listed,
    posted,
    refusal,
    see_other,
)
from proxy.pages.wording import device, moment, span

_PAGE = Page("account.html", forms=True)
SHOWN = 200
"""How many of everybody's sessions a page shows, the lately used first, and of everybody's tokens."""


class Session(Protocol):
    """One session as its row in the database has it. Times are Unix seconds."""

    @property
    def id(self) -> str:
        """What names it in a form: never what the cookie carries."""
        ...

    @property
    def user(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def email(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def created(self) -> float: ...
    @property
    def last_seen(self) -> float: ...
    @property
    def ends(self) -> float: ...
    @property
    def client(self) -> str: ...
    @property
    def user_agent(self) -> str: ...


class Sessions(Protocol):
    """The running sessions; each raises Refused (503) where the database does not answer."""

    async def list_for(self, identity: Identity) -> Sequence[Session]: ...
    async def list_all(self) -> Sequence[Session]: ...
    async def end(self, session_id: str, by: str, exchange: Exchange | None = None) -> object: ...


def account_pages(
    sessions: Sessions | None,
    tokens: service_accounts.Tokens,
    current: Callable[[Scope], str | None],
    rules: Rules,
    may_manage: MayManage,
    sign_out_origin: Callable[[], str | None] = lambda: None,
) -> dict[str, App]:
    """The applications below ``/-/account``, by their paths.

    `sessions` is None where nobody signs in: each request brings a password. `current` gives the id of the
    session that a request came with, None for a password sent with it. `sign_out_origin` is the provider's
    origin that signing out leads to (https://host[:port]), which the page's policy has to let through.
    """
    page = AccountPage(sessions, tokens, current, rules, may_manage, sign_out_origin)
    services = ServiceAccountsPage(tokens, rules, may_manage)
    forms = TokenForms(tokens, rules, may_manage, page.again, services.again)
    return {
        ACCOUNT: page,
        f"{ACCOUNT}/end": page.end_session,
        f"{ACCOUNT}/tokens": forms.create,
        f"{ACCOUNT}/tokens/renew": forms.renew,
        f"{ACCOUNT}/tokens/revoke": forms.revoke,
        SERVICE_ACCOUNTS: services,
        f"{SERVICE_ACCOUNTS}/remove": services.remove,
    }


class AccountPage:
    """GET ``/-/account``; `?everyone` adds everybody's tokens and sessions for an admin."""

    def __init__(
        self,
        sessions: Sessions | None,
        tokens: Tokens,
        current: Callable[[Scope], str | None],
        rules: Rules,
        may_manage: MayManage,
        sign_out_origin: Callable[[], str | None],
    ) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._current = current
        self._rules = rules
        self._may_manage = may_manage
        self._sign_out_origin = sign_out_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if await other_method(scope, send):
            return
        try:
            asked = scope["query_string"].decode("latin-1")
            query = parse_qs(asked, keep_blank_values=True, max_num_fields=20)
        except ValueError:
            raise Refused(400, "The query can't be read.", reason="bad_request") from None
        body = await self._render(scope, everyone="everyone" in query, done=_done(query))
        scope["exchange"].status = 200
        await answer(scope, send, 200, body, HTML, policy=_PAGE.policy_with(self._sign_out_origin()))

    async def again(self, scope: Scope, send: Send, refused: Refused, fields: Mapping[str, str]) -> None:
        """The page in answer to a form of it that was refused, with what was typed."""
        everyone = fields.get("back") == "everyone"
        body = await self._render(scope, everyone=everyone, refused=refused, typed=fields)
        headers = refusal(scope, refused)
        policy = _PAGE.policy_with(self._sign_out_origin())
        await answer(scope, send, refused.status, body, HTML, headers=headers, policy=policy)

    async def end_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST ``/-/account/end``: ends the session named by the form's ``session``.

        One's own, or anyone's for an admin. To anybody else another's session is as one that there is not.
        """
        sent = await posted(scope, receive, send, f"{self._rules.prefix}{ACCOUNT}", self._may_manage)
        if sent is None:
            return
        identity, fields = sent
        admin = identity.role >= Role.ADMIN
        if (sessions := self._sessions) is not None:
            reach: Callable[[], Awaitable[Sequence[Session]]] = (
                sessions.list_all if admin else lambda: sessions.list_for(identity)
            )
            wanted = fields.get("session", "")
            if any(session.id == wanted for session in await reach()):
                await sessions.end(wanted, identity.user, scope["exchange"])
        # Also where it had ended already: what was asked for is so.
        everyone = "&everyone" if admin and "everyone" in fields else ""
        await see_other(scope, send, f"{self._rules.prefix}{ACCOUNT}?ended{everyone}")

    async def _render(
        self,
        scope: Scope,
        *,
        everyone: bool,
        done: str | None = None,
        refused: Refused | None = None,
        typed: Mapping[str, str] | None = None,
    ) -> bytes:
        identity = identity_of(scope)
        assert identity is not None
        admin = identity.role >= Role.ADMIN
        everyone = everyone and admin
        here, now = self._current(scope), time.time()
        why_not = self._may_manage(identity)
        mine: list[Session] = []
        others: list[Session] = []
        tokens: list[Token] | None = []
        all_tokens: list[Token] = []
        if why_not is None:
            try:
                if self._sessions is not None:
                    mine = _lately_used(await self._sessions.list_for(identity))
                    others = _lately_used(await self._sessions.list_all()) if everyone else []
                tokens = list(await self._tokens.list_for(identity))
                all_tokens = list(await self._tokens.list_all()) if everyone else []
            except Refused:
                # Where the database is away, what was typed is still to be kept.
                if refused is None:
                    raise
                tokens = None
        making = typed is not None and "expiry" in typed
        this = next((session for session in mine if session.id == here), None)
        return _PAGE.render(
            prefix=self._rules.prefix,
            address=address(scope, self._rules),
            user=identity.user,
            name=this.name if this else "",
            email=this.email if this else "",
            role=identity.role.name.lower(),
            method=_method(identity),
            can=_CAN[identity.role],
            done=done,
            problem=refused.message if refused else None,
            signed_in=here is not None,
            why_not=why_not,
            admin=admin,
            everyone=everyone,
            tokens=None if tokens is None else listed(tokens, now),
            all_tokens=listed(all_tokens[:SHOWN], now),
            tokens_left_out=max(0, len(all_tokens) - SHOWN),
            making=making,
            new=token_forms.choices(self._rules, identity.role, now, typed if typed and making else {}),
            overlaps=token_forms.overlaps(self._rules),
            sessions=self._sessions is not None,
            mine=[_shown(session, here, now) for session in mine],
            others=[_shown(session, here, now) for session in others[:SHOWN]],
            left_out=max(0, len(others) - SHOWN),
        )


_DONE = {"ended": "The session has ended.", "revoked": "The token is revoked: it counts no more."}
_METHODS = {"session": "signed in", "basic": "a user name and password with each request"}
_CAN = {
    Role.NONE: "nothing here",
    Role.VIEWER: "see and search everything, and change nothing",
    Role.EDITOR: "see everything, log runs and change what is logged",
    Role.ADMIN: "do everything, deleting and administration included",
}


def _done(query: Mapping[str, object]) -> str | None:
    return next((words for name, words in _DONE.items() if name in query), None)


def _method(identity: Identity) -> str:
    credential = identity.credential
    if credential is None:
        return _METHODS.get(identity.method, identity.method)
    kind = "a token" if identity.method == "token" else "a token of the identity provider"
    return f"{kind}, {credential.name}" if credential.name else kind


def _lately_used(sessions: Sequence[Session]) -> list[Session]:
    return sorted(sessions, key=lambda session: session.last_seen, reverse=True)


def _shown(session: Session, here: str | None, now: float) -> dict[str, object]:
    return {
        "id": session.id,
        "here": session.id == here,
        "user": session.user,
        "role": session.role.name.lower(),
        "device": device(session.user_agent),
        "client": session.client,
        "created": span(now - session.created),
        "created_at": moment(session.created),
        "last_seen": span(now - session.last_seen),
        "last_seen_at": moment(session.last_seen),
        "ends_at": moment(session.ends),
    }
