"""Holds the clients' ledgers against what MLflow has in the end."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

# What mlflow-proxy says where it can't know; the ledger has it in the text of the client's exception.
UNSAFE = "is not repeated, because"
_TOLD = ("call", "mark", "began", "took", "error")
KEPT = 32 * 2**20  # bytes of an upload that can be sent again: PROXY_RESEND_BODY_LIMIT's default


@dataclass
class Verdict:
    """Counts of one scenario. `failed` are calls that raised, by kind; `failures` each of them."""

    calls: int = 0
    runs: int = 0
    metrics: int = 0
    artifacts: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    runs_twice: int = 0
    runs_lost: int = 0
    metrics_lost: int = 0
    metrics_doubled: int = 0
    metrics_wrong: int = 0
    params_lost: int = 0
    tags_lost: int = 0
    ends_lost: int = 0
    checksums_wrong: int = 0
    searches_wrong: int = 0
    longest_pause: float = 0.0
    longest_call: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def data_wrong(self) -> int:
        """Whatever was said to be logged and is not there, is there twice, or otherwise."""
        metrics = self.metrics_lost + self.metrics_doubled + self.metrics_wrong
        return (
            metrics
            + self.runs_lost
            + self.params_lost
            + self.tags_lost
            + self.ends_lost
            + self.searches_wrong
        )

    def as_json(self) -> dict[str, Any]:
        return {
            name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()
        }


def kind(line: dict[str, Any]) -> str:
    """Of a failed call: `told` where the client was told that it may have been done and must not be repeated
    blindly, `create` where a run was to be created otherwise, `stream` where an upload is too large to be
    kept for another try, else `other`.
    """
    if UNSAFE in line["error"]:
        return "told"
    if line["call"] == "create_run":
        return "create"
    return "stream" if line["call"] == "upload" and line["bytes"] > KEPT else "other"


def judge(folder: Path, experiment: str, artifacts: Path) -> Verdict:
    """`artifacts` is the directory that MLflow keeps them in; each is looked at there.

    Asks MLflow at the tracking URI of the environment.
    """
    verdict = Verdict()
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for ledger in sorted(folder.glob("client-*.jsonl")):
        _read(ledger, verdict, lines)
    client = MlflowClient()
    runs = _runs(client, experiment)
    for mark, told in lines.items():
        _judge_run(client, verdict, told, runs.get(mark, []), artifacts / experiment)
    return verdict


def _read(ledger: Path, verdict: Verdict, lines: dict[str, list[dict[str, Any]]]) -> None:
    last: float | None = None
    for text in ledger.read_text().splitlines():
        line = json.loads(text)
        if "wrong" in line:
            verdict.searches_wrong += line["wrong"] == "search"
            verdict.checksums_wrong += line["wrong"] == "checksum"
            continue
        lines[line["mark"]].append(line)
        verdict.calls += 1
        verdict.longest_call = max(verdict.longest_call, line["took"])
        ended = line["began"] + line["took"]
        if line["error"] is None:
            if last is not None:
                verdict.longest_pause = max(verdict.longest_pause, ended - last)
            last = ended
        else:
            which = kind(line)
            verdict.failed[which] += 1
            verdict.reasons[f"{which}: {line['call']}"] += 1
            verdict.failures.append({"kind": which, **{key: line[key] for key in _TOLD}})
            verdict.examples.setdefault(f"{which}: {line['call']}", line["error"][:600])


def _runs(client: MlflowClient, experiment: str) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = defaultdict(list)
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            found[run.data.tags["chaos"]].append(run)
        if not (token := page.token):
            return found


def _judge_run(
    client: MlflowClient, verdict: Verdict, told: list[dict[str, Any]], there: list[Run], artifacts: Path
) -> None:
    created = told[0]
    verdict.runs += len(there)
    verdict.runs_twice += len(there) > 1
    if created["error"] is not None:
        return
    run = next((run for run in there if run.info.run_id == created["run"]), None)
    if run is None:
        verdict.runs_lost += 1
        return
    asked: dict[str, set[tuple[Any, ...]]] = {"batch": set(), "single": set()}
    certain: dict[str, set[tuple[Any, ...]]] = {"batch": set(), "single": set()}
    for line in told:
        ok = line["error"] is None
        if line["call"] in ("log_batch", "log_metric"):
            key = "batch" if line["call"] == "log_batch" else "single"
            points = {tuple(point) for point in line["metrics"]}
            asked[key] |= points
            if ok:
                certain[key] |= points
            if ok and "param" in line:
                verdict.params_lost += run.data.params.get(line["param"][0]) != line["param"][1]
        elif not ok:
            continue
        elif line["call"] == "set_tag":
            verdict.tags_lost += run.data.tags.get("note") != line["mark"]
        elif line["call"] == "set_terminated":
            verdict.ends_lost += run.info.status != "FINISHED"
        elif line["call"] == "upload":
            verdict.artifacts += 1
            path = artifacts / run.info.run_id / "artifacts" / "data.bin"
            verdict.checksums_wrong += _sha256(path) != line["sha256"]
    for key, points in asked.items():
        if points:
            history = client.get_metric_history(run.info.run_id, key)
            have = Counter((metric.step, metric.timestamp, metric.value) for metric in history)
            verdict.metrics += len(have)
            verdict.metrics_lost += sum(not _has(have, point) for point in certain[key])
            verdict.metrics_doubled += sum(count - 1 for count in have.values())
            verdict.metrics_wrong += sum(not _has(points, point) for point in have)


def _has(points: Any, point: tuple[Any, ...]) -> bool:
    return point in points or any(
        step == point[0] and stamp == point[1] and math.isclose(value, point[2])
        for step, stamp, value in points
    )


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
