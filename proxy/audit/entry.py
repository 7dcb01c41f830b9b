"""What one event's line says before it is part of a chain: bounded, and free of secrets; pure."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy.audit.events import Detail, Event, Outcome
from proxy.logs.lines import cut

if TYPE_CHECKING:
    from proxy.exchange import Exchange

LONGEST = 512
"""Characters of a text; what is longer is cut and ends in three dots."""
MOST = 48
"""Entries of `target` and of `details`: more than a body can name (bodies.py), or it would crowd out what
counts."""

# Whatever looks like a credential, should a caller have put one where a name or a path belongs: tokens of
# ours (auth/tokens/format.py), JWTs (RFC 7519), and what a URL has before its host.
_SECRETS = re.compile(
    r"(mlf[ps]at_)[0-9A-Za-z]+|\b(eyJ)[\w-]{6,}\.[\w-]+(?:\.[\w-]*)*|(://)[^/\s@]+(?=@)", re.ASCII
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Entry = dict[str, Any]


def entry(
    event: Event,
    *,
    at: float,
    exchange: Exchange | None = None,
    user: str = "",
    auth: str = "",
    credential: str = "",
    client: str = "",
    target: Mapping[str, str] | None = None,
    outcome: Outcome = "success",
    details: Mapping[str, Detail] | None = None,
) -> Entry:
    """The fields of a line in their order, all of them always; None where there is nothing to say.

    `at` is Unix time in seconds; the other arguments are those of Audit.record.
    """
    role = credential_name = session = request_id = operation = None
    named: dict[str, str] = {}
    if exchange is not None:
        session, request_id = exchange.session, exchange.request_id
        client = client or exchange.client
        named = exchange.target
        operation = None if exchange.operation is None else exchange.operation.name
        identity = exchange.identity
        if identity is not None and (not user or user == identity.user):
            user, auth, role = identity.user, auth or identity.method, identity.role.name.lower()
            if identity.credential is not None and credential in ("", identity.credential.id):
                credential, credential_name = identity.credential.id, identity.credential.name
    return {
        "time": moment(at),
        "event": event,
        "outcome": outcome,
        "user": _text(user),
        "role": role,
        "auth": _text(auth),
        "credential": _text(credential),
        "credential_name": _text(credential_name),
        "session": _text(session),
        "client": _text(client),
        "request_id": _text(request_id),
        "operation": operation,
        "target": {
            key: clean(str(value)) for key, value in list({**named, **(target or {})}.items())[:MOST] if value
        },
        "details": {
            key: value
            for key, given in list((details or {}).items())[:MOST]
            if (value := _carried(given)) is not None
        },
    }


def moment(at: float) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    milliseconds = int(at * 1000)
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{second}.{milliseconds % 1000:03d}Z"


def clean(text: str) -> str:
    """The text as a line may hold it: not too long, and with nothing in it that looks like a credential."""
    return _SECRETS.sub(_masked, cut(_LONE_SURROGATE.sub("\ufffd", text), LONGEST))


def _masked(found: re.Match[str]) -> str:
    return f"{found[1] or found[2] or found[3]}***"


def _text(value: str | None) -> str | None:
    return clean(value) if value else None


def _carried(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() < 53:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean(str(value))
