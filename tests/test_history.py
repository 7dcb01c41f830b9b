"""The last hours in numbers: what a sample holds, what is kept, and what the page draws of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys

import pytest

from proxy.history import KEPT, STRIDE, History, quantile
from proxy.metrics import BOUNDS, Tally
from proxy.mlflow_server.memory import memory
from proxy.pages.charts import HEIGHT, WIDTH, amount, chart

BUCKETS = len(BOUNDS) + 1


def buckets(**counts: int) -> tuple[int, ...]:
    """`b3=5`: five in the fourth bucket."""
    found = [0] * BUCKETS
    for name, number in counts.items():
        found[int(name[1:])] = number
    return tuple(found)


def tally(at: float, operations: dict[str, tuple[int, ...]], **failed: int) -> Tally:
    return Tally(at, {"2": 0, "5": sum(failed.values())}, {}, {}, operations, failed, 0, 0)


def test_a_sample_is_what_came_since_the_one_before() -> None:
    tallies = iter(
        [
            tally(1000, {"search-runs": buckets(b0=100)}, search=1),
            tally(1060, {"search-runs": buckets(b0=160), "create-run": buckets(b3=60)}, search=7),
            tally(1120, {"search-runs": buckets(b0=160), "create-run": buckets(b3=60)}, search=7),
        ]
    )
    history = History(tallies.__next__, lambda: 7)

    async def take() -> None:
        await history.take()
        await history.take()

    asyncio.run(take())
    busy, idle = history.minutes
    assert (busy.at, busy.requests, busy.failed, busy.memory) == (1060, 2.0, 0.1, 7)
    assert busy.median == pytest.approx(BOUNDS[0])  # half of them in the first bucket
    assert BOUNDS[2] < (busy.slow or 0) <= BOUNDS[3]
    assert (idle.requests, idle.failed, idle.median, idle.slow) == (0, 0, None, None)


def test_six_hours_are_kept_and_an_hour_is_told_by_operation() -> None:
    clock = itertools.count(0, 60)
    now = [tally(0, {"search-runs": buckets()})]

    def count() -> Tally:
        at = next(clock)
        now[0] = tally(
            at, {"search-runs": buckets(b0=at), "seldom": buckets(b0=3)}, **{"search-runs": at // 60}
        )
        return now[0]

    history = History(count, lambda: 0)

    async def take() -> None:
        for _ in range(KEPT + 3 * STRIDE):
            await history.take()

    asyncio.run(take())
    assert len(history.minutes) == KEPT
    since, shares = history.shares(3600)
    assert abs(next(clock) - since - 3600) <= STRIDE * 60
    assert [share.name for share in shares] == ["search-runs"]  # of the other none came lately
    assert shares[0].requests == 60 * shares[0].failed
    assert history.shares(7 * 3600)[0] == history.minutes[0].at - 60  # no more than what is kept


@pytest.mark.parametrize(
    ("part", "counts", "expected"),
    [
        (0.5, buckets(), None),
        (0.5, buckets(b0=10), BOUNDS[0] / 2),
        (0.5, buckets(b0=5, b1=5), BOUNDS[0]),
        (1.0, buckets(b1=4), BOUNDS[1]),
        (0.25, buckets(b1=4), BOUNDS[0] + (BOUNDS[1] - BOUNDS[0]) / 4),
        (0.95, (*buckets()[:-1], 9), BOUNDS[-1]),
    ],
)
def test_quantiles_are_estimated_as_prometheus_does(
    part: float, counts: tuple[int, ...], expected: float | None
) -> None:
    found = quantile(part, counts)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_chart_has_gaps_where_nothing_is_known_and_fits_its_frame() -> None:
    drawn = chart("T", [0, 60, 120, 180], {"all": [1.0, None, 3.0, 4.0], "failed": [0, 0, 0, 0]}, "/s")
    assert drawn is not None
    whole, failed = drawn.lines
    assert whole.parts == [f"0.0,{HEIGHT * 0.8:.1f} 0.0,{HEIGHT * 0.8:.1f}", "426.7,48.0 640.0,24.0"]
    assert failed.parts == [" ".join(f"{WIDTH * third / 3:.1f},{HEIGHT:.1f}" for third in range(4))]
    assert drawn.top == "5/s"
    assert (drawn.begin, drawn.end) == ("00:00", "00:03")
    assert drawn.said == "T, from 00:00 to 00:03: lately all 4/s, failed 0/s"
    assert chart("T", [0], {"all": [1.0]}, "s") is None
    flat = chart("T", [0, 60], {"all": [0.0, 0.0]}, "s")
    assert flat is not None
    assert flat.lines[0].parts == [f"0.0,{HEIGHT:.1f} {WIDTH:.1f},{HEIGHT:.1f}"]


def test_amounts_are_for_people() -> None:
    said = [amount(value, "bytes") for value in (12, 2048, 5 * 2**20, 1.5 * 2**30)]
    assert said == ["12 bytes", "2 KiB", "5 MiB", "1.5 GiB"]
    assert [amount(value, "s") for value in (0.0042, 1.234)] == ["4.2 ms", "1.23 s"]


def test_the_memory_is_that_of_a_process_and_all_below_it() -> None:
    hold = "import sys; data = b'x' * (64 << 20); print('here', flush=True); sys.stdin.read()"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"here\n"
        assert 64 << 20 < memory(parent.pid) < 256 << 20
    finally:
        assert parent.stdin is not None
        parent.stdin.close()
        parent.wait(30)
    assert memory(parent.pid) == 0
    assert memory(None) == 0
    assert memory(os.getpid()) > 0
