"""From where on something is told: each threshold by its name, with what it means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from proxy.errors import UserError


def _threshold(default: float, text: str) -> float:
    return field(default=default, metadata={"text": text})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What `--set NAME=VALUE` sets; docs/review.md lists them."""

    points: float = _threshold(3, "Points that make a finding; what stays below is a note.")
    learn_days: float = _threshold(7, "Days at the log's beginning from which is learned what is usual.")
    user_days: float = _threshold(3, "Days somebody has to be seen on before what is new for them counts.")
    roaming: float = _threshold(
        0.2, "Share of somebody's days with a new network from which on another one says little."
    )
    shared: float = _threshold(2, "Others who use a network or a program, from which on it is the house's.")
    burst: float = _threshold(60, "Refused credentials from an address in 10 minutes; a browser's a tenth.")
    locked_out: float = _threshold(20, "Refusals as locked out from one address in 10 minutes.")
    guessed_users: float = _threshold(5, "User names refused at sign-in from one address in an hour.")
    guessing_networks: float = _threshold(
        10, "Networks that nobody here uses, with refused credentials, in an hour."
    )
    failures: float = _threshold(10, "Refused credentials in 30 minutes before one that was taken.")
    forbidden: float = _threshold(4, "Operations that somebody's role forbids, tried in one stretch of work.")
    forbidden_requests: float = _threshold(30, "Requests that somebody's role forbids, the same.")
    downloads: float = _threshold(400, "Artifacts that a user reads in one stretch of work.")
    download_gb: float = _threshold(100, "Gigabytes of artifacts, the same.")
    deletions: float = _threshold(
        80, "Deletions, the same; of experiments, models and files each counts as five."
    )
    experiments: float = _threshold(70, "Different experiments that a user reads, the same.")
    times: float = _threshold(4, "How many times that user's most so far these four have to be.")
    early: float = _threshold(2.5, "Hours before any hour at which somebody usually works.")
    late: float = _threshold(6.5, "Hours after it, in the evening.")
    night: float = _threshold(4, "Hours after it, in the later part of the night.")
    hours_requests: float = _threshold(10, "Requests at such an hour.")
    silent_days: float = _threshold(20, "Days without use after which a token's use is told.")
    switches: float = _threshold(4, "Times that a token changes between two networks within 10 minutes each.")
    errors: float = _threshold(10, "Failed requests of an operation in an hour.")
    error_share: float = _threshold(0.05, "Share of an operation's requests that fail in an hour.")
    slower: float = _threshold(3, "How many times slower an operation's slowest tenth begins than usually.")
    slower_ms: float = _threshold(100, "Milliseconds that it has to be slower by.")
    slower_requests: float = _threshold(20, "Requests of that operation in the hour.")

    def changed(self, given: Iterable[str]) -> Thresholds:
        """With those of the form NAME=VALUE. Raises UserError."""
        known = {each.name for each in fields(self)}
        values: dict[str, float] = {}
        for text in given:
            name, _, value = text.partition("=")
            try:
                values[name] = float(value)
            except ValueError:
                raise UserError(f"--set {text}: write NAME=VALUE, with a number.") from None
            if name not in known:
                raise UserError(f"--set {text}: there is no {name}; see mlflow-proxy review --thresholds.")
            if not 0 <= values[name] < float("inf"):
                raise UserError(f"--set {text}: a threshold is a number from 0 on.")
        return replace(self, **values)


def described() -> list[tuple[str, str, str]]:
    """Each threshold's name, default and meaning."""
    return [(each.name, f"{each.default:g}", each.metadata["text"]) for each in fields(Thresholds)]
