"""A report as one HTML page: no script, nothing from outside, charts drawn here as SVG, all of it escaped."""

from __future__ import annotations

from html import escape

from proxy.review.findings import KINDS, Finding, shown
from proxy.review.noticed import clock
from proxy.review.profiles import DAY
from proxy.review.review import Report
from proxy.review.telling import headline

HOUR = 3600.0
_WIDTH, _HEIGHT, _LEFT, _ROW = 920, 150, 150, 17
_MOST_BARS = 120
_NOTES = 200
_REASONS = 8
# The page asks for nothing and runs nothing, whatever might slip into it (W3C CSP 3).
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } h3 { font-size: 1rem; margin: 0 }
article { border-left: 4px solid #c0392b; padding: .2rem 0 .2rem 1rem; margin: 1.2rem 0 }
pre { font-size: 12px; overflow-x: auto; background: #8882; padding: .5rem; white-space: pre-wrap;
  overflow-wrap: anywhere }
table { border-collapse: collapse } td { padding: .15rem .6rem .15rem 0; vertical-align: top }
.when, .quiet { opacity: .75 } .bad { color: #c0392b; font-weight: 600 }
svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: currentColor }
.asked { fill: #4a7fb5 } .refused { fill: #e0a030 } .failed { fill: #c0392b } .axis { stroke: #8888 }
"""


def as_html(report: Report) -> str:
    """The whole page."""
    said = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Review: {len(report.findings)} findings</title><style>{_STYLE}</style></head><body>",
        "<h1>Review of the access and audit logs</h1>",
    ]
    for line in headline(report):
        said.append(f"<p{' class=bad' if line.startswith('NOT READ') else ''}>{escape(line)}</p>")
    if report.seen.hours:
        said += ["<h2>Requests</h2>", _requests(report)]
    if report.findings:
        said += ["<h2>When</h2>", _timeline(report), "<h2>Findings</h2>"]
        said += [_finding(number, each) for number, each in enumerate(report.findings, 1)]
    if report.notes:
        said += [f"<h2>Noted, below {report.thresholds.points:g} points</h2>", "<table>"]
        for each in report.notes[:_NOTES]:
            why = escape(each.reasons[0].why)
            said.append(
                f"<tr><td class=when>{clock(each.begin)}</td><td>{escape(each.about)}</td><td>{why}</td></tr>"
            )
        said.append("</table>")
        if len(report.notes) > _NOTES:
            said.append(f"<p class=quiet>and {len(report.notes) - _NOTES} more</p>")
    said.append("</body></html>")
    return "\n".join(said) + "\n"


def _finding(number: int, finding: Finding) -> str:
    said = [
        f'<article id="f{number}">',
        f"<h3>{number}. {escape(finding.about)}: {escape(', '.join(finding.kinds))}</h3>",
        f"<p class=when>{clock(finding.begin)} to {clock(finding.end)} UTC, {finding.points:g} points</p>",
    ]
    for reason in finding.reasons[:_REASONS]:
        lines = "\n".join(f"{shown(line.file)}:{line.number}: {line.short}" for line in reason.lines)
        said.append(f"<p>{escape(reason.why)}</p><pre>{escape(lines)}</pre>")
    left = len(finding.reasons) - _REASONS
    said.append(f"<p class=quiet>and {left} more like these</p></article>" if left > 0 else "</article>")
    return "\n".join(said)


def _bars(report: Report) -> tuple[float, dict[int, list[int]]]:
    """Requests, refusals and failures by the step that makes a readable number of bars, in seconds."""
    hours = report.seen.hours
    span = (max(hours) - min(hours) + 1) * HOUR
    step = next(each for each in (HOUR, 6 * HOUR, DAY, 7 * DAY, 28 * DAY, 1e12) if span / each <= _MOST_BARS)
    found: dict[int, list[int]] = {}
    for hour, counts in hours.items():
        bar = found.setdefault(int(hour * HOUR // step), [0, 0, 0])
        for which, count in enumerate(counts):
            bar[which] += count
    return step, found


def _requests(report: Report) -> str:
    step, bars = _bars(report)
    first, last = min(bars), max(bars)
    most = max(counts[0] for counts in bars.values()) or 1
    width = _WIDTH / (last - first + 1)
    said = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 20}" role="img" aria-label="Requests over time">',
        f'<text x="0" y="10">{most:,}</text>',
    ]
    for at, (asked, refused, failed) in sorted(bars.items()):
        left, title = (
            (at - first) * width,
            f"{clock(at * step)}: {asked:,}, refused {refused:,}, failed {failed:,}",
        )
        said.append(f"<g><title>{title}</title>")
        base = float(_HEIGHT)
        for count, kind in ((failed, "failed"), (refused, "refused"), (asked - failed - refused, "asked")):
            high = max(count, 0) / most * (_HEIGHT - 14)
            base -= high
            if count > 0:
                said.append(
                    f'<rect class="{kind}" x="{left:.1f}" y="{base:.1f}" width="{max(width - 1, 0.5):.1f}" '
                    f'height="{high:.1f}"/>'
                )
        said.append("</g>")
    said.append(f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>')
    said.append(f'<text x="0" y="{_HEIGHT + 14}">{clock(first * step)}</text>')
    end = clock(min((last + 1) * step, report.seen.last))
    said.append(f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">{end}</text></svg>')
    said.append("<p class=quiet>Blue: let in. Yellow: refused. Red: failed.</p>")
    return "\n".join(said)


def _timeline(report: Report) -> str:
    """A row for each kind, a bar for each finding, which leads to it."""
    kinds = [kind for kind in KINDS if any(kind in each.kinds for each in report.findings)]
    begin = min(each.begin for each in report.findings)
    begin, end = min(begin, report.seen.first or begin), max(each.end for each in report.findings)
    scale = (_WIDTH - _LEFT - 12) / max(end - begin, 1)
    high = len(kinds) * _ROW
    said = [f'<svg viewBox="0 0 {_WIDTH} {high + 20}" role="img" aria-label="Findings over time">']
    for row, kind in enumerate(kinds):
        y = row * _ROW
        said.append(f'<text x="0" y="{y + 12}">{kind}</text>')
        said.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH}" y1="{y + 8}" y2="{y + 8}"/>')
        for number, each in enumerate(report.findings, 1):
            for reason in each.reasons:
                if reason.kind == kind:
                    x, wide = (
                        _LEFT + (reason.begin - begin) * scale,
                        max((reason.end - reason.begin) * scale, 8),
                    )
                    said.append(
                        f'<a href="#f{number}"><rect class="failed" x="{x:.1f}" y="{y + 3}" '
                        f'width="{max(wide, 8):.1f}" height="10" rx="3">'
                        f"<title>{number}. {escape(each.about)}</title></rect></a>"
                    )
                    break
    said.append(f'<text x="{_LEFT}" y="{high + 14}">{clock(begin)}</text>')
    said.append(f'<text x="{_WIDTH}" y="{high + 14}" text-anchor="end">{clock(end)}</text></svg>')
    return "\n".join(said)
