"""Which sets stay: the last day's, the newest of so many days, weeks and months, always the last good one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.backup.manifest import Manifest

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Keep:
    """Of how many days, weeks and months one stays."""

    daily: int
    weekly: int
    monthly: int


def superseded(sets: Sequence[Manifest], good: str, keep: Keep) -> list[Manifest]:
    """Those that no rule keeps, oldest first; pure. `good` is the set just made and checked, which stays, as
    does whatever is newer.

    All of the day before the newest stay, however many they are. A day, week or month without a backup does
    not count, so that a pause of the backups removes none.
    """
    newest_first = sorted(sets, key=lambda one: one.set, reverse=True)
    recent = newest_first[0].moment - DAY if newest_first else 0.0
    kept = {one.set for one in newest_first if one.set >= good or one.moment > recent}
    for form, number in (("%Y-%m-%d", keep.daily), ("%G-%V", keep.weekly), ("%Y-%m", keep.monthly)):
        seen: dict[str, str] = {}
        for one in newest_first:
            stretch = time.strftime(form, time.gmtime(one.moment))
            if stretch not in seen and len(seen) == number:
                break
            seen.setdefault(stretch, one.set)
        kept.update(seen.values())
    return [one for one in reversed(newest_first) if one.set not in kept]
