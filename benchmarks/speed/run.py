"""All that is measured, in one run; the table of the targets, and the section of docs/performance.md.

    scripts/bench [--quick] [--only small,bcrypt,large,work,ui,connections,scale] [--no-write] [--json FILE]

What is compared is in arrangements.py and mlflows.py, the configurations of the others in benchmarks/peers/.
It wants wrk, nginx and Caddy (Debian's packages of those names); what is not there is named and left out. All
within a part are measured in turn, round by round, and ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import large
import packs
import report
import scale
import small
import work
from arrangements import Arrangement
from processes import program
from targets import verdicts

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"
KEPT = ROOT / "benchmarks" / "results.json"
UI = ROOT / "benchmarks" / "ui.py"
UI_WITHIN = 300
"""Seconds, of the 20 minutes that all may take."""
Results = dict[str, Any]


@dataclass(frozen=True)
class Pace:
    """How long everything takes."""

    rounds: int
    seconds: int
    large_rounds: int
    large_bytes: int
    work_rounds: int
    calls: int
    ui_rounds: int
    most: int


FULL = Pace(
    rounds=3,
    seconds=2,
    large_rounds=2,
    large_bytes=2**30,
    work_rounds=2,
    calls=400,
    ui_rounds=2,
    most=100_000,
)
QUICK = Pace(
    rounds=2,
    seconds=1,
    large_rounds=1,
    large_bytes=2**28,
    work_rounds=1,
    calls=40,
    ui_rounds=1,
    most=1000,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="each part short: to see that all of it works")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--no-write", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument("--json", type=Path, help=f"in place of {KEPT.relative_to(ROOT)}")
    asked = parser.parse_args()
    names = [name.strip() for name in asked.only.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"scripts/bench: there is no {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    if program("wrk") is None:
        sys.exit("scripts/bench: wrk is missing; Debian's package is wrk")
    pace = QUICK if asked.quick else FULL
    results: Results = {"machine": machine("Quick." if asked.quick else "")}
    began = time.monotonic()
    say("the UI's files are compressed, once for all ...")
    packs.made()
    for name in names:
        say(f"{name} ...")
        part = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            try:
                PARTS[name](results, Path(folder), pace)
            except (SystemExit, OSError, RuntimeError) as failure:
                say(f"{name} failed: {failure}")
                failed = str(failure).splitlines()[0]
                results.setdefault("left out", []).append(f"{name}, as it failed ({failed})")
        say(f"{name}: {time.monotonic() - part:.0f} s")
    results["machine"]["seconds"] = time.monotonic() - began
    finish(results, names, asked)
    if any("as it failed" in why for why in results.get("left out", [])):
        sys.exit(1)


def finish(results: Results, names: list[str], asked: argparse.Namespace) -> None:
    """Print, and keep where all was measured at full length."""
    judged = verdicts(results)
    section = report.section(results, judged)
    print(section)
    whole = not asked.quick and set(names) == set(PARTS)
    kept = asked.json or (KEPT if whole and not asked.no_write else None)
    if kept:
        content = {**results, "targets": [one.as_json() for one in judged]}
        kept.write_text(json.dumps(content, indent=1) + "\n")
    if whole and not asked.no_write:
        DOCUMENT.write_text(report.replaced(DOCUMENT.read_text(), section))
        say(f"written to {DOCUMENT.relative_to(ROOT)}")
    else:
        say("docs/performance.md is as it was: it gets whole runs alone")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def there(kinds: list[type[Arrangement]], results: Results) -> list[type[Arrangement]]:
    """Those whose program is here; the others are named once, with Debian's package."""
    left_out = results.setdefault("left out", [])
    for kind in kinds:
        if missing := kind.missing():
            where = (
                f"Debian's package is {kind.package}" if kind.package else "it is in no package of Debian's"
            )
            why = f"{kind.name}, as {missing} is missing ({where})"
            if why not in left_out:
                left_out.append(why)
                say(f"left out: {why}")
    return [kind for kind in kinds if not kind.missing()]


def run_small(results: Results, folder: Path, pace: Pace) -> None:
    kinds = there(list(small.PLAIN), results)
    if small.Ours not in kinds:  # nor is there anything in MLflow's place
        return
    rows = small.measure(kinds, folder, rounds=pace.rounds, seconds=pace.seconds)
    results["small"] = {f"{name}, {count}": row for (name, count), row in rows.items()}


def run_bcrypt(results: Results, folder: Path, pace: Pace) -> None:
    kinds = there(list(small.BCRYPT), results)
    if small.Ours not in kinds:
        return
    rounds = max(1, pace.rounds // 2)
    # Four at once, at 60 ms of CPU each, and so long: else a busy machine answers none of them in time.
    rows = small.measure(kinds, folder, rounds=rounds, seconds=5, connections=(4,))
    results["bcrypt"] = {f"{name}, {count}": row for (name, count), row in rows.items()}


def run_large(results: Results, folder: Path, pace: Pace) -> None:
    rows = large.measure(
        folder,
        rounds=pace.large_rounds,
        size=pace.large_bytes,
        plain=there(list(large.PLAIN), results),
        secured=there(list(large.TLS), results),
    )
    results["large"] = {f"{name}, {what}": row for (name, what), row in rows.items()}


def run_work(results: Results, folder: Path, pace: Pace) -> None:
    done, rows = work.measure(folder, rounds=pace.work_rounds, calls=pace.calls, seconds=5)
    results["work"] = done
    results["basic-auth"] = {name: row for (name, _), row in rows.items()}


def run_ui(results: Results, folder: Path, pace: Pace) -> None:
    """benchmarks/ui.py, which wants root for a network namespace, and Chromium."""
    file, log = folder / "ui.json", folder / "ui.log"
    with log.open("wb") as said:
        run = subprocess.Popen(
            [
                *(sys.executable, str(UI), "--rounds", str(pace.ui_rounds)),
                *("--packs", str(packs.made()), "--json", str(file)),
            ],
            stdout=said,
            stderr=said,
            cwd=ROOT,
        )
        try:
            code = run.wait(UI_WITHIN)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGINT)  # it ends what it has started
            code = run.wait(120)
    if code:
        lines = [line for line in log.read_text().splitlines() if line.strip() and not line.startswith("{")]
        problems = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        why = (problems or lines or ["no message"])[-1]
        results.setdefault("left out", []).append(f"the UI, as benchmarks/ui.py ended with {why!r}")
        say(f"benchmarks/ui.py failed: {log.read_text()[-2000:]}")
        return
    results["ui"] = json.loads(file.read_text())


def run_connections(results: Results, folder: Path, pace: Pace) -> None:
    if there([small.Ours], results):
        results["connections"] = scale.connections(folder, seconds=pace.seconds + 2)


def run_scale(results: Results, folder: Path, pace: Pace) -> None:
    if there([small.Ours], results):
        rounds = max(1, pace.rounds - 2)
        found = scale.measure(folder, rounds=rounds, seconds=pace.seconds, most=pace.most)
        results["scale"] = json.loads(json.dumps(found))


PARTS: dict[str, Callable[[Results, Path, Pace], None]] = {
    "small": run_small,
    "bcrypt": run_bcrypt,
    "large": run_large,
    "work": run_work,
    "ui": run_ui,
    "connections": run_connections,
    "scale": run_scale,
}


def machine(options: str) -> dict[str, Any]:
    """Where this is measured, and how busy that was already."""
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": " ".join(found[1].split()) if found else platform.machine(),
        "cores": os.cpu_count(),
        "linux": platform.release(),
        "programs": versions(),
        "busy before": busy(),
        "options": options,
    }


def versions() -> list[str]:
    said = []
    for name, options in (("nginx", ["-v"]), ("caddy", ["version"])):
        if where := program(name):
            run = subprocess.run([where, *options], capture_output=True, text=True)
            version = re.search(r"\d+(\.\d+)+", run.stdout + run.stderr)
            said.append(f"{name} {version[0] if version else '?'}")
    return [*said, f"Python {platform.python_version()}"]


def busy(seconds: float = 3.0) -> float:
    """The part of the machine's CPU that is used by others."""

    def used() -> tuple[float, float]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    before = used()
    time.sleep(seconds)
    after = used()
    return (after[0] - before[0]) / max(1, after[1] - before[1])


if __name__ == "__main__":
    main()
