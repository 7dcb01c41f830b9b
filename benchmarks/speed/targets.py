"""The targets of issue 6, and whether what was measured meets them; pure.

Results are a dictionary with the parts of run.py as keys; a part that was left out has no key. What is judged
is the median of the rounds, and where the rounds themselves disagree about it, the verdict says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from figures import NOISY, median, ratios, spread

OURS, NGINX, CADDY, DIRECT = "mlflow-proxy", "nginx", "Caddy", "direct"
Bound = Literal["at least", "at most"]


@dataclass(frozen=True)
class Verdict:
    """One target. `found` is in `unit`, and so is `bound`."""

    part: str
    what: str
    how: Bound
    bound: float
    found: float
    unit: str = ""
    sure: bool = True
    """False where the rounds lie so far apart that another run may say otherwise."""
    stretch: bool = False

    @property
    def met(self) -> bool:
        return self.found <= self.bound if self.how == "at most" else self.found >= self.bound

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def judge(
    part: str,
    what: str,
    how: Bound,
    bound: float,
    rounds: Sequence[float],
    unit: str = "",
    *,
    stretch: bool = False,
    worst: bool = False,
) -> Verdict:
    """Hold the rounds' median, or with `worst` the worst of them, against the bound."""
    middle = median(rounds)
    found = (max(rounds) if how == "at most" else min(rounds)) if worst else middle
    verdict = Verdict(part, what, how, bound, found, unit, stretch=stretch)
    if worst:
        return verdict
    # One round has nothing to be held against.
    agree = sum((each <= bound) == (middle <= bound) for each in rounds)
    sure = (
        len(rounds) > 1 and agree >= len(rounds) * 0.75 and (agree == len(rounds) or spread(rounds) <= NOISY)
    )
    return Verdict(part, what, how, bound, found, unit, sure, stretch)


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Every target whose part was measured, in the issue's order."""
    parts = {
        "small": _small,
        "basic-auth": _basic_auth,
        "large": _large,
        "work": _work,
        "ui": _ui,
        "connections": _connections,
        "scale": _scale,
    }
    return [one for name, judged in parts.items() if name in results for one in judged(results[name])]


def _small(rows: dict[str, Any]) -> Iterator[Verdict]:
    def of(name: str, connections: int, figure: str) -> list[float] | None:
        row = rows.get(f"{name}, {connections}")
        return None if row is None else list(row[figure])

    part = "small requests"
    for count in (16, 64):
        ours, ours_cpu = of(OURS, count, "per second"), of(OURS, count, "CPU us")
        if ours is None or ours_cpu is None:
            continue
        at = f"at {count} connections"
        caddy, caddy_cpu = of(CADDY, count, "per second"), of(CADDY, count, "CPU us")
        if caddy is not None and caddy_cpu is not None:
            yield judge(part, f"requests/s to Caddy's {at}", "at least", 1.0, ratios(ours, caddy))
            of_cpu = ratios(ours_cpu, caddy_cpu)
            yield judge(part, f"CPU a request to Caddy's {at}", "at most", 1.3, of_cpu)
            yield judge(part, f"CPU a request to Caddy's {at}", "at most", 1.0, of_cpu, stretch=True)
        nginx = of(NGINX, count, "per second")
        if nginx is not None:
            of_nginx = ratios(ours, nginx)
            yield judge(part, f"requests/s to nginx's {at}", "at least", 0.2, of_nginx)
            yield judge(part, f"requests/s to nginx's {at}", "at least", 0.3, of_nginx, stretch=True)
        milliseconds = [each / 1000 for each in ours_cpu]
        yield judge(part, f"CPU a request {at}", "at most", 0.2, milliseconds, "ms")
    ours, caddy, direct = (of(name, 1, "median ms") for name in (OURS, CADDY, DIRECT))
    if ours is not None and caddy is not None and direct is not None:
        added = [mine - without for mine, without in zip(ours, direct, strict=True)]
        theirs = [other - without for other, without in zip(caddy, direct, strict=True)]
        yield judge(
            part,
            "added at the median to what Caddy adds, 1 connection",
            "at most",
            1.0,
            ratios(added, theirs),
        )


def _basic_auth(rows: dict[str, Any]) -> Iterator[Verdict]:
    ours, theirs = rows[OURS]["per second"], rows["MLflow's basic-auth"]["per second"]
    yield judge(
        "MLflow's basic-auth",
        "requests/s to those of MLflow's application, both with the real MLflow",
        "at least",
        10,
        ratios(ours, theirs),
    )


def _large(rows: dict[str, Any]) -> Iterator[Verdict]:
    part = "large bodies"
    for what, bound in (("down", 1.3), ("up", 1.0), ("down, 8 at once", 1.3), ("up, 8 at once", 1.0)):
        ours, nginx = rows.get(f"{OURS}, {what}"), rows.get(f"{NGINX}, {what}")
        if ours and nginx:
            rate = ratios(ours["MB/s"], nginx["MB/s"])
            yield judge(part, f"{what}: speed to nginx's", "at least", bound, rate)
    for title, name in (("", OURS), (", TLS", f"{OURS}, TLS")):
        for what in ("down", "up", "down, 8 at once", "up, 8 at once", "down, 8 slow", "up, 8 slow"):
            if row := rows.get(f"{name}, {what}"):
                growth = row["growth MiB"]
                yield judge(part, f"{what}{title}: memory growth", "at most", 16, growth, "MiB", worst=True)


def _work(rows: dict[str, Any]) -> Iterator[Verdict]:
    part, ours, bare = "real work", rows[OURS], rows["MLflow alone"]
    yield judge(part, "wall time to direct", "at most", 1.05, ratios(ours["seconds"], bare["seconds"]))
    share = [each * 100 for each in ours["CPU share"]]
    yield judge(part, "our CPU of the machine's", "at most", 5, share, "%")


def _ui(result: dict[str, Any]) -> Iterator[Verdict]:
    for target in result["targets"]:
        how, _, bound = target["target"].rpartition(" ")
        limit = float(bound.replace(",", ""))
        yield Verdict("the UI", target["what"], how, limit, float(target["found"]))


def _connections(found: dict[str, float]) -> Iterator[Verdict]:
    yield Verdict(
        "scale", "2,000 idle and 500 active connections: requests refused", "at most", 0, found["failed"]
    )


def _scale(found: dict[str, Any]) -> Iterator[Verdict]:
    for kind, by_count in found["cpu us"].items():
        counts = sorted(by_count, key=int)
        growth = ratios(by_count[counts[-1]], by_count[counts[0]])
        what = f"{kind}: CPU a request with {int(counts[-1]):,} to that with {counts[0]}"
        yield judge("scale", what, "at most", 1.2, growth)
