"""A report as text for a terminal or a mail, and as JSON for programs."""

from __future__ import annotations

from typing import Any

from proxy.logs.lines import json_line
from proxy.review.findings import Finding, Signal, shown
from proxy.review.noticed import clock
from proxy.review.review import Report

_NOTES = 30
_REASONS = 8


def as_text(report: Report) -> str:
    """What was found, each finding with its reasons and lines, and what was not taken for one."""
    said = list(headline(report))
    for number, finding in enumerate(report.findings, 1):
        said += ["", f"{number}. {finding.about}: {', '.join(finding.kinds)} ({finding.points:g} points)"]
        said.append(f"   {clock(finding.begin)} to {clock(finding.end)} UTC")
        for reason in finding.reasons[:_REASONS]:
            said.append(f"   - {reason.why}")
            said += [f"       {shown(line.file)}:{line.number}: {line.short}" for line in reason.lines]
        left = len(finding.reasons) - _REASONS
        said += [f"   and {left} more like these"] if left > 0 else []
    if report.notes:
        said += ["", f"Noted, below {report.thresholds.points:g} points:"]
        said += [
            f"  {clock(each.begin)} {each.about}: {each.reasons[0].why}" for each in report.notes[:_NOTES]
        ]
        left = len(report.notes) - _NOTES
        said += [f"  and {left} more (--format json has all)"] if left > 0 else []
    return "\n".join(said)


def headline(report: Report) -> list[str]:
    """What was read, and how much was found, in some sentences."""
    seen = report.seen
    said = [f"{counted(seen.access, 'request')} and {counted(seen.audit, 'event')} of the audit log in "
            f"{counted(len(report.files), 'file')}"]  # fmt: skip
    if seen.first is not None:
        said[0] += f", from {clock(seen.first)} to {clock(seen.last)} UTC"
    said[0] += "."
    if seen.already:
        said.append(f"{counted(seen.already, 'line')} from before what is learned ends, which were left out.")
    if seen.foreign:
        first = seen.foreign_lines[:1]
        where = f"; the first is {shown(first[0].file)}:{first[0].number}" if first else ""
        said.append(f"{counted(seen.foreign, 'line')} of neither log, which were left out{where}.")
    if report.short and seen.first is not None:
        days = report.thresholds.learn_days
        said.append(
            f"That is less than {days:g} days (learn_days): what is new for somebody can't be told yet."
        )
    if report.left_out:
        said.append(f"{counted(report.left_out, 'thing')} more were noticed than are kept.")
    said += [f"NOT READ: {shown(trouble, 300)}" for trouble in report.troubles]
    said.append(f"{counted(len(report.findings), 'finding')}.")
    return said


def counted(number: int, name: str) -> str:
    return f"{number:,} {name}" + ("" if number == 1 else "s")


def as_json(report: Report) -> bytes:
    """One object, on one line; docs/review.md explains its fields."""
    seen = report.seen
    return json_line(
        {
            "from": None if seen.first is None else _moment(seen.first),
            "until": None if seen.first is None else _moment(seen.last),
            "files": [shown(name, 300) for name in report.files],
            "requests": seen.access,
            "events": seen.audit,
            "foreign_lines": seen.foreign,
            "already_learned": seen.already,
            "not_read": report.troubles,
            "too_short_to_learn": report.short,
            "left_out": report.left_out,
            "findings": [_finding(each) for each in report.findings],
            "notes": [_finding(each) for each in report.notes],
        }
    )


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kinds": finding.kinds,
        "points": finding.points,
        "from": _moment(finding.begin),
        "until": _moment(finding.end),
        "users": finding.users,
        "addresses": finding.addresses,
        "operations": finding.operations,
        "reasons": [_reason(each) for each in finding.reasons],
    }


def _reason(signal: Signal) -> dict[str, Any]:
    return {
        "kind": signal.kind,
        "points": signal.points,
        "from": _moment(signal.begin),
        "until": _moment(signal.end),
        "why": signal.why,
        "lines": [{"file": line.file, "line": line.number, "text": line.short} for line in signal.lines],
    }


def _moment(t: float) -> str:
    return clock(t).replace(" ", "T") + ":00Z"
