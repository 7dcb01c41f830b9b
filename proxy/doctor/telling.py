"""The doctor's report, for people in text and for programs in JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from proxy import __version__
from proxy.doctor.case import Case
from proxy.doctor.examination import Report
from proxy.doctor.result import Outcome, exit_code

WIDTH = 110
_COLOURS = {Outcome.OK: "32", Outcome.SKIPPED: "2", Outcome.WARNING: "33", Outcome.FAILURE: "1;31"}
_WORDS = {
    Outcome.OK: "ok",
    Outcome.SKIPPED: "skipped",
    Outcome.WARNING: "warning",
    Outcome.FAILURE: "FAILURE",
}
_COLUMN = 9


def heading(case: Case) -> str:
    """What is looked at."""
    service = case.service
    where = f"process {service.pid} at {service.address}" if service is not None else "no service runs"
    return f"mlflow-proxy {__version__} doctor: {case.settings.data_dir}, {where}\n"


def as_text(report: Report, mask: Callable[[str], str], *, colours: bool) -> str:
    """One check's report, with an empty line at its end."""
    lines = [_coloured(report.name, "1", colours)]
    for result in report.results:
        word = _coloured(f"{_WORDS[result.outcome]:<{_COLUMN - 2}}", _COLOURS[result.outcome], colours)
        lines += _wrapped(f"  {word} ", f"{result.what}: {mask(result.seen)}", _COLUMN + 1)
        if result.mend:
            lines += _wrapped(" " * (_COLUMN + 1) + "-> ", mask(result.mend), _COLUMN + 4)
    return "\n".join(lines) + "\n"


def summary(reports: Sequence[Report], *, colours: bool) -> str:
    """The last line."""
    counted = Counter(result.outcome for report in reports for result in report.results)
    parts = []
    for outcome, one, many in (
        (Outcome.FAILURE, "failure", "failures"),
        (Outcome.WARNING, "warning", "warnings"),
        (Outcome.SKIPPED, "skipped", "skipped"),
        (Outcome.OK, "ok", "ok"),
    ):
        number = counted[outcome]
        if number or outcome is Outcome.FAILURE:
            colour = _COLOURS[outcome] if number else "0"
            parts.append(_coloured(f"{number} {one if number == 1 else many}", colour, colours))
    return ", ".join(parts)


def as_json(case: Case, reports: Sequence[Report], mask: Callable[[str], str]) -> str:
    """All of it."""
    outcomes = {result.outcome for report in reports for result in report.results}
    told: dict[str, Any] = {
        "version": __version__,
        "data_dir": str(case.settings.data_dir),
        "service": None
        if case.service is None
        else {"pid": case.service.pid, "address": case.service.address},
        "exit_code": exit_code(outcomes),
        "checks": [
            {
                "check": report.name,
                "seconds": round(report.seconds, 3),
                "results": [
                    {
                        "what": result.what,
                        "outcome": result.outcome.value,
                        "seen": mask(result.seen),
                        "mend": mask(result.mend) or None,
                    }
                    for result in report.results
                ],
            }
            for report in reports
        ],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)


def _wrapped(before: str, text: str, indent: int) -> list[str]:
    """In lines that a terminal shows whole; nothing that a stranger's words hold can move the cursor."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    lines = textwrap.wrap(plain, WIDTH - indent, break_long_words=False, break_on_hyphens=False) or [""]
    return [before + lines[0], *(" " * indent + line for line in lines[1:])]


def _coloured(text: str, code: str, colours: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if colours else text
