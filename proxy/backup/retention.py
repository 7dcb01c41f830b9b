"""Which sets stay: the newest of each of so many days, weeks and months, and the last good one whatever is
said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.backup.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Keep:
    """Of how many days, weeks and months one stays."""

    daily: int
    weekly: int
    monthly: int


def superseded(sets: Sequence[Manifest], good: str, keep: Keep) -> list[Manifest]:
    """Those that no rule keeps, oldest first; pure. `good` is the set just made and checked, which stays, as
    does whatever is newer.

    A day, week or month without a backup does not count, so that a pause of the backups removes none.
    """
    newest_first = sorted(sets, key=lambda one: one.set, reverse=True)
    kept = {one.set for one in newest_first if one.set >= good}
    for form, number in (("%Y-%m-%d", keep.daily), ("%G-%V", keep.weekly), ("%Y-%m", keep.monthly)):
        seen: dict[str, str] = {}
        for one in newest_first:
            stretch = time.strftime(form, time.gmtime(one.moment))
            if stretch not in seen and len(seen) == number:
                break
            seen.setdefault(stretch, one.set)
        kept.update(seen.values())
    return [one for one in reversed(newest_first) if one.set not in kept]
