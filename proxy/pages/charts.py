"""Lines over time as SVG coordinates; pure. The template draws them, and colours are the style's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

WIDTH, HEIGHT = 640, 120
"""Of the drawing, in its own units."""


class Line(NamedTuple):
    """One line: its parts between gaps, each the `points` of a polyline."""

    name: str
    parts: list[str]


class Chart(NamedTuple):
    """What a template needs to draw one."""

    title: str
    lines: list[Line]
    top: str
    """What the upper edge stands for."""
    begin: str
    end: str
    """The clock at both sides, UTC."""
    said: str
    """The same for who does not see it."""


def chart(
    title: str, times: Sequence[float], lines: dict[str, Sequence[float | None]], unit: str
) -> Chart | None:
    """Lines over the same times (Unix seconds, rising); None of fewer than two times. `unit` is "/s", "s" or
    "bytes"."""
    if len(times) < 2:
        return None
    values = [value for line in lines.values() for value in line if value is not None]
    scale = 2.0**20 if unit == "bytes" else 1.0
    highest = _round_up(max(values, default=0.0) / scale) * scale
    first, span = times[0], times[-1] - times[0]
    drawn = []
    for name, line in lines.items():
        parts: list[list[str]] = [[]]
        for at, value in zip(times, line, strict=True):
            if value is None:
                parts.append([])
                continue
            x = (at - first) / span * WIDTH
            y = HEIGHT - value / highest * HEIGHT
            parts[-1].append(f"{x:.1f},{y:.1f}")
        # A single point is drawn as a dot, which a line of no length with round ends is.
        drawn.append(Line(name, [" ".join(part * 2 if len(part) == 1 else part) for part in parts if part]))
    last = ", ".join(
        f"{name} {amount(known[-1], unit)}"
        for name, line in lines.items()
        if (known := [value for value in line if value is not None])
    )
    return Chart(
        title,
        drawn,
        amount(highest, unit),
        _clock(first),
        _clock(times[-1]),
        f"{title}, from {_clock(first)} to {_clock(times[-1])}: lately {last or 'nothing'}",
    )


def amount(value: float, unit: str) -> str:
    """A number as a person reads it."""
    if unit == "bytes":
        for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} bytes"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
    return f"{value:.3g}{unit}"


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten; 1 where there is nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _clock(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%H:%M")
