"""What the audit log tells of: its events by name, and how any room hands one in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from proxy.exchange import Exchange

Event = Literal[
    # People and their sessions.
    "sign_in",
    "sign_in_refused",
    "sign_out",
    "session_ended",  # by somebody else, the provider or the rules
    "refused",  # a request, for its credential or its role
    # Programs' credentials.
    "token_created",
    "token_first_used",
    "token_renewed",
    "token_revoked",
    "tokens_suspended",  # the provider has ended a person's access
    "tokens_restored",
    "service_account_created",
    "service_account_removed",
    # Who may do what.
    "user_added",
    "user_removed",
    "role_changed",
    "password_changed",
    # In MLflow.
    "deletion",
    "restoration",
    "permission_change",
    "administration",  # anything else that takes an administrator
    # The service and the log itself.
    "service_started",
    "service_stopped",
    "settings_reloaded",
    "chain_started",
    "chain_continued",
    "chain_broken",
    "file_started",
    "line_torn",
    "events_lost",
]
EVENTS: frozenset[str] = frozenset(get_args(Event))
"""docs/audit-log.md says what each means."""
Outcome = Literal["success", "refused", "failed", "unknown"]
OUTCOMES: frozenset[str] = frozenset(get_args(Outcome))
Detail = str | int | float | bool | None


class Audit(Protocol):
    """Where events are handed in; AuditLog writes them, NoAudit forgets them."""

    def record(
        self,
        event: Event,
        *,
        exchange: Exchange | None = None,
        user: str = "",
        auth: str = "",
        credential: str = "",
        client: str = "",
        target: Mapping[str, str] | None = None,
        outcome: Outcome = "success",
        **details: Detail,
    ) -> None:
        """Note an event; from any thread. Never blocks, never raises.

        Who acted, with what and from where is the exchange's identity, credential, session and client;
        `user`, `auth` (how they were known), `credential` (an id, never a secret) and `client` say so where
        there is no exchange, and go before the exchange's where they are given. `target` is what it was done
        to, beside what the exchange names: experiment_id, run_id, model, user, token (its id), token_name,
        session, service_account.
        `details` is anything else that is worth a word, flat and short; a secret never is.
        """


class NoAudit:
    """Writes nothing: PROXY_AUDIT_LOG is off."""

    lost = 0
    problem: str | None = None
    counts: Mapping[str, int] = {}

    def record(
        self,
        event: Event,
        *,
        exchange: Exchange | None = None,
        user: str = "",
        auth: str = "",
        credential: str = "",
        client: str = "",
        target: Mapping[str, str] | None = None,
        outcome: Outcome = "success",
        **details: Detail,
    ) -> None:
        """Forget it."""

    def observe(self, exchange: Exchange) -> None:
        """Forget it."""

    async def run(self) -> None:
        """Nothing is to be done."""

    async def aclose(self) -> None:
        """Nothing is open."""


NO_AUDIT = NoAudit()
