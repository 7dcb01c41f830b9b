"""Small requests: a 1 KB answer from a fast upstream, over 1, 16 and 64 kept connections.

    .venv/bin/python benchmarks/speed/small.py [--rounds 5] [--seconds 3] [--bcrypt]
                                               [--only mlflow-proxy,Caddy]

By itself it prints a table and keeps nothing: for whoever works on the hot path.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from arrangements import (
    TARGET,
    Arrangement,
    Caddy,
    CaddyBcrypt,
    Direct,
    Nginx,
    NginxBcrypt,
    OAuth2Proxy,
    Ours,
    Traefik,
    Upstream,
)
from figures import median, spread
from load import Load, wrk
from processes import cpu, forget_peak, peak

PLAIN: Sequence[type[Arrangement]] = (Direct, Nginx, Caddy, Ours, Traefik, OAuth2Proxy)
BCRYPT: Sequence[type[Arrangement]] = (NginxBcrypt, CaddyBcrypt, Ours)
CONNECTIONS = (1, 16, 64)

Rows = dict[tuple[str, int], dict[str, list[float]]]
"""By arrangement and connections: each figure, round by round."""


def measure(
    kinds: Sequence[type[Arrangement]],
    folder: Path,
    *,
    rounds: int,
    seconds: int,
    connections: Sequence[int] = CONNECTIONS,
) -> Rows:
    """All of them in turn within each round. Exits where one answers with an error."""
    rows: Rows = {}
    socket = folder / "upstream.sock"
    with contextlib.ExitStack() as stack:
        upstream = Upstream(folder / "upstream", socket)
        stack.enter_context(upstream.running())
        running = []
        for kind in kinds:
            one = kind(folder / kind.__name__, socket, upstream.port)
            stack.enter_context(one.running())
            wrk(one.url + TARGET, 16, 1, one.authorization)
            running.append(one)
        for _ in range(rounds):
            for count in connections:
                for one in running:
                    add(rows.setdefault((one.name, count), {}), *run(one, count, seconds))
    return rows


def run(one: Arrangement, connections: int, seconds: int, target: str = TARGET) -> tuple[Load, float, int]:
    """What wrk says, the CPU seconds spent, and the most memory held. Exits where an answer is an error."""
    pids = one.pids()
    forget_peak(pids)
    before = cpu(pids)
    load = wrk(one.url + target, connections, seconds, one.authorization)
    spent = cpu(pids) - before
    if load.failed or not load.requests:  # none at all: it takes longer than it was given
        sys.exit(f"{one.name}: {load.failed} of {load.requests} requests failed")
    return load, spent, peak(pids)


def add(row: dict[str, list[float]], load: Load, spent: float, memory: int) -> None:
    for name, value in {
        "per second": load.per_second,
        "median ms": load.latency * 1e3,
        "99 % ms": load.latency_99 * 1e3,
        "CPU us": spent / load.requests * 1e6,
        "memory MiB": memory / 2**20,
    }.items():
        row.setdefault(name, []).append(value)


def table(rows: Rows) -> str:
    """Markdown: medians, with the spread of the requests per second."""
    lines = [
        "| connections | in front | requests/s | ± | median ms | 99 % ms | CPU µs a request | peak MiB |",
        "| --: | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for (name, count), row in sorted(rows.items(), key=lambda item: item[0][1]):
        rate = row["per second"]
        lines.append(
            f"| {count} | {name} | {median(rate):,.0f} | {spread(rate):.0%} "
            f"| {median(row['median ms']):.2f} | {median(row['99 % ms']):.2f} "
            f"| {median(row['CPU us']):.0f} | {median(row['memory MiB']):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each in each round")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--bcrypt", action="store_true", help="the table with bcrypt everywhere")
    asked = parser.parse_args()
    kinds = BCRYPT if asked.bcrypt else PLAIN
    kinds = [kind for kind in kinds if not kind.missing()]
    if asked.only:
        names = [name.strip() for name in asked.only.split(",")]
        kinds = [kind for kind in kinds if kind.name in names]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(table(measure(kinds, Path(folder), rounds=asked.rounds, seconds=asked.seconds)))


if __name__ == "__main__":
    main()
