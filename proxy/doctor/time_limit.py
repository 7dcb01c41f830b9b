"""How long what stands in front waits for an answer."""

from __future__ import annotations

import time
from collections.abc import Iterator

from proxy.doctor.case import Case
from proxy.doctor.outside import Outside, address_of, elsewhere
from proxy.doctor.result import Result, ok, skipped, warning
from proxy.doctor.running import visit
from proxy.errors import UserError

SLACK = 5.0


def longest(case: Case) -> float:
    """Seconds that an answer may take while all is well: a request that came when MLflow had just gone waits
    for PROXY_HOLD_SECONDS."""
    return case.settings.hold_seconds + SLACK


def seconds(case: Case) -> float:
    """That the check may take."""
    return longest(case) + case.within(30)


def time_limit(case: Case) -> Iterator[Result]:
    """One request that is answered late."""
    if case.asked.quick:
        yield skipped("time", "left out (--quick)")
        return
    if case.service is None:
        yield skipped("time", "no service runs that could answer late")
        return
    wait = longest(case)
    try:
        with visit(case.service, wait + case.within(20)) as opened:
            outside = Outside(address_of(case), opened, case.within(10))
            yield _waited(outside, wait, case)
    except UserError as error:
        yield skipped("time", f"the service can't be asked to answer late: {error}")


def _waited(outside: Outside, wait: float, case: Case) -> Result:
    for _ in range(6):
        began = time.monotonic()
        try:
            answer = outside.ask(do="wait", seconds=wait + case.within(10), late=wait)
            status, said = answer.status, f"it answers {answer.status}"
            if elsewhere(answer):
                continue
        except OSError as error:
            status, said = 0, f"the connection ends ({error or type(error).__name__})"
        took = time.monotonic() - began
        if status == 200:
            return ok("time", f"an answer after {wait:g} s arrives")
        if took < 1:
            return skipped("time", f"a late answer can't be tried: {said}")
        return warning(
            "time",
            f"what stands in front gives up after {took:.0f} s ({said}); requests wait for up to "
            f"{case.settings.hold_seconds:g} s while MLflow is restarted (PROXY_HOLD_SECONDS), and "
            "uploads to a "
            "bucket for longer",
            "let it wait for longer, 10 minutes say (nginx: proxy_read_timeout 600s; HAProxy: timeout "
            "server; "
            "AWS: idle timeout; Google: backend timeout)",
        )
    return skipped("time", "no connection led to this very service")
