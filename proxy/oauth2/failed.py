"""A sign-in that did not succeed: what a person, a program, the log and the metrics are told."""

from __future__ import annotations

from proxy.auth.oidc import ProviderError
from proxy.exchange import Refused
from proxy.oauth2.cookies import ROUND_SECONDS, ROUNDS
from proxy.oauth2.site import Headers, Site
from proxy.pages import sign_in
from proxy.pages.answers import Scope, Send
from proxy.pages.errors import is_navigation

_STATUS = {
    "unavailable": 503,
    "bad_answer": 502,
    "misconfigured": 502,
    "bad_state": 400,
    "loop": 400,
}  # all others: 403
_TITLES = {
    "unavailable": "The identity provider does not answer",
    "bad_answer": "The identity provider's answer can't be used",
    "misconfigured": "The identity provider and this server don't fit",
    "bad_state": "This sign-in can't be completed",
    "bad_token": "The identity provider's answer is not valid",
    "denied": "You were not let in",
    "not_admitted": "This is not open to you",
    "no_role": "You have no role here",
    "loop": "Signing in goes round in circles",
}
_REFUSALS = {
    "unavailable": "provider_failed",
    "bad_answer": "provider_failed",
    "misconfigured": "provider_failed",
    "not_admitted": "not_admitted",
    "no_role": "not_admitted",
}  # all others: sign_in_failed


WHO_GETS_IN = (
    "who gets in is said by PROXY_ALLOWED_EMAIL_DOMAINS, PROXY_ALLOWED_EMAILS and PROXY_ALLOWED_GROUPS."
)
LOOP = ProviderError(
    "loop",
    f"You were signed in {ROUNDS} times within moments, and each time the next page did not know you. "
    f"Wait {ROUND_SECONDS} seconds before you try again.",
    check="the browser does not keep this server's cookie, or replicas do not share PROXY_COOKIE_SECRET and "
    "PROXY_DATABASE_URL, or PROXY_PUBLIC_URL is not the address that people use.",
)


def refusal_of(error: ProviderError) -> str:
    """What the exchange calls it, of exchange.REFUSALS."""
    return _REFUSALS.get(error.reason, "sign_in_failed")


async def failed(
    site: Site, scope: Scope, send: Send, error: ProviderError, rd: str, headers: Headers = ()
) -> None:
    """Say what happened: as a page where a browser navigates, else in MLflow's shape."""
    status = _STATUS.get(error.reason, 403)
    refusal = refusal_of(error)
    if not is_navigation(scope):
        raise Refused(status, str(error), reason=refusal, headers=tuple(headers))
    scope["exchange"].refusal = refusal
    said = "".join(character if character.isprintable() else " " for character in error.said[:500])
    await sign_in.problem(
        scope,
        send,
        status,
        _TITLES[error.reason],
        error.message,
        said=said or None,
        check=error.check or None,
        again=site.with_rd("/oauth2/sign_in", rd),
        headers=headers,
    )
