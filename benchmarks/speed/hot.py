"""Where the proxy's time goes while it carries small requests: py-spy's samples, by function.

    .venv/bin/python benchmarks/speed/hot.py [--seconds 20] [--connections 16] [--rows 15] [--raw FILE]

Prints two tables in Markdown, of the event loop's thread: the time that functions take themselves, where what
is compiled (uvloop, httptools, orjson, system calls) counts as its caller's, and with all that they call. The
samples are kept with --raw, a stack and its count a line, as flame graphs are made of. py-spy has to be
allowed to read another process (root, or kernel.yama.ptrace_scope 0).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from arrangements import TARGET, Ours
from load import wrk
from report import markdown

PY_SPY = str(Path(sys.executable).with_name("py-spy"))
RATE = 250
"""Samples a second."""


def samples(raw: str) -> tuple[int, Counter[str], Counter[str]]:
    """How many there are, and of those how many each function has itself, and with what it calls; functions
    that are in all of them are left out of the latter."""
    total, own, whole = 0, Counter[str](), Counter[str]()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [
            _function(frame) for frame in stack.split(";") if not frame.startswith(("process ", "thread "))
        ]
        # The other threads wait, which py-spy can't always tell from work.
        if not frames or not count.isdigit() or not frames[0].startswith("<module>"):
            continue
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):  # one that calls itself counts once
            whole[frame] += int(count)
    return total, own, Counter({name: count for name, count in whole.items() if count < total})


def _function(frame: str) -> str:
    """``name (place)`` without the line's number."""
    name, _, place = frame.partition(" (")
    return f"{name} ({place.rstrip(')').rpartition(':')[0] or place.rstrip(')')})"


def table(title: str, counts: Counter[str], total: int, rows: int) -> str:
    shown = [(f"`{name}`", f"{count / total:.1%}") for name, count in counts.most_common(rows)]
    return markdown((title, "of the time"), shown)


def recorded(connections: int, seconds: int) -> str:
    """py-spy's lines."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        one, file = Ours(Path(folder) / "ours", Path(folder) / "none"), Path(folder) / "samples"
        with one.running():
            wrk(one.url + TARGET, connections, 2, one.authorization)
            spy = subprocess.Popen(
                [
                    *(PY_SPY, "record", "--pid", str(one.process.pid), "--duration", str(seconds)),
                    *("--rate", str(RATE), "--format", "raw", "--output", str(file)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            load = wrk(one.url + TARGET, connections, seconds + 3, one.authorization)
            said = spy.communicate(timeout=120)[0]
        if spy.returncode or not file.exists():
            sys.exit(f"py-spy: {said.decode(errors='replace')}")
        print(f"{load.per_second:,.0f} requests/s, {connections} connections", file=sys.stderr)
        return file.read_text()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rows", type=int, default=15)
    parser.add_argument("--raw", type=Path)
    asked = parser.parse_args()
    raw = recorded(asked.connections, asked.seconds)
    if asked.raw:
        asked.raw.write_text(raw)
    total, own, whole = samples(raw)
    print(
        table("itself", own, total, asked.rows),
        table("with what it calls", whole, total, asked.rows),
        sep="\n\n",
    )


if __name__ == "__main__":
    main()
