"""What tracing costs, and that it costs nothing where it is off: CPU and latency of small requests.

    .venv/bin/python benchmarks/tracing.py [--rounds 7] [--seconds 3] [--before CHECKOUT]

In turn within each round: tracing off, on with one request of twenty sampled, and on with all; the spans go
to tests/otlp_receiver.py, whose CPU does not count. `--before` is another checkout of the project, one from
before there was tracing: what "off" is compared with. Where the machine does other things besides, the least
CPU of the rounds says more than their median.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "speed"))

from arrangements import FAKE, TARGET, Ours, Upstream  # noqa: E402
from figures import median, spread  # noqa: E402
from load import wrk  # noqa: E402
from report import markdown  # noqa: E402
from small import run  # noqa: E402

RECEIVER = ROOT / "tests" / "otlp_receiver.py"
CONNECTIONS = (1, 16)


class Off(Ours):
    name = "off"


class Before(Ours):
    """Another checkout's."""

    name = "before"
    checkout: ClassVar[Path]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"PYTHONPATH": f"{FAKE}:{self.checkout}"}


class Traced(Ours):
    name = "all"
    receiver: ClassVar[str]
    sampler: ClassVar[dict[str, str]] = {}

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver} | self.sampler


class Sampled(Traced):
    name = "1 of 20"
    sampler: ClassVar[dict[str, str]] = {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.05",
    }


@contextlib.contextmanager
def receiving(folder: Path) -> Iterator[str]:
    command = [sys.executable, str(RECEIVER), str(folder / "spans")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def measure(kinds: Sequence[type[Ours]], folder: Path, rounds: int, seconds: int) -> list[tuple[str, ...]]:
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
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
            for count in CONNECTIONS:
                for one in running:
                    load, spent, _ = run(one, count, seconds)
                    figures = (load.per_second, spent / load.requests, load.latency)
                    found.setdefault((one.name, count), []).append(figures)
    rows = []
    for (name, count), figures in found.items():
        first = found[kinds[0].name, count]
        ratios = [one[1] / other[1] for one, other in zip(figures, first, strict=True)]
        rows.append(
            (
                name,
                str(count),
                f"{median([one[0] for one in figures]):,.0f}",
                f"{median([one[1] for one in figures]) * 1e6:.1f} us",
                f"{median(ratios):.3f} ± {spread(ratios):.1%}",
                f"{min(one[1] for one in figures) * 1e6:.1f} us",
                f"{median([one[2] for one in figures]) * 1e3:.2f} ms",
            )
        )
    return sorted(rows, key=lambda row: int(row[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--before", type=Path)
    asked = parser.parse_args()
    kinds: list[type[Ours]] = [Off, Sampled, Traced]
    if asked.before is not None:
        Before.checkout = asked.before.resolve()
        kinds.insert(0, Before)
    with tempfile.TemporaryDirectory(prefix="bt-") as folder, receiving(Path(folder)) as receiver:
        Traced.receiver = receiver
        rows = measure(kinds, Path(folder), asked.rounds, asked.seconds)
    names = (
        "tracing",
        "connections",
        "requests/s",
        "CPU a request",
        f"to {kinds[0].name}",
        "least CPU",
        "median latency",
    )
    print(markdown(names, rows))


if __name__ == "__main__":
    main()
