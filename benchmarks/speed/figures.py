"""What is made of measurements: medians, spreads and ratios; pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

NOISY = 0.25
"""The spread above which a figure is said to be unsure."""


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """How far apart the rounds are: half of the distance of the quartiles, as a part of the median.

    0 for a single value, since there is nothing to hold against it.
    """
    middle = statistics.median(values)
    if len(values) < 2 or middle == 0:
        return 0.0
    if len(values) < 4:
        return (max(values) - min(values)) / 2 / middle
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / 2 / middle


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, so that what disturbs one round disturbs both sides of its ratio alike."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
