"""/livez and /readyz: whether this process runs, and whether it can serve; for probes, and for a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import parse_qs

from proxy.pages.answers import TEXT, App, Receive, Scope, Send, answer
from proxy.pages.errors import refuse

_RETRY_AFTER = (b"retry-after", b"2")


class Readiness(Protocol):
    """Whether MLflow can be used; `proxy.mlflow_server.MlflowServer` has it."""

    @property
    def ready(self) -> bool: ...
    @property
    def reason(self) -> str:
        """Why not, in one line for a person."""
        ...

    def checks(self) -> Mapping[str, str | None]:
        """What was looked at: None where it is good, else why not."""
        ...


async def livez(scope: Scope, receive: Receive, send: Send) -> None:
    """200 while the event loop turns. MLflow's state does not count: a restart of ours would not mend it."""
    if await other_method(scope, send):
        return
    body = b"[+]ping ok\nlivez check passed\n" if _verbose(scope) else b"ok\n"
    await answer(scope, send, 200, body, TEXT)


def readyz(
    state: Readiness,
    probes: Callable[[], Mapping[str, str | None]] = dict,
    notes: Callable[[], Mapping[str, str]] = dict,
    /,
    **others: Callable[[], str | None],
) -> App:
    """The application: 200 when MLflow is ready, else 503 and why. `?verbose` lists each check.

    The list is in Kubernetes' own style (kube-apiserver's /readyz?verbose). `others` are looked at for that
    list alone, by name, and `probes` were before: what is wrong with them mends nothing if no traffic comes.
    `notes` say more of some of them, by the same names.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await other_method(scope, send):
            return
        ready = state.ready
        if _verbose(scope):
            checks = {**state.checks(), **{name: look() for name, look in others.items()}, **probes()}
            more = notes()
            lines = [
                (f"[+]{name} ok" if problem is None else f"[-]{name} failed: {_one_line(problem)}")
                + (f" ({more[name]})" if name in more else "")
                for name, problem in checks.items()
            ]
            text = "\n".join([*lines, f"readyz check {'passed' if ready else 'failed'}"])
        else:
            text = "ok" if ready else _one_line(state.reason)
        body = f"{text}\n".encode("utf-8", "replace")
        await answer(scope, send, 200 if ready else 503, body, TEXT, headers=() if ready else (_RETRY_AFTER,))

    return app


async def other_method(scope: Scope, send: Send) -> bool:
    """Refuse what is neither GET nor HEAD; True if it was refused."""
    if scope["method"] in ("GET", "HEAD"):
        return False
    await refuse(
        scope,
        send,
        405,
        "Only GET and HEAD are served here.",
        reason="bad_request",
        headers=((b"allow", b"GET, HEAD"),),
    )
    return True


def _verbose(scope: Scope) -> bool:
    query: bytes = scope["query_string"]
    return b"verbose" in query and b"verbose" in parse_qs(query, keep_blank_values=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())
