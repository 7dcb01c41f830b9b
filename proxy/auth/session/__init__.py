"""Sessions: a signed cookie in the browser, a row in the database, and what is known of it in memory."""

from proxy.auth.session.commands import end_sessions, list_sessions, table
from proxy.auth.session.info import SessionInfo, SignedOut
from proxy.auth.session.renewal import Provider, Roles
from proxy.auth.session.secret import cookie_secrets
from proxy.auth.session.sessions import Sessions

__all__ = [
    "Provider",
    "Roles",
    "SessionInfo",
    "Sessions",
    "SignedOut",
    "cookie_secrets",
    "end_sessions",
    "list_sessions",
    "table",
]
