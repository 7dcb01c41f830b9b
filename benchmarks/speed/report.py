"""The report: tables in Markdown, and the section of docs/performance.md that they are written to; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from figures import NOISY, median, spread
from targets import Verdict

BEGIN, END = "<!-- bench: written by scripts/bench -->", "<!-- bench: end -->"


def replaced(document: str, section: str) -> str:
    """The document with that between the marks. Raises ValueError where they are not there once each."""
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"{BEGIN} and {END} have to be there once each")
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section.strip()}\n{END}{after}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]], words: int = 1) -> str:
    """A table, whose first `words` columns are words and the rest numbers."""
    line = [" --- "] * words + [" --: "] * (len(head) - words)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(line)}|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits that count."""
    if value and abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:,.1f}" if abs(value) < 100 and value != int(value) else f"{value:,.0f}"


def target_table(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for one in verdicts:
        unit = f" {one.unit}" if one.unit else ""
        met = ("met" if one.met else "**missed**") if not one.stretch else ("met" if one.met else "not met")
        if not one.sure:
            met += ", unsure"
        title = f"{one.what}{' (stretch)' if one.stretch else ''}"
        rows.append((one.part, title, f"{one.how} {number(one.bound)}{unit}", number(one.found) + unit, met))
    return markdown(("", "target", "wanted", "found", ""), rows, words=3)


def rate_table(rows: dict[str, dict[str, list[float]]]) -> str:
    """Of what wrk asked; the keys are "name, connections"."""
    shown = []
    for key, row in sorted(rows.items(), key=lambda item: int(item[0].rpartition(", ")[2])):
        name, _, connections = key.rpartition(", ")
        rate = row["per second"]
        shown.append(
            (
                name,
                connections,
                number(median(rate)),
                f"{spread(rate):.0%}",
                f"{median(row['median ms']):.2f}",
                f"{median(row['99 % ms']):.2f}",
                f"{median(row['CPU us']):.0f}",
                f"{max(row['memory MiB']):.0f}",
            )
        )
    head = (
        "in front",
        "connections",
        "requests/s",
        "±",
        "median ms",
        "99 % ms",
        "CPU µs a request",
        "peak MiB",
    )
    return markdown(head, shown)


def large_table(rows: dict[str, dict[str, list[float]]]) -> str:
    """The keys are "name, what was done"."""
    done = ("down", "up", "down, 8 at once", "up, 8 at once", "down, 8 slow", "up, 8 slow")
    shown = []
    for what in done:
        for key, row in rows.items():
            if not key.endswith(f", {what}") or (name := key.removesuffix(f", {what}")).endswith("8 at once"):
                continue
            speed = row.get("MB/s")
            shown.append(
                (
                    what,
                    name,
                    number(median(speed)) if speed else "",
                    f"{spread(speed):.0%}" if speed else "",
                    f"{median(row['CPU s/GiB']):.2f}" if speed else "",
                    f"{max(row['growth MiB']):.1f}",
                )
            )
    return markdown(("what", "in front", "MB/s", "±", "CPU s a GiB", "memory growth, MiB"), shown, words=2)


def work_table(rows: dict[str, dict[str, list[float]]]) -> str:
    shown = [
        (
            name,
            f"{median(row['seconds']):.1f}",
            f"{spread(row['seconds']):.0%}",
            f"{median(row['CPU share']):.1%}" if name == "mlflow-proxy" else "",
        )
        for name, row in rows.items()
    ]
    return markdown(("", "seconds", "±", "the proxy's CPU, of the machine's"), shown)


def scale_table(found: dict[str, Any]) -> str:
    by_kind = found["cpu us"]
    counts = sorted(next(iter(by_kind.values())), key=int)
    rows: list[tuple[object, ...]] = [
        (kind, *(f"{median(row[count]):.0f} ± {spread(row[count]):.0%}" for count in counts))
        for kind, row in by_kind.items()
    ]
    rows.append(("series of /metrics", *(found["series"][count] for count in counts)))
    return markdown(("CPU µs a request", *(f"{int(count):,}" for count in counts)), rows)


def connection_table(found: dict[str, float]) -> str:
    return markdown(
        ("connections", "memory each"),
        [
            ("2,000 idle", f"{found['idle bytes each'] / 1024:.1f} KiB"),
            ("500 active, at most", f"{found['active bytes each'] / 1024:.1f} KiB"),
        ],
    )


def ui_table(result: dict[str, Any]) -> str:
    rows = []
    for page in result["medians"]["direct"]:
        for way, pages in result["medians"].items():
            of = pages[page]
            rows.append(
                (
                    page,
                    way,
                    f"{of['there_ms'] / 1000:.2f}",
                    f"{of['bytes'] / 1e6:.2f}",
                    of["requests"],
                    of["files"],
                )
            )
    return markdown(("page", "", "seconds until it is there", "MB", "requests", "files"), rows, words=2)


def noise(results: dict[str, Any]) -> list[str]:
    """What was too unsteady to be judged, and how busy the machine was with other things."""
    said = []
    machine = results.get("machine", {})
    if machine.get("busy before", 0) > 0.15:
        said.append(
            f"Other programs used {machine['busy before']:.0%} of this machine before the run began, so its "
            "figures are too low and its ratios rough."
        )
    unsteady = []
    for part in ("small", "bcrypt", "basic-auth"):
        for key, row in results.get(part, {}).items():
            if spread(row["per second"]) > NOISY:
                unsteady.append(f"{key} ({spread(row['per second']):.0%})")
    for key, row in results.get("large", {}).items():
        if "MB/s" in row and spread(row["MB/s"]) > NOISY:
            unsteady.append(f"{key} ({spread(row['MB/s']):.0%})")
    if unsteady:
        said.append(f"The rounds of these lie too far apart to be judged: {'; '.join(unsteady)}.")
    return said


def section(results: dict[str, Any], verdicts: Sequence[Verdict]) -> str:
    """All of it."""
    machine = results["machine"]
    main = [one for one in verdicts if not one.stretch]
    parts = [
        f"{machine['date']}: {machine['processor']}, {machine['cores']} cores, Linux {machine['linux']}; "
        f"{', '.join(machine['programs'])}. {machine['options']} {machine['seconds'] / 60:.0f} minutes.",
        *noise(results),
        f"**{sum(one.met for one in main)} of {len(main)} targets are met**"
        + (f", {sum(not one.sure for one in main)} of all unsure." if any(not o.sure for o in main) else "."),
        target_table(verdicts),
    ]
    parts += [f"Left out: {why}." for why in results.get("left out", [])]
    for part, title, table in (
        ("small", "Small requests, passwords at no hash cost", rate_table),
        ("bcrypt", "Small requests, bcrypt everywhere", rate_table),
        ("basic-auth", "A cheap call to the real MLflow", lambda rows: rate_table(_at(rows))),
        ("large", "Large bodies", large_table),
        ("work", "Real work", work_table),
        ("ui", "The UI", ui_table),
        ("connections", "Connections", connection_table),
        ("scale", "Scale", scale_table),
    ):
        if part in results:
            parts += [f"### {title}", table(results[part])]
    return "\n\n".join(parts)


def _at(rows: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}, 4": row for name, row in rows.items()}
