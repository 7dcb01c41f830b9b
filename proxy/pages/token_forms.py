"""The forms about tokens: what they offer, and what came of it; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from proxy.exchange import Refused
from proxy.identity import Role
from proxy.pages.wording import duration

DAY = 86400
_OFFERED = (7 * DAY, 30 * DAY, 90 * DAY, 365 * DAY)
_USUAL = 90 * DAY
"""What is chosen unless one chooses: longer than a training run, shorter than people stay."""
_OVERLAPS = (0, 3600, DAY, 7 * DAY)
_NUMBER = re.compile(r"[0-9]{1,10}")
_ON_A_DAY = "date"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for tokens here, and how this server is reached."""

    longest: float
    """PROXY_TOKEN_MAX_LIFETIME, in seconds."""
    overlap: float
    """PROXY_TOKEN_OVERLAP, in seconds."""
    public_url: str | None = None
    """PROXY_PUBLIC_URL; without it, the address that a browser came by is taken."""
    prefix: str = ""
    """The public URL's path."""
    own_authority: bool = False
    """Whether the certificate is of this server's own authority, which a client has to be told of."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The token that somebody wants."""

    name: str
    lifetime: float
    """Seconds from now."""
    role: Role
    read_only: bool


def asked(fields: Mapping[str, str], now: float) -> Asked:
    """What the form for a new token says. Raises Refused (400) where it says none of what was offered.

    How long a name may be, which role and how long a life: whoever makes the token decides.
    """
    return Asked(
        name=fields.get("name", "").strip(),
        lifetime=_lifetime(fields, now),
        role=role(fields),
        read_only="read_only" in fields,
    )


def role(fields: Mapping[str, str]) -> Role:
    """The role that a form's `role` names. Raises Refused (400)."""
    try:
        found = Role.parse(fields.get("role", ""))
    except ValueError:
        found = Role.NONE
    if found is Role.NONE:
        raise _wrong("Choose a role: viewer, editor or admin.")
    return found


def overlap(fields: Mapping[str, str]) -> float:
    """For how many seconds a renewed token goes on beside the new one. Raises Refused (400)."""
    if not _NUMBER.fullmatch(fields.get("overlap", "")):
        raise _wrong("Choose for how long the old token goes on.")
    return float(fields["overlap"])


def _lifetime(fields: Mapping[str, str], now: float) -> float:
    chosen = fields.get("expiry", "")
    if chosen == _ON_A_DAY:
        try:
            day = date.fromisoformat(fields.get("until", "").strip())
        except ValueError:
            raise _wrong("Give the token's last day as a date, such as 2030-01-31.") from None
        end = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + DAY
        if end <= now:
            raise _wrong(f"The token's last day can't be {day}, which is over.")
        return end - now
    if not _NUMBER.fullmatch(chosen) or int(chosen) == 0:
        raise _wrong("Choose when the token expires.")
    return float(chosen)


def _wrong(message: str) -> Refused:
    return Refused(400, message, reason="bad_request")


def choices(rules: Rules, most: Role, now: float, typed: Mapping[str, str]) -> dict[str, object]:
    """What a form for a new token shows, for a template: nothing above `most` or beyond `rules`.

    `typed` is what came with it the last time, where that was refused; it is filled in again.
    """
    lifetimes = [seconds for seconds in _OFFERED if seconds <= rules.longest]
    if not lifetimes or (rules.longest < _OFFERED[-1] and lifetimes[-1] != rules.longest):
        lifetimes.append(int(rules.longest))
    usual = max((seconds for seconds in lifetimes if seconds <= _USUAL), default=lifetimes[0])
    today, last = _day(now), _day(now + rules.longest - DAY)
    expiries = [(str(seconds), f"after {duration(seconds)}") for seconds in lifetimes]
    if last >= today:
        expiries.append((_ON_A_DAY, "on a day of my choice"))
    return {
        "expiries": expiries,
        "expiry": _one_of(typed.get("expiry"), expiries, str(usual)),
        "on_a_day": _ON_A_DAY,
        "first_day": today,
        "last_day": last,
        "until": typed.get("until", ""),
        **roles(most, typed),
        "name": typed.get("name", ""),
        "read_only": "read_only" in typed,
    }


def roles(most: Role, typed: Mapping[str, str]) -> dict[str, object]:
    """The roles that somebody of the role `most` may give; a job that logs needs no more than editor."""
    offered = [(one.name.lower(), _MAY[one]) for one in Role if Role.NONE < one <= most]
    return {
        "roles": offered,
        "role": _one_of(typed.get("role"), offered, min(most, Role.EDITOR).name.lower()),
    }


_MAY = {
    Role.VIEWER: "viewer: reads and searches",
    Role.EDITOR: "editor: also logs and changes",
    Role.ADMIN: "admin: also deletes and administers",
}


def overlaps(rules: Rules) -> list[tuple[str, str, bool]]:
    """For how long a renewed token may go on: seconds, words, whether it is what the settings say."""
    offered = sorted({*_OVERLAPS, int(rules.overlap)})
    return [
        (
            str(seconds),
            f"for {duration(seconds)} more" if seconds else "not at all",
            seconds == int(rules.overlap),
        )
        for seconds in offered
    ]


def _one_of(typed: str | None, offered: list[tuple[str, str]], usual: str) -> str:
    return typed if typed is not None and typed in dict(offered) else usual


def _day(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).date().isoformat()
