"""What benchmarks/speed makes of its measurements: medians, verdicts, tables, the section of the document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks" / "speed"))

import figures  # noqa: E402
import load  # noqa: E402
import report  # noqa: E402
import targets  # noqa: E402

WRK = """Running 2s test @ http://127.0.0.1:1/
  2 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.54ms    1.10ms  17.79ms   90.00%
    Req/Sec     2.50k    200.00     3.00k    70.00%
  Latency Distribution
     50%  250.00us
     75%    3.00ms
     90%    4.00ms
     99%    1.20s
  10252 requests in 2.00s, 12.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:   5126.31
Transfer/sec:      6.00MB
"""


def rows(ours: float, caddy: float, nginx: float, cpu: float = 100) -> dict[str, Any]:
    def row(rate: float, spent: float, added: float) -> dict[str, list[float]]:
        return {
            "per second": [rate] * 3,
            "CPU us": [spent] * 3,
            "median ms": [0.1 + added] * 3,
            "99 % ms": [1.0] * 3,
            "memory MiB": [50.0] * 3,
        }

    each = {
        "mlflow-proxy": row(ours, cpu, 0.2),
        "Caddy": row(caddy, 100, 0.1),
        "nginx": row(nginx, 10, 0.05),
        "direct": row(1e5, 5, 0.0),
    }
    return {f"{name}, {count}": found for name, found in each.items() for count in (1, 16, 64)}


def met(verdicts: list[targets.Verdict]) -> dict[str, bool]:
    return {f"{one.what}, {one.bound:g}": one.met for one in verdicts}


def test_a_rounds_disturbance_does_not_reach_the_ratio() -> None:
    assert figures.ratios([100, 10, 100], [50, 5, 50]) == [2, 2, 2]
    assert figures.median(figures.ratios([100, 100, 100], [50, 1, 50])) == 2


def test_the_spread_is_nothing_where_rounds_agree_and_one_outlier_does_not_make_it() -> None:
    assert figures.spread([5, 5, 5, 5]) == 0
    assert figures.spread([5]) == 0
    assert figures.spread([0, 0]) == 0
    assert figures.spread([10, 20]) == pytest.approx(1 / 3)
    assert figures.spread([10, 10, 10, 10, 100]) == 0


def test_what_wrk_prints_is_read_with_its_units_and_all_its_failures() -> None:
    found = load.read(WRK.replace("1.20s", "1.20s "))  # as wrk pads it
    assert (found.requests, found.per_second, found.failed) == (10252, 5126.31, 12)
    assert (found.latency, found.latency_99) == (pytest.approx(0.00025), 1.2)


def test_each_target_of_small_requests_is_held_against_its_own_peer() -> None:
    found = met(targets.verdicts({"small": rows(ours=900, caddy=1000, nginx=4000, cpu=150)}))
    assert found["requests/s to Caddy's at 16 connections, 1"] is False
    assert found["CPU a request to Caddy's at 64 connections, 1.3"] is False
    assert found["requests/s to nginx's at 16 connections, 0.2"] is True
    assert found["requests/s to nginx's at 16 connections, 0.3"] is False
    assert found["CPU a request at 16 connections, 0.2"] is True
    assert found["added at the median to what Caddy adds, 1 connection, 1"] is False


def test_a_peer_that_was_left_out_takes_its_targets_with_it() -> None:
    without = {key: row for key, row in rows(1, 1, 1).items() if not key.startswith("Caddy")}
    assert not any("Caddy" in one.what for one in targets.verdicts({"small": without}))
    assert targets.verdicts({}) == []


def test_the_worst_round_counts_for_memory() -> None:
    large = {"mlflow-proxy, down": {"growth MiB": [1.0, 17.0, 1.0], "MB/s": [1.0] * 3}}
    (one,) = targets.verdicts({"large": large})
    assert (one.met, one.found) == (False, 17)


def test_rounds_that_lie_on_both_sides_of_the_bound_are_unsure() -> None:
    assert targets.judge("", "", "at least", 1.0, [1.1, 1.2, 1.1]).sure
    assert not targets.judge("", "", "at least", 1.0, [1.1, 0.9, 1.1]).sure
    assert not targets.judge("", "", "at least", 1.0, [1.1]).sure
    # One in five may be off where the others agree closely.
    assert targets.judge("", "", "at least", 1.0, [1.1, 1.1, 1.1, 1.1, 0.9]).sure


def test_the_section_is_rewritten_and_nothing_around_it() -> None:
    document = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.replaced(document, "new")
    assert new == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    assert report.replaced(new, "new") == new
    with pytest.raises(ValueError, match="once each"):
        report.replaced("no marks", "new")


def test_the_document_has_the_marks() -> None:
    assert report.replaced((ROOT / "docs" / "performance.md").read_text(), "new")


def test_a_busy_machine_and_rounds_that_disagree_are_said() -> None:
    unsteady = rows(1, 1, 1)
    unsteady["nginx, 16"]["per second"] = [1.0, 9.0, 5.0]
    said = " ".join(report.noise({"machine": {"busy before": 0.6}, "small": unsteady}))
    assert "60%" in said
    assert "nginx, 16" in said
    assert "Caddy" not in said
    assert report.noise({"machine": {"busy before": 0.01}, "small": rows(1, 1, 1)}) == []


def test_the_table_says_of_each_target_whether_it_is_met() -> None:
    verdicts = [
        targets.Verdict("a", "fast", "at least", 1.0, 1.5),
        targets.Verdict("a", "small", "at most", 16, 20.25, "MiB"),
        targets.Verdict("b", "faster", "at least", 2.0, 1.5, stretch=True, sure=False),
    ]
    assert report.target_table(verdicts).splitlines()[2:] == [
        "| a | fast | at least 1.00 | 1.50 | met |",
        "| a | small | at most 16 MiB | 20.2 MiB | **missed** |",
        "| b | faster (stretch) | at least 2.00 | 1.50 | not met, unsure |",
    ]


def test_all_parts_make_one_section() -> None:
    machine = {
        "date": "d",
        "processor": "p",
        "cores": 2,
        "linux": "l",
        "programs": ["nginx 1"],
        "options": "",
    }
    results = {"machine": {**machine, "seconds": 60.0}, "small": rows(1, 1, 1), "left out": ["Traefik"]}
    section = report.section(results, targets.verdicts(results))
    assert "targets are met" in section
    assert "Left out: Traefik." in section
    assert section.count("| mlflow-proxy |") == 3
