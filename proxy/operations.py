"""Which of MLflow's operations a request is, what it takes and how it is carried: operations.tsv, loaded."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple


class Access(enum.StrEnum):
    """What an operation does to what others have, judged from its handler, not from its HTTP method."""

    OPEN = "open"  # answered to anybody
    READ = "read"  # changes nothing, also where it is a POST
    WRITE = "write"  # logs, changes, or spends money
    DELETE = "delete"  # takes away part of an experiment
    DESTROY = "destroy"  # takes away a thing with all that is in it, for everybody (PROXY_DELETE_ROLE)
    ADMIN = "admin"  # administers the server, its secrets, or whom it calls
    CLOSED = "closed"  # hands out addresses that go past this server (PROXY_DIRECT_ARTIFACTS)


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that MLflow, or a page of ours, does. A name has one access, in whatever rows it stands."""

    name: str
    """A metric label and log value, of a closed set."""
    access: Access
    native: bool = False
    """True where MLflow serves it on its event loop: it streams, and notices that a client has left.
    False in one of its 40 threads a worker (Flask, and FastAPI's plain functions): it runs to its end."""
    body: str = "bounded"
    """``none``: no body is read. ``bounded``: buffered, sent with Content-Length. ``stream``: an upload."""
    answer: str = "plain"
    """``plain``; ``whole``: a file that MLflow reads into memory whole; ``stream``: a file in pieces;
    ``sse``: may be a stream of events."""
    resource: tuple[str, ...] = ()
    """The query arguments that name an experiment or a run, or ``artifact_path``, the end of the path."""
    once_open: Access | None = None
    """For CLOSED: what it is where PROXY_DIRECT_ARTIFACTS opens it."""
    again: bool = False
    """Whether it may be sent to MLflow a second time where nobody knows what became of the first: nothing
    differs afterwards, and its answer tells of no failure (docs/resending.md)."""
    commits_last: bool = False
    """Whether all that it writes is one transaction, committed when nothing else can fail: where the database
    did not take that, MLflow has done nothing."""
    submits_job: bool = False
    """Whether it puts a job into the queue of MLflow's job runner."""


class Route(NamedTuple):
    """One row of operations.tsv."""

    method: str
    path: str
    """``{name}`` is one segment, ``{name:path}`` any number, ``{api}`` stands for api and ajax-api."""
    served: str
    """``flask``; ``native``: FastAPI, on the event loop; ``thread``: FastAPI, in a thread; ``own``: by us."""
    operation: Operation


# Nothing matched, or HTTP could not be parsed: the highest role, so that what a new MLflow adds is closed.
UNKNOWN = Operation("unknown", Access.ADMIN)
UNPARSED = Operation("unparsed", Access.ADMIN)
OWN = {
    operation.name: operation
    for operation in (
        Operation("livez", Access.OPEN, native=True, body="none"),
        Operation("readyz", Access.OPEN, native=True, body="none"),
        Operation("metrics", Access.ADMIN, native=True, body="none"),
        Operation("sign-in", Access.OPEN, native=True),
        Operation("own", Access.READ, native=True, body="none"),
        Operation("admin", Access.ADMIN, native=True, body="none"),
        Operation("doctor", Access.OPEN, native=True, body="stream"),
    )
}
"""The operations of our own pages, by name."""

# Of those that must not be done twice; mlflow/store/tracking/sqlalchemy_store.py.
_COMMIT_LAST = {"create-experiment", "create-run"}
# Coroutines of MLflow's that write to the database in threads of another pool, before which any number waits,
# also of those whose clients have left (mlflow/server/otel_api.py).
_IN_THREADS = {"export-traces"}
# Those that call mlflow.server.jobs.submit_job.
_SUBMIT_JOBS = {
    "create-prompt-optimization-job",
    "invoke-genai-evaluate",
    "invoke-issue-detection",
    "invoke-scorer",
    "submit-job",
}
_APIS = ("api", "ajax-api")
_PARAMETER = re.compile(r"\{(?!api\})\w+(:path)?\}")
# An object store's key has at most 1,024 bytes and a file's path 4,096: what is longer is no artifact's
# name. The bound keeps matching, which happens before authentication, under a millisecond.
_LONGEST_PATH = 8192


def _table() -> tuple[Route, ...]:
    lines = resources.files("proxy").joinpath("operations.tsv").read_text("utf-8").splitlines()
    return tuple(_route(line) for line in lines[1:])


def _route(line: str) -> Route:
    method, path, name, access, served, body, answer, ids, again, _why, *_note = line.split("\t")
    access, _, once_open = access.partition("-")
    operation = Operation(
        name,
        Access(access),
        native=served in ("native", "own") and name not in _IN_THREADS,
        body=body,
        answer=answer,
        resource=() if ids == "-" else tuple(ids.split(",")),
        once_open=Access(once_open) if once_open else None,
        again=again == "yes",
        commits_last=name in _COMMIT_LAST,
        submits_job=name in _SUBMIT_JOBS,
    )
    return Route(method, path, served, operation)


def _with_heads(table: Iterable[Route]) -> Iterable[Route]:
    # Flask answers HEAD by running the GET handler and dropping the body unread; FastAPI does not.
    for route in table:
        yield route
        if route.method == "GET" and route.served == "flask":
            get = route.operation
            head = Operation(
                get.name,
                get.access,
                body=get.body,
                resource=get.resource,
                once_open=get.once_open,
                again=get.again,
            )
            yield Route("HEAD", route.path, route.served, head)


ROUTES = tuple(_with_heads(_table()))
"""Every route of MLflow, and those of its paths that we answer; those with parameters in MLflow's order."""
OPERATIONS = tuple(dict.fromkeys([route.operation for route in ROUTES] + [*OWN.values(), UNKNOWN, UNPARSED]))
"""Every operation there is. A name stands more than once where its routes are carried differently."""

_STATIC = {
    (route.method, route.path.replace("{api}", api)): route.operation
    for route in ROUTES
    if not _PARAMETER.search(route.path)
    for api in _APIS
}


class _Matcher(NamedTuple):
    pattern: re.Pattern[str]
    """One group for each operation; the first that matches wins, as in Starlette and Werkzeug."""
    operations: tuple[Operation, ...]


def _matcher(routes: Iterable[Route]) -> _Matcher:
    # Alternatives that begin alike stand together behind their beginning, which is then read once.
    tails: dict[str, list[tuple[str, Operation]]] = {}
    for route in routes:
        begin, tail = _regex(route)
        tails.setdefault(begin, []).append((tail, route.operation))
    branches = (f"{begin}(?:{'|'.join(f'({tail})' for tail, _ in group)})" for begin, group in tails.items())
    operations = tuple(operation for group in tails.values() for _, operation in group)
    return _Matcher(re.compile(rf"(?:{'|'.join(branches)})\Z"), operations)


def _regex(route: Route) -> tuple[str, str]:
    """What a route's path begins with, and what follows, as regular expressions that take linear time.

    Starlette's ``{name:path}`` is ``.*`` (starlette/convertors.py), Werkzeug's one character that is no
    slash and then ``.*?`` (werkzeug/routing/converters.py).
    """
    parts = _PARAMETER.split(route.path)
    literals = [re.escape(part).replace(r"\{api\}", "(?:ajax-)?api") for part in parts[::2]]
    kinds = parts[1::2]
    tail = ""
    for n, (kind, literal) in enumerate(zip(kinds, literals[1:], strict=True)):
        if kind is None:
            tail += "[^/]+" + literal
        elif ":path" in kinds[n + 1 :]:
            # Two of `.*` in a row take quadratic time. The first place where the text between them stands
            # does as well as any other, and an atomic group never comes back from it.
            tail += f"(?>.*?{literal})"
        else:
            tail += ("[^/].*" if route.served == "flask" else ".*") + literal
    return literals[0], tail


_MATCHERS = {
    method: _matcher(route for route in ROUTES if route.method == method and _PARAMETER.search(route.path))
    for method in sorted({route.method for route in ROUTES if _PARAMETER.search(route.path)})
}


def operation_of(method: str, path: str) -> Operation:
    """The operation of a request; UNKNOWN where MLflow has no such route. `path` is canonical and decoded."""
    operation = _STATIC.get((method, path))
    if operation is not None:
        return operation
    matcher = _MATCHERS.get(method)
    if matcher is None or len(path) > _LONGEST_PATH:
        return UNKNOWN
    found = matcher.pattern.match(path)
    if found is None or found.lastindex is None:
        return UNKNOWN
    return matcher.operations[found.lastindex - 1]


_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_QUERY_IDS = re.compile(rb"(?:\A|&)(experiment_ids?|run_ids?|run_uuid)=([A-Za-z0-9_-]{1,64})(?=&|\Z)")
# What is read of a query, in bytes, and kept of a list of ids: a line of the log has its bounds.
_QUERY_READ = 8192
_IDS_KEPT = 10


def resource_of(operation: Operation, path: str, query: bytes) -> dict[str, str]:
    """``experiment_id`` and ``run_id`` where the URL names them, as ids or comma-separated lists of ids.

    What is not of an id's shape is left out. MLflow lets a body name them too; that is not looked at.
    """
    if not operation.resource:
        return {}
    if operation.resource == ("artifact_path",):
        return _ids_of_artifact(path)
    found: dict[str, list[str]] = {}
    for name, value in _QUERY_IDS.findall(query[:_QUERY_READ]):
        if name.decode() in operation.resource:
            ids = found.setdefault("experiment_id" if name.startswith(b"experiment") else "run_id", [])
            if len(ids) < _IDS_KEPT and (text := value.decode()) not in ids:
                ids.append(text)
    return {key: ",".join(ids) for key, ids in found.items()}


def _ids_of_artifact(path: str) -> dict[str, str]:
    # /api/2.0/mlflow-artifacts/<artifacts or mpu/create>/[workspaces/<name>/]<experiment>/<run>/artifacts/...
    # (mlflow/store/tracking/sqlalchemy_store.py, create_run; handlers.py, upload_artifact_handler).
    segments = path.split("/", 12)[4:]
    names = segments[2:] if segments[:1] == ["mpu"] else segments[1:]
    if names[:1] == ["workspaces"]:
        names = names[2:]
    if not names or not (names[0].isascii() and names[0].isdigit() and _ID.match(names[0])):
        return {}
    ids = {"experiment_id": names[0]}
    if names[2:3] == ["artifacts"] and _ID.match(names[1]):
        ids["run_id"] = names[1]
    return ids
