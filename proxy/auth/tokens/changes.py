"""How tokens and service accounts come about and end: one transaction each, of the service or a command."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from proxy.auth.tokens import format as secret_format
from proxy.auth.tokens.info import TokenInfo
from proxy.auth.tokens.judging import Owner
from proxy.auth.tokens.words import day
from proxy.identity import SERVICE_ISSUER, SERVICE_PREFIX, Role
from proxy.store import Connection, NewToken, ServiceAccountRow, TokenRow
from proxy.store import service_accounts as accounts
from proxy.store import tokens as rows

MOST = 100
"""Tokens of one owner that are in force at once."""
MOST_ENDED = 100
"""Of one owner's that have ended, kept; whoever makes and revokes in a loop fills no database."""
LISTED_SECONDS = 30 * 86400.0
"""For which a token that has ended is still listed."""
LONGEST_OVERLAP = 90 * 86400.0
_LONGEST_NAME = 100
_LONGEST_DESCRIPTION = 256
ACCOUNT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


class CannotBe(Exception):
    """What was asked for can't be; the message is for whoever asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        """400, 403, 404 or 409, as HTTP has them."""
        self.message = message


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants a token to be."""

    name: str
    lifetime: float
    """In seconds."""
    role: Role
    read_only: bool


@dataclass(frozen=True, slots=True)
class By:
    """Who does something, from which address."""

    user: str
    client: str = ""


def create(db: Connection, owner: Owner, asked: Asked, by: By, longest: float) -> tuple[str, TokenRow]:
    """A new token: its secret, which nobody is ever told again, and its row. ``longest`` is in seconds.

    Raises CannotBe.
    """
    now = time.time()
    name = _name(asked.name)
    if not math.isfinite(asked.lifetime) or asked.lifetime < 1:
        raise CannotBe(400, "A token's expiry is in the future: give it at least a second.")
    if asked.lifetime > longest:
        raise CannotBe(
            400, f"A token is good for at most {_days(longest)} here (PROXY_TOKEN_MAX_LIFETIME): choose less."
        )
    if asked.role is Role.NONE:
        raise CannotBe(400, "A token without a role opens nothing: viewer, editor or admin.")
    if asked.role > owner.role:
        raise CannotBe(
            403,
            f"A token's role is no higher than its owner's: {owner.user} has the role "
            f"{owner.role.name.lower()}.",
        )
    rows.lock_owner(db, owner.id)
    there = rows.live(db, owner.id, now)
    if any(token.name == name for token in there):
        raise CannotBe(409, f"There is a token {name!r} of {owner.user} already: choose another name.")
    _check_count(there, owner.user)
    return _insert(
        db,
        NewToken(
            id=secret_format.new_id(),
            hash="",
            name=name,
            owner=owner.id,
            issuer=owner.issuer,
            subject=owner.subject,
            user=owner.user,
            role=int(asked.role),
            read_only=asked.read_only,
            created=now,
            created_by=by.user[:512],
            created_from=by.client[:64],
            expires=now + asked.lifetime,
            lifetime=asked.lifetime,
        ),
    )


def renew(
    db: Connection, old: TokenRow, overlap: float, by: By, longest: float
) -> tuple[str, TokenRow, TokenRow]:
    """Another token like that one: its secret, its row and the old row, which ends in ``overlap`` seconds.

    Raises CannotBe.
    """
    now = time.time()
    if not 0 <= overlap <= LONGEST_OVERLAP:
        raise CannotBe(400, f"The old token goes on for 0 seconds to {_days(LONGEST_OVERLAP)}, no longer.")
    rows.lock_owner(db, old.owner)
    _check_count(rows.live(db, old.owner, now), old.user)
    if not rows.renew(db, old.id, now, now + overlap):
        latest = rows.read(db, old.id) or old
        raise CannotBe(409, f"The token {old.name!r} {_why_not_renewed(latest, now)}")
    lifetime = min(old.lifetime, longest)
    secret, row = _insert(
        db,
        NewToken(
            id=secret_format.new_id(),
            hash="",
            name=old.name,
            owner=old.owner,
            issuer=old.issuer,
            subject=old.subject,
            user=old.user,
            role=old.role,
            read_only=old.read_only,
            created=now,
            created_by=by.user[:512],
            created_from=by.client[:64],
            expires=now + lifetime,
            lifetime=lifetime,
            renews=old.id,
        ),
    )
    ended = rows.read(db, old.id)
    assert ended is not None
    return secret, row, ended


def add_account(db: Connection, name: str, role: Role, description: str, by: By) -> ServiceAccountRow:
    """A new service account. Raises CannotBe."""
    if ACCOUNT_NAME.fullmatch(name) is None:
        raise CannotBe(
            400,
            "A service account's name is 1 to 64 of a-z, 0-9, dot, hyphen and underscore, with a letter or "
            "digit first and last.",
        )
    if role is Role.NONE:
        raise CannotBe(400, "A service account without a role can do nothing: viewer, editor or admin.")
    description = description.strip()
    if len(description) > _LONGEST_DESCRIPTION or not description.isprintable():
        raise CannotBe(400, f"A description is one line of at most {_LONGEST_DESCRIPTION} characters.")
    account = ServiceAccountRow(name, int(role), description, time.time(), by.user[:512])
    if not accounts.insert(db, account):
        old = accounts.read(db, name)
        if old is not None and old.removed is not None:
            raise CannotBe(
                409,
                f"There was a service account {name!r} until {day(old.removed)}, and runs are named after "
                "it: choose another name.",
            )
        raise CannotBe(409, f"There is a service account {name!r} already: choose another name.")
    return account


def remove_account(db: Connection, name: str, by: By) -> list[str]:
    """Remove a service account; returns the ids of its tokens that ended with it. Raises CannotBe."""
    now = time.time()
    if ACCOUNT_NAME.fullmatch(name) is None or not accounts.remove(db, name, now, by.user):
        raise no_account(name)
    owner = Owner(SERVICE_ISSUER, name, f"{SERVICE_PREFIX}{name}", "owner gone")
    rows.lock_owner(db, owner.id)
    return rows.revoke(db, [row.id for row in rows.live(db, owner.id, now)], now, by.user)


def no_account(name: str) -> CannotBe:
    return CannotBe(404, f"There is no service account {name[:64]!r}.")


def ordered(tokens: Iterable[TokenInfo]) -> list[TokenInfo]:
    """Those that count first, then those that do not at present, then those that are over; newest first."""
    places = {"active": 0, "suspended": 1, "owner gone": 1}
    return sorted(tokens, key=lambda token: (places.get(token.state, 2), -token.created, token.id))


def _insert(db: Connection, token: NewToken) -> tuple[str, TokenRow]:
    rows.drop_ended(db, token.owner, token.created, MOST_ENDED)
    secret = secret_format.made("service" if token.issuer == SERVICE_ISSUER else "person")
    rows.insert(db, replace(token, hash=secret_format.digest(secret)))
    row = rows.read(db, token.id)
    assert row is not None
    return secret, row


def _name(name: str) -> str:
    name = name.strip()
    if not name:
        raise CannotBe(400, "A token has a name: what it is for, so that you know it again.")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise CannotBe(400, f"A token's name is one line of at most {_LONGEST_NAME} characters.")
    return name


def _check_count(there: list[TokenRow], user: str) -> None:
    if len(there) >= MOST:
        raise CannotBe(409, f"{user} has {len(there)} tokens in force already: revoke one first.")


def _why_not_renewed(row: TokenRow, now: float) -> str:
    if row.revoked is not None:
        return f"was revoked on {day(row.revoked)}: make a new one."
    if row.renewed is not None:
        return f"was renewed on {day(row.renewed)} already: renew the one that took its place."
    return f"has expired on {day(row.expires)}: make a new one."


def _days(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:g} day{'' if days == 1 else 's'}" if days >= 1 else f"{seconds:g} seconds"
