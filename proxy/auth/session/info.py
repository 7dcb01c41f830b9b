"""What is said of sessions: to people who look at them, and to callers who have none."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.identity import Role
from proxy.store import SessionRow

NO_SESSION = "There is no session, or it has ended. Sign in again."
OVER = "The session has ended. Sign in again."
NO_DATABASE = (
    "The sessions' database does not answer, so it can't be said who is calling. Try again in a moment; the "
    "operator of this server looks at PROXY_DATABASE_URL."
)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the account page and the command show it. Times are Unix seconds."""

    id: str
    user: str
    name: str
    email: str
    role: Role
    issuer: str
    """Empty for somebody who signed in with a password of ours."""
    created: float
    last_seen: float
    ends: float
    client: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class SignedOut:
    """What is left to do after a session was ended here."""

    set_cookie: bytes
    """The Set-Cookie header that makes the browser forget its cookie."""
    user: str | None
    """Who it was; None where the cookie led to no running session."""
    id_token: str | None
    """The hint that the provider's own logout wants."""


def session_info(row: SessionRow) -> SessionInfo:
    """What of a row is for people to see."""
    return SessionInfo(
        id=row.id,
        user=row.user,
        name=row.name,
        email=row.email or "",
        role=Role(row.role),
        issuer=row.issuer,
        created=row.created,
        last_seen=row.last_seen,
        ends=row.ends,
        client=row.client,
        user_agent=row.user_agent,
    )
