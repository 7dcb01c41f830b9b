"""How many lines `mlflow-proxy review` reads a second of one core, and whether its memory grows with the log.

    .venv/bin/python benchmarks/review.py [--months 8]

A month of the tests' house (tests/review_month.py) is read, and as many months in a row as are asked for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

_ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(_ROOT / "tests"), str(_ROOT)]

from review_month import DAYS, Month  # noqa: E402

# VmHWM, since ru_maxrss is inherited over fork and exec.
_COMMAND = """
import atexit, resource, sys
from proxy.cli import main
def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(used.ru_utime + used.ru_stime, most, file=sys.stderr)
atexit.register(tell)
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--months", type=int, default=8)
    months = parser.parse_args().months
    month = Month(1)
    month.build()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        access, _ = month.world.write(folder / "month", parts=1)
        print(f"{'':10} {'lines':>10} {'MB':>6} {'CPU s':>7} {'lines/s':>9} {'memory':>8}")
        for number in (0, 1, months):
            log = folder / "log"
            with log.open("wb") as out:
                lines = sum(_shifted(access[0], out, DAYS * each) for each in range(number))
                if not number:  # what the start takes, with a single line
                    lines = out.write(access[0].read_bytes().partition(b"\n")[0] + b"\n") and 1
            cpu, memory = _measured(log)
            if not number:
                base = cpu
                print(f"{'start':10} {lines:10,} {'':6} {cpu:7.2f} {'':9} {memory:5.0f} MB")
                continue
            size, rate = log.stat().st_size / 1e6, lines / (cpu - base)
            print(f"{number:>3} months {lines:10,} {size:6.0f} {cpu:7.2f} {rate:9,.0f} {memory:5.0f} MB")


def _shifted(path: Path, out: object, days: int) -> int:
    """Write the log as of so many days later; returns its lines."""
    dates: dict[bytes, bytes] = {}
    count = 0
    with path.open("rb") as file:
        for line in file:
            day = line[9:19]
            if day not in dates:
                later = date.fromisoformat(day.decode()) + timedelta(days=days)
                dates[day] = later.isoformat().encode()
            out.write(line[:9] + dates[day] + line[19:])  # type: ignore[attr-defined]
            count += 1
    return count


def _measured(log: Path) -> tuple[float, float]:
    """CPU seconds of the whole command, and the most memory that it had, in MB."""
    command = [sys.executable, "-c", _COMMAND, "review", "--format", "json", str(log)]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the review failed: {done.stderr.decode()}")
    cpu, memory = done.stderr.split()[-2:]
    return float(cpu), float(memory) / 1024


if __name__ == "__main__":
    main()
