"""/-/account: who one is here, one's sessions and the way to end each; for an admin everybody's."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import parse_qs

from proxy.exchange import Exchange, Refused
from proxy.identity import Role, identity_of
from proxy.pages.answers import HTML, App, Receive, Scope, Send, answer
from proxy.pages.forms import form
from proxy.pages.health import other_method
from proxy.pages.templating import Page

_PAGE = Page("account.html", forms=True)
SHOWN = 200
"""How many of everybody's sessions a page shows, the lately used first."""


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

    async def list_for(self, user: str) -> Sequence[Session]: ...
    async def list_all(self) -> Sequence[Session]: ...
    async def end(self, session_id: str, by: str) -> object: ...


def account(
    sessions: Sessions,
    current: Callable[[Scope], str | None],
    prefix: str = "",
    sign_out_origin: Callable[[], str | None] = lambda: None,
) -> App:
    """The application for GET ``/-/account``; `?everyone` adds everybody's sessions for an admin.

    `current` gives the id of the session that a request came with, None for a password sent with it.
    `prefix` is the public URL's path. `sign_out_origin` is the provider's origin that signing out leads to
    (https://host[:port]), which the page's policy has to let through.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await other_method(scope, send):
            return
        identity = identity_of(scope)
        assert identity is not None
        try:
            asked = scope["query_string"].decode("latin-1")
            query = parse_qs(asked, keep_blank_values=True, max_num_fields=20)
        except ValueError:
            raise Refused(400, "The query can't be read.", reason="bad_request") from None
        admin = identity.role >= Role.ADMIN
        everyone = admin and "everyone" in query
        here, now = current(scope), time.time()
        mine = _lately_used(await sessions.list_for(identity.user))
        all_of_them = _lately_used(await sessions.list_all()) if everyone else []
        this = next((session for session in mine if session.id == here), None)
        body = _PAGE.render(
            prefix=prefix,
            user=identity.user,
            name=this.name if this else "",
            email=this.email if this else "",
            role=identity.role.name.lower(),
            method=_METHODS.get(identity.method, identity.method),
            can=_CAN[identity.role],
            ended="ended" in query,
            signed_in=here is not None,
            admin=admin,
            everyone=everyone,
            mine=[_shown(session, here, now) for session in mine],
            others=[_shown(session, here, now) for session in all_of_them[:SHOWN]],
            left_out=max(0, len(all_of_them) - SHOWN),
        )
        scope["exchange"].status = 200
        await answer(scope, send, 200, body, HTML, policy=_PAGE.policy_with(sign_out_origin()))

    return app


def end_session(sessions: Sessions, prefix: str = "") -> App:
    """The application for POST ``/-/account/end``: ends the session named by the form's ``session``.

    One's own, or anyone's for an admin. To anybody else another's session is as one that there is not.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        if scope["method"] != "POST":
            raise Refused(
                405, "Only POST is served here.", reason="bad_request", headers=((b"allow", b"POST"),)
            )
        identity = identity_of(scope)
        assert identity is not None
        fields = await form(scope, receive)
        admin = identity.role >= Role.ADMIN
        reach: Callable[[], Awaitable[Sequence[Session]]] = (
            sessions.list_all if admin else lambda: sessions.list_for(identity.user)
        )
        wanted = fields.get("session", "")
        if any(session.id == wanted for session in await reach()):
            await sessions.end(wanted, identity.user)
        # Also where it had ended already: what was asked for is so.
        where = f"{prefix}/-/account?ended{'&everyone' if admin and 'everyone' in fields else ''}"
        exchange.status = 303
        await answer(scope, send, 303, b"", HTML, headers=((b"location", where.encode()),))

    return app


_METHODS = {"session": "signed in", "basic": "a user name and password with each request"}
_CAN = {
    Role.NONE: "nothing here",
    Role.VIEWER: "see and search everything, and change nothing",
    Role.EDITOR: "see everything, log runs and change what is logged",
    Role.ADMIN: "do everything, deleting and administration included",
}


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


def moment(unix: float) -> str:
    """For a person, in UTC: a server does not know the reader's time zone."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def span(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


# The first that matches: Edge and Opera also call themselves Chrome, Chrome also Safari.
_BROWSERS = (
    (re.compile(r"Edg(?:e|A|iOS)?/"), "Edge"),
    (re.compile(r"OPR/"), "Opera"),
    (re.compile(r"(?:Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"(?:Headless)?Chrom(?:e|ium)/|CriOS/"), "Chrome"),
    (re.compile(r"Version/[0-9.]+ .*Safari/"), "Safari"),
)
_SYSTEMS = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def device(user_agent: str) -> str:
    """A browser's User-Agent in words that a person knows it by, else its beginning."""
    browser = next((name for pattern, name in _BROWSERS if pattern.search(user_agent)), None)
    if browser is None:
        return user_agent[:60] or "an unnamed program"
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    return f"{browser} on {system}" if system else browser
