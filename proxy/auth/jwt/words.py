"""What a caller is told whose JWT does not count: what is wrong with it, and what mends that."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.settings import Settings


class Words:
    """The texts of one server."""

    def __init__(self, settings: Settings) -> None:
        url = settings.public_url or ""
        account = f"{url}/-/account" if url else "the page /-/account of this server"
        another = f"Run `mlflow-proxy login {url or 'URL'}`, or make a token at {account}."
        self._another = another
        self.unreadable = f"This token is not whole, or no token at all. {another}"
        self.endless = (
            f"This token does not say when it ends (exp), and such ones do not count here. {another}"
        )
        self.unknown_key = (
            "This token is signed with a key that is not among its issuer's published ones: the issuer has "
            f"withdrawn it, or never had it. {another}"
        )
        self.new_key = (
            "This token is signed with a key that is not known yet. The issuer's keys are fetched again in a "
            "moment: try again then."
        )
        self.no_keys = (
            "The issuer of this token does not show its keys at the moment, so the token can't be verified. "
            "Try again in a moment; the operator of this server finds the reason in its log."
        )
        self.no_database = (
            "The database of people does not answer, so it can't be said who is calling. Try again in a "
            "moment; the operator of this server looks at PROXY_DATABASE_URL."
        )

    def other_issuer(self, issuer: Any) -> str:
        return f"Tokens of the issuer {_shown(issuer)} do not count here. {self._another}"

    def other_audience(self, found: Collection[str], wanted: Collection[str], *, main: bool) -> str:
        """`wanted` are the audiences that would be right."""
        names = " or ".join(map(repr, dict.fromkeys(wanted)))
        mending = self._another if main else "Ask its issuer for one with that audience."
        return (
            f"This token is for {', '.join(map(_shown, found)) or 'nobody'} (aud), not for {names}. {mending}"
        )

    def expired(self, when: float, *, main: bool) -> str:
        mending = self._another if main else "Get a new one from its issuer."
        return f"This token has expired on {_moment(when)}. {mending}"

    def too_early(self, when: float, now: float) -> str:
        return (
            f"This token is not valid before {_moment(when)} (nbf, iat), and it is {_moment(now)} here. Wait "
            "until then; if a clock is wrong, that has to be mended."
        )

    def not_for_access(self, kind: str) -> str:
        return f"This token is {kind}. {self._another}"

    def not_signed(self, check: str) -> str:
        return f"This token can't be believed. {check} {self._another}"

    def required(self, claim: str) -> str:
        return (
            f"This token's claim {claim} is missing, or does not have a value that gets in here. The "
            "administrator of this server knows which do (required_claims)."
        )


def _shown(value: Any) -> str:
    return repr(value if not isinstance(value, str) or len(value) <= 200 else value[:200] + "...")[:300]


def _moment(when: float) -> str:
    """For a person, in UTC: a server does not know the reader's time zone."""
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "a time beyond the calendar"
