"""What a caller is told whose token does not count: what is wrong with it, since when, and what mends it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxy.auth.tokens.judging import Standing
from proxy.identity import SERVICE_ISSUER
from proxy.store import TokenRow

if TYPE_CHECKING:
    from proxy.settings import Settings

NO_DATABASE = (
    "The database of tokens does not answer, so it can't be said who is calling. Try again in a moment; the "
    "operator of this server looks at PROXY_DATABASE_URL."
)


class Words:
    """The texts of one server."""

    def __init__(self, settings: Settings) -> None:
        url = settings.public_url or ""
        self._account = f"{url}/-/account" if url else "the page /-/account of this server"
        self._sign_in = f"{url}/oauth2/sign_in" if url else "the page /oauth2/sign_in of this server"
        another = f"Make another one at {self._account}, or run `mlflow-proxy login {url or 'URL'}`."
        self.not_whole = (
            f"This token is not whole: its checksum is wrong. Copy it again, to its last character. {another}"
        )
        self.unknown = f"This token is not known here; it may be another server's. {another}"
        self._another = another

    def refusal(self, row: TokenRow, standing: Standing) -> str:
        """For whoever holds the secret of ``row``, which does not count."""
        service = row.issuer == SERVICE_ISSUER
        another = self._another
        if service:
            another = f"An administrator makes another one at {self._account}."
        token = f"The token {row.name!r} of {standing.owner.user}"
        match standing.state:
            case "revoked":
                by = f" by {row.revoked_by}" if row.revoked_by else ""
                return f"{token} was revoked on {day(row.revoked or 0.0)}{by}. {another}"
            case "expired" if row.renewed is not None:
                return (
                    f"{token} was renewed on {day(row.renewed)}, and the old one has expired on "
                    f"{day(row.expires)}: use the new one. {another}"
                )
            case "expired":
                return f"{token} has expired on {day(row.expires)}. {another}"
            case "suspended":
                return (
                    f"{token} does not count at present: its owner {standing.owner.why}. Sign in again at "
                    f"{self._sign_in} with a browser, and it counts again."
                )
        return f"{token} counts no more: its owner {standing.owner.why}. Ask an administrator of this server."


def day(unix: float) -> str:
    """A moment for a person, in UTC: a server does not know the reader's time zone."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")
