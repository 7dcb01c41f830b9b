"""Which finished requests the audit log tells of, and as what; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from proxy.audit.events import Detail, Event, Outcome
from proxy.operations import OPERATIONS, OWN, UNKNOWN, UNPARSED, Access, Operation, resource_of

if TYPE_CHECKING:
    from proxy.exchange import Exchange

_REFUSALS = frozenset({"unauthenticated", "locked_out", "forbidden", "not_served", "cross_origin"})
_STATUSES = frozenset({401, 403, 429, 501})
# What is known of an answer that never came whole: MLflow may have done what it was asked, or not.
_UNCERTAIN = frozenset({"client_gone", "cut_short", "reset", "stalled", "bad_answer", "client_stalled"})
_LEFT = 499  # edge.CLIENT_CLOSED_REQUEST
# The assistant's permissions, and what MLflow's own authentication would serve (server/auth/routes.py).
_PERMISSIONS = re.compile(r"/(?:[\w-]*permissions?|users|roles)(?:/|\Z)")


def _event(operation: Operation) -> Event | None:
    if operation.name.startswith("restore-"):
        return "restoration"
    takes_away = operation.name.startswith(("delete-", "remove-"))
    if takes_away or operation.access in (Access.DELETE, Access.DESTROY):
        return "deletion"
    ours = operation == UNPARSED or operation in OWN.values()
    return "administration" if operation.access is Access.ADMIN and not ours else None


_EVENTS: dict[str, Event] = {
    operation.name: event for operation in OPERATIONS if (event := _event(operation)) is not None
}
"""By the operation's name: a StrEnum is hashed in Python, and this is looked up for each request."""


class Told(NamedTuple):
    """What the log says of a request."""

    event: Event
    outcome: Outcome
    target: dict[str, str]
    """Beside exchange.target."""
    details: dict[str, Detail]


def told(exchange: Exchange) -> Told | None:
    """The event that a finished request is, or None.

    That is a refusal for the credential or the role, or for a forged origin, and an operation that deletes,
    restores or takes an administrator, unless it only reads. Of signing in, the pages tell themselves.
    """
    operation = exchange.operation
    if exchange.refusal in _REFUSALS and exchange.status in _STATUSES:
        if operation is OWN["sign-in"] and exchange.refusal != "cross_origin":
            return None
        return _told(exchange, operation, "refused", "refused", exchange.refusal)
    if exchange.error == "revoked":
        return _told(exchange, operation, "refused", "refused", "revoked")
    if operation is None or exchange.method in ("GET", "HEAD"):
        return None
    event = _EVENTS.get(operation.name)
    if event is None:
        return None
    if event == "administration" and _PERMISSIONS.search(exchange.path):
        event = "permission_change"
    return _told(exchange, operation, event, _outcome(exchange), exchange.refusal or exchange.error)


def _told(
    exchange: Exchange, operation: Operation | None, event: Event, outcome: Outcome, reason: str | None
) -> Told:
    target = {} if operation is None else resource_of(operation, exchange.path, b"")
    details: dict[str, Detail] = {"status": exchange.status, "reason": reason}
    if event != "refused" or operation == UNKNOWN:
        details["path"] = exchange.path
    return Told(event, outcome, {key: target[key] for key in target.keys() - exchange.target.keys()}, details)


def _outcome(exchange: Exchange) -> Outcome:
    if 200 <= exchange.status < 400:
        return "success"
    if exchange.mlflow_started is not None and (exchange.error in _UNCERTAIN or exchange.status == _LEFT):
        return "unknown"
    return "failed"
