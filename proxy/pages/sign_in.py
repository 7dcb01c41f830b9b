"""The pages around signing in: the ways in, what went wrong, signed in from another tab, signed out."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from proxy.exchange import Exchange
from proxy.pages.answers import HTML, Headers, Receive, Scope, Send, answer
from proxy.pages.health import other_method
from proxy.pages.templating import Page

_SIGN_IN = Page("sign_in.html", script="sign_in.js", forms=True)
_PROBLEM = Page("problem.html")
_SIGNED_IN = Page("signed_in.html", script="signed_in.js")
_SIGNED_OUT = Page("signed_out.html")
# What a page shows of another's words is cut: an identity provider's text has no bound of its own.
_SAID_AT_MOST = 500


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in that are switched on, as paths on this host with the public URL's own path before them."""

    start: str | None
    """Where signing in with the provider begins (``<prefix>/oauth2/start``); None without a provider."""
    provider: str
    """What the button calls the provider: its host's name, say."""
    form: str | None
    """Where user name and password go (POST ``<prefix>/oauth2/sign_in``); None where Basic is off."""


async def sign_in(
    scope: Scope,
    send: Send,
    ways: Ways,
    rd: str,
    *,
    status: int = 200,
    message: str | None = None,
    user: str = "",
    headers: Headers = (),
) -> None:
    """Answer with the sign-in page; its forms carry `rd`, and the browser's fragment where `rd` has none.

    GET `ways.start` gets ``rd``; POST `ways.form` gets ``rd``, ``username`` and ``password`` (`forms.form`).
    `rd` is a path that was checked. `message` is said above the forms, as an alarm unless `status` is 200:
    why the last try failed (`user` is then filled in again), or that one has signed out.
    """
    exchange: Exchange = scope["exchange"]
    exchange.status = status
    body = _SIGN_IN.render(
        title="Sign in",
        start=ways.start,
        provider=ways.provider,
        form=ways.form,
        rd=rd,
        user=user,
        message=message,
        alarm=message is not None and status != 200,
    )
    await answer(scope, send, status, body, HTML, headers=headers, policy=_SIGN_IN.policy)


async def problem(
    scope: Scope,
    send: Send,
    status: int,
    title: str,
    message: str,
    *,
    said: str | None = None,
    check: str | None = None,
    again: str | None = None,
    again_label: str = "Sign in again",
    headers: Headers = (),
) -> None:
    """Answer a person with what went wrong, with the request id.

    `message` is what happened, `said` the provider's own words, shown as text, `check` what the operator can
    look at, `again` where the way goes on. The caller notes the refusal or error in the exchange.
    """
    exchange: Exchange = scope["exchange"]
    exchange.status = status
    body = _PROBLEM.render(
        title=title,
        message=message,
        said=said[:_SAID_AT_MOST] if said else None,
        check=check,
        again=again,
        again_label=again_label,
        status=status,
        phrase=HTTPStatus(status).phrase,
        request_id=exchange.request_id,
    )
    await answer(scope, send, status, body, HTML, headers=headers, policy=_PROBLEM.policy)


async def signed_in(scope: Scope, receive: Receive, send: Send) -> None:
    """``/-/signed-in``: where a sign-in in a tab of its own ends; it tells the waiting tab, and closes."""
    if not await other_method(scope, send):
        scope["exchange"].status = 200
        await answer(scope, send, 200, _SIGNED_IN.render(), HTML, policy=_SIGNED_IN.policy)


async def signed_out(scope: Scope, send: Send, again: str, *, headers: Headers = ()) -> None:
    """The page after signing out; `again` is the path of the sign-in page. It needs nobody signed in."""
    scope["exchange"].status = 200
    body = _SIGNED_OUT.render(again=again)
    await answer(scope, send, 200, body, HTML, headers=headers, policy=_SIGNED_OUT.policy)
