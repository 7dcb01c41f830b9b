"""What the audit log tells of: its events by name, and how any room hands one in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from proxy.exchange import Exchange

Event = Literal[
    "sign_in",  # a session has begun; details: provider or password
    "sign_in_refused",  # who asked to sign in was not let in; details: why
    "sign_out",  # a person ended the session at hand
    "session_ended",  # a session was ended by somebody else, the provider or the rules; details: by whom
    "refused",  # a request was refused for its credential or its role; details: repeats in the last minute
    "token_created",
    "token_first_used",
    "token_renewed",
    "token_revoked",
    "tokens_suspended",  # the provider has ended a person's access; the target's tokens count no more
    "tokens_restored",  # the person has signed in again
    "service_account_created",
    "service_account_removed",
    "user_added",  # in the users file
    "user_removed",
    "role_changed",  # of a user, a service account, or a person whose groups have changed
    "password_changed",
    "deletion",  # something of MLflow's was deleted, or that was tried
    "permission_change",  # of who may do what in MLflow
    "administration",  # anything else that takes an administrator in MLflow
    "service_started",
    "service_stopped",
    "chain_started",  # the first line of all
    "chain_continued",  # the first line after a start: with what this process found
    "chain_broken",  # the file found at a start, or while running, is not the one that was written
    "events_lost",  # what could not be written; details: how many
]
EVENTS: frozenset[str] = frozenset(get_args(Event))
Outcome = Literal["success", "refused", "failed"]
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
        credential: str = "",
        client: str = "",
        target: Mapping[str, str] | None = None,
        outcome: Outcome = "success",
        **details: Detail,
    ) -> None:
        """Note an event; from any thread. Never blocks, never raises.

        Who acted, with what and from where is the exchange's identity, credential, session and client;
        `user`, `credential` (an id, never a secret) and `client` say so where there is no exchange, and go
        before the exchange's where they are given. `target` is what it was done to: experiment_id, run_id,
        model, user, token (its id), token_name, session, service_account. `details` is anything else that is
        worth a word, flat and short: a secret never is.
        """


class NoAudit:
    """Writes nothing: PROXY_AUDIT_LOG is off."""

    def record(
        self,
        event: Event,
        *,
        exchange: Exchange | None = None,
        user: str = "",
        credential: str = "",
        client: str = "",
        target: Mapping[str, str] | None = None,
        outcome: Outcome = "success",
        **details: Detail,
    ) -> None:
        """Forget it."""


NO_AUDIT = NoAudit()
