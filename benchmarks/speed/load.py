"""Load: wrk, and what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from processes import program

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Load:
    """One run's."""

    requests: int
    per_second: float
    latency: float
    """Seconds, the median."""
    latency_99: float
    failed: int
    """Answers other than 2xx and 3xx, and connections that broke."""


def wrk(
    url: str,
    connections: int,
    seconds: int,
    authorization: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    script: Path | None = None,
) -> Load:
    """So many connections at once, each asking again as soon as it is answered; `script` is wrk's, in Lua."""
    command = [
        program("wrk") or "wrk",
        *("-t", str(min(2, connections)), "-c", str(connections), "-d", f"{seconds}s"),
        *("--latency", "--timeout", "30s"),
    ]
    sent = dict(headers or {}) | ({"Authorization": authorization} if authorization else {})
    for name, value in sent.items():
        command += ["-H", f"{name}: {value}"]
    if script is not None:
        command += ["-s", str(script)]
    run = subprocess.run([*command, url], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"wrk: {run.stdout}{run.stderr}")
    return read(run.stdout)


def read(printed: str) -> Load:
    """What wrk printed (src/wrk.c)."""

    def number(pattern: str) -> float:
        found = re.search(pattern, printed)
        return float(found[1]) if found else 0.0

    def seconds(percentile: str) -> float:
        found = re.search(rf"^\s*{percentile}%\s+([\d.]+)(us|ms|s|m)\s*$", printed, re.M)
        return float(found[1]) * _UNITS[found[2]] if found else 0.0

    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    return Load(
        requests=int(number(r"(\d+) requests in")),
        per_second=number(r"Requests/sec:\s+([\d.]+)"),
        latency=seconds("50"),
        latency_99=seconds("99"),
        failed=int(number(r"Non-2xx or 3xx responses: (\d+)"))
        + (sum(map(int, errors.groups())) if errors else 0),
    )
