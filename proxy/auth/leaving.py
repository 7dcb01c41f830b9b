"""What a user with a password leaves behind: tokens and sessions, ended by the commands that know of it."""

from __future__ import annotations

import time
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.audit import NO_AUDIT, Audit
from proxy.auth.beside import database
from proxy.identity import PASSWORD_ISSUER
from proxy.store import Connection, TokenRow, sessions
from proxy.store import tokens as rows

if TYPE_CHECKING:
    from proxy.settings import Settings

_BY = "the command line"


@dataclass(frozen=True, slots=True)
class Left:
    """How many ended."""

    tokens: int = 0
    sessions: int = 0

    def __str__(self) -> str:
        """As "2 tokens were revoked and 1 session was ended"; empty where there was nothing."""
        told = []
        for count, what, done in (
            (self.tokens, "token", "revoked"),
            (self.sessions, "session", "ended"),
        ):
            if count:
                told.append(f"{count} {what}{' was' if count == 1 else 's were'} {done}")
        return " and ".join(told)


def end_all(settings: Settings, name: str, audit: Audit = NO_AUDIT) -> Left:
    """Revoke the tokens and end the sessions of the user with a password of that name, whether there still is
    one or not. The service refuses them within seconds.

    Where there is no data directory yet there is nothing to end. Raises UserError where the database does
    not answer.
    """
    if settings.database_url is None and not settings.data_dir.is_dir():
        return Left()
    name = unicodedata.normalize("NFC", name)

    def end(db: Connection) -> tuple[list[TokenRow], list[str]]:
        now = time.time()
        found = rows.of_subject(db, PASSWORD_ISSUER, name, now)
        ended = set(rows.revoke(db, [row.id for row in found], now, _BY))
        theirs = sessions.of_provider(db, PASSWORD_ISSUER, name, None)
        return [row for row in found if row.id in ended], sessions.end(db, theirs, now, _BY)

    with database(settings) as run:
        tokens, over = run(end)
    for row in tokens:
        target = {"token": row.id, "token_name": row.name, "user": name}
        audit.record("token_revoked", user=_BY, target=target)
    for session in over:
        audit.record("session_ended", user=_BY, target={"session": session, "user": name})
    return Left(len(tokens), len(over))
