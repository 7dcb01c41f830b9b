"""`mlflow-proxy sessions`: lists and ends sessions beside a running service, through its database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.auth.beside import columns, database, when
from proxy.auth.session.info import SessionInfo, session_info
from proxy.errors import UserError
from proxy.store import Connection
from proxy.store import sessions as rows

if TYPE_CHECKING:
    from proxy.settings import Settings

_SHORT = 12  # characters of an id that a list shows, and that are enough to name it
_LEAST = 6


def list_sessions(settings: Settings) -> list[SessionInfo]:
    """Everybody's running sessions, the latest used first. Raises UserError."""
    with database(settings) as run:
        return [
            session_info(row) for row in run(lambda db: rows.live(db, time.time(), settings.session_idle))
        ]


def end_sessions(settings: Settings, which: str) -> list[SessionInfo]:
    """End the session whose id begins with ``which``, or all of the user of that name; returns those ended.

    The service refuses them within seconds. Raises UserError where none is meant, or several ids are.
    """

    def end(db: Connection) -> list[SessionInfo]:
        now = time.time()
        live = rows.live(db, now, settings.session_idle)
        found = [row for row in live if row.user == which]
        if not found and len(which) >= _LEAST:
            found = [row for row in live if row.id.startswith(which.lower())]
            if len(found) > 1:
                raise UserError(f"{which!r} is the beginning of {len(found)} sessions' ids: write more of it")
        if not found:
            raise UserError(
                f"no running session has the user {which!r} or an id that begins so: "
                "`mlflow-proxy sessions list` shows them"
            )
        rows.end(db, [row.id for row in found], now, "the command line")
        return [session_info(row) for row in found]

    with database(settings) as run:
        return run(end)


def table(sessions: Sequence[SessionInfo]) -> str:
    """Sessions in columns, a line each, with a line above that names them."""
    lines = [("id", "user", "role", "began", "last used", "address", "browser")]
    for each in sessions:
        texts = (each.user, each.role.name.lower(), when(each.created), when(each.last_seen))
        lines.append((each.id[:_SHORT], *texts, each.client, each.user_agent[:60]))
    return columns(lines)
