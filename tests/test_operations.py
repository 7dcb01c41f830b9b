"""operations.tsv against the installed MLflow's own route tables, and the matching of paths."""

from __future__ import annotations

import collections
import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.operations import (
    OPERATIONS,
    OWN,
    ROUTES,
    UNKNOWN,
    UNPARSED,
    Access,
    Operation,
    Route,
    operation_of,
    resource_of,
)

PARAMETER = re.compile(r"\{(?!api\})\w+(:path)?\}")
# What a parameter may be: among them what other routes have in its place, and what two segments may hold.
SEGMENTS = ("1", "search", "endpoints", "get", "mlflow", "proxy", "a:generateContent", "é b+c")
REST = (
    "a",
    "com.example/x",
    "x/versions/1",
    "x/tags/y",
    "x/aliases/y",
    "x/endpoints/y",
    "1/ab/artifacts/m.txt",
)
STRANGE = (
    "/nope",
    "/API/2.0/mlflow/runs/search",
    "/api/2.0/mlflow/runs/search/",
    "/api/2.0/mlflow/runs",
    "/ajax-api/3.0/jobs",
    "/api/3.0/jobs/x",
    "/api/2.0/mlflow-artifacts/artifacts/",
    "/static-files/",
    "/gateway/proxy/x",
    "/gateway/proxy/x/",
    "/api/3.0/mlflow/mcp-servers/",
    "/api/3.0/mlflow/traces/",
    "/health/",
    "/version/x",
    "/metrics",
    "",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


def both_apis(path: str) -> list[str]:
    return [path.replace("{api}", api) for api in ("api", "ajax-api")] if "{api}" in path else [path]


def filled(path: str) -> list[str]:
    kinds = [match[1] for match in PARAMETER.finditer(path)]
    choices = [REST if kind else SEGMENTS for kind in kinds]
    rows = (
        itertools.islice(itertools.product(*choices), 0, None, 3)
        if len(kinds) > 2
        else itertools.product(*choices)
    )
    literals = PARAMETER.split(path)[::2]
    return ["".join(itertools.chain(*zip(literals, (*row, ""), strict=True))) for row in rows]


PROBES = sorted(
    {
        (method, path)
        for route in ROUTES
        for p in both_apis(route.path)
        for path in filled(p)
        for method in METHODS
    }
    | {(method, path) for path in STRANGE for method in METHODS}
)
LISTED = {(route.method, path): route for route in ROUTES for path in both_apis(route.path)}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("mlflow_routes.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(PROBES),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("mlflow"),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_route_of_the_installed_mlflow_is_listed_as_it_is_served(mlflow: dict[str, Any]) -> None:
    theirs = {(method, path): served for method, path, served in mlflow["routes"]}
    ours = {key: route.served for key, route in LISTED.items() if route.served != "own"}
    assert len(theirs) > 600
    missing = {key: served for key, served in theirs.items() if key not in LISTED}
    assert not missing, "give them a row in operations.tsv"
    gone = sorted(ours.keys() - theirs.keys())
    assert not gone, "take their rows out of operations.tsv"
    assert {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]} == {}


def test_a_path_means_the_route_that_mlflow_would_take(mlflow: dict[str, Any]) -> None:
    different = []
    for (method, path), taken in zip(PROBES, mlflow["probes"], strict=True):
        found = operation_of(method, path)
        if (method, path) in LISTED and LISTED[method, path].served == "own":
            continue
        meant = UNKNOWN if taken is None else LISTED[method, taken[1]].operation
        if found != meant:
            different.append((method, path, found.name, taken))
    assert len(PROBES) > 10_000
    assert different == []


def test_no_route_stands_twice() -> None:
    counts = collections.Counter((route.method, path) for route in ROUTES for path in both_apis(route.path))
    assert [key for key, count in counts.items() if count > 1] == []


def test_every_row_uses_the_closed_sets() -> None:
    for route in ROUTES:
        operation = route.operation
        assert re.fullmatch(r"[a-z][a-z0-9-]{1,40}", operation.name), route
        assert operation.body in ("none", "bounded", "stream"), route
        assert operation.answer in ("plain", "whole", "stream", "sse"), route
        assert route.served in ("flask", "native", "thread", "own"), route
        assert set(operation.resource) <= {
            "experiment_id",
            "experiment_ids",
            "run_id",
            "run_ids",
            "run_uuid",
            "artifact_path",
        }, route
        assert (operation.once_open is None) == (operation.access is not Access.CLOSED), route
        if operation.answer in ("stream", "sse") or operation.body == "stream":
            assert operation.native, route
        if operation.answer == "whole":
            assert route.served == "flask", route
        if route.method not in ("GET", "HEAD"):
            assert operation.body != "none", route


def test_names_are_a_closed_set_and_each_has_one_access() -> None:
    accesses: dict[str, set[Access]] = {}
    for operation in OPERATIONS:
        accesses.setdefault(operation.name, set()).add(operation.access)
    assert {name: access for name, access in accesses.items() if len(access) != 1} == {}
    assert len(accesses) <= 250, "every name is a label of several metrics"
    assert {UNKNOWN, UNPARSED, *OWN.values()} <= set(OPERATIONS)


def test_nothing_between_two_path_parameters_may_be_a_segment() -> None:
    # The linear-time pattern takes the first place where the text between them stands.
    for route in ROUTES:
        kinds = [match[1] for match in PARAMETER.finditer(route.path)]
        several = [n for n, kind in enumerate(kinds) if kind]
        if len(several) > 1:
            assert all(kinds[several[0] : several[-1] + 1]), route


def by_name(name: str) -> list[Route]:
    return [route for route in ROUTES if route.operation.name == name]


@pytest.mark.parametrize(
    ("method", "path", "name", "access"),
    [
        ("POST", "/api/2.0/mlflow/runs/search", "search-runs", Access.READ),
        ("POST", "/graphql", "graphql", Access.READ),
        ("POST", "/ajax-api/2.0/mlflow/runs/log-batch", "log-batch", Access.WRITE),
        ("POST", "/api/2.0/mlflow/runs/delete", "delete-run", Access.DELETE),
        ("POST", "/api/2.0/mlflow/experiments/delete", "delete-experiment", Access.DESTROY),
        ("DELETE", "/api/2.0/mlflow/registered-models/delete", "delete-registered-model", Access.DESTROY),
        ("DELETE", "/api/3.0/mlflow/gateway/secrets/delete", "delete-gateway-secret", Access.DESTROY),
        ("GET", "/api/3.0/mlflow/gateway/secrets/list", "list-gateway-secrets", Access.ADMIN),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/1", "artifact-delete", Access.DESTROY),
        ("GET", "/ajax-api/3.0/mlflow/assistant/sessions/x/stream", "assistant-stream", Access.ADMIN),
        ("POST", "/gateway/proxy/e/v1/x", "gateway-inference", Access.WRITE),
        ("GET", "/api/2.0/mlflow-artifacts/presigned/1/a", "get-presigned-download-url", Access.CLOSED),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/a", "create-multipart-upload", Access.CLOSED),
        ("POST", "/api/2.0/mlflow/webhooks/w/test", "test-webhook", Access.ADMIN),
        ("GET", "/health", "health", Access.OPEN),
        ("GET", "/api/3.0/mlflow/server-info", "server-info", Access.READ),
        ("GET", "/ajax-api/2.0/mlflow/users/current", "current-user", Access.READ),
        ("POST", "/api/2.0/mlflow/users/create", "unknown", Access.ADMIN),
    ],
)
def test_the_access_is_judged_by_what_a_handler_does(
    method: str, path: str, name: str, access: Access
) -> None:
    operation = operation_of(method, path)
    assert (operation.name, operation.access) == (name, access)


def test_every_route_that_hands_out_addresses_of_the_store_is_closed() -> None:
    for route in ROUTES:
        hands_out = re.search(r"presigned|/mpu/", route.path) is not None
        assert hands_out == (route.operation.access is Access.CLOSED), route


def test_nothing_but_a_search_reads_by_delete_put_or_patch() -> None:
    for route in ROUTES:
        if route.operation.access in (Access.READ, Access.OPEN):
            assert route.method in ("GET", "HEAD", "POST"), route


def test_an_artifact_streams_and_its_head_does_not() -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/model.bin"
    get, head, put = (operation_of(method, path) for method in ("GET", "HEAD", "PUT"))
    assert (get.name, get.native, get.answer) == ("artifact-download", True, "stream")
    assert (head.name, head.native, head.answer) == ("artifact-download", False, "plain")
    assert (put.name, put.native, put.body) == ("artifact-upload", True, "stream")


def test_downloads_through_flask_are_known_to_be_read_whole() -> None:
    whole = {route.path for route in ROUTES if route.operation.answer == "whole"}
    assert whole == {
        "/get-artifact",
        "/model-versions/get-artifact",
        "/ajax-api/2.0/mlflow/get-trace-artifact",
        "/ajax-api/3.0/mlflow/get-trace-artifact",
        "/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files",
    }


def test_fastapi_routes_that_block_a_thread_are_not_native() -> None:
    assert by_name("search-jobs")[0].served == "thread"
    assert not operation_of("POST", "/ajax-api/3.0/jobs/search").native
    assert by_name("export-traces")[0].served == "native"
    assert not operation_of("POST", "/v1/traces").native, "a coroutine, and its work is done in a thread"


@pytest.mark.parametrize(
    "path",
    [
        "/api/3.0/mlflow/mcp-servers/" + "/versions/" * 815,
        "/api/3.0/mlflow/mcp-servers/" + "/versions/a/tags/" * 480,
        "/api/3.0/mlflow/mcp-servers/" + "/endpoints/" * 740,
        "/api/3.0/mlflow/mcp-servers/" + "/" * 8000,
        "/api/2.0/mlflow-artifacts/artifacts/" + "a/" * 4000,
        "/gateway/gemini/v1beta/models/" + ":generateContent" * 500,
        "/gateway/" + "/mlflow" * 1100,
        "/" * 60_000,
        "/api/3.0/mlflow/mcp-servers/" + "/versions/" * 6000,
    ],
)
def test_no_path_takes_long_to_match(path: str) -> None:
    for method in METHODS:
        started = time.perf_counter()
        operation_of(method, path)
        assert time.perf_counter() - started < 0.05


def test_any_text_at_all_is_answered() -> None:
    for path in ("", "/", "x", "\n", "/\x00", "/api/2.0/mlflow-artifacts/artifacts/a\nb", "/{api}/2.0", "/�"):
        for method in (*METHODS, "", "get"):
            assert operation_of(method, path) in OPERATIONS
    assert operation_of("GET", "/api/2.0/mlflow-artifacts/artifacts/a\nb") == UNKNOWN


RUN = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/2.0/mlflow/experiments/get", b"experiment_id=12", {"experiment_id": "12"}),
        ("GET", "/api/2.0/mlflow/runs/get", f"x=1&run_id={RUN}".encode(), {"run_id": RUN}),
        ("GET", "/get-artifact", f"path=a&run_uuid={RUN}".encode(), {"run_id": RUN}),
        ("HEAD", "/get-artifact", f"path=a&run_uuid={RUN}".encode(), {"run_id": RUN}),
        (
            "GET",
            "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
            b"run_id=a&run_id=b&run_id=a",
            {"run_id": "a,b"},
        ),
        ("GET", "/api/2.0/mlflow/traces", b"experiment_ids=1&experiment_ids=2", {"experiment_id": "1,2"}),
        ("POST", "/api/2.0/mlflow/runs/search", b"run_id=a", {}),
        ("GET", "/api/2.0/mlflow/runs/get", b"experiment_id=1", {}),
        ("GET", "/api/2.0/mlflow/runs/get", b"run_id=a%0Ab", {}),
        ("GET", "/api/2.0/mlflow/runs/get", b"run_id=" + b"a" * 65, {}),
        ("GET", "/api/2.0/mlflow/runs/get", b"xrun_id=a", {}),
        ("GET", "/api/2.0/mlflow/runs/get", b"", {}),
        (
            "PUT",
            f"/api/2.0/mlflow-artifacts/artifacts/7/{RUN}/artifacts/a/b.txt",
            b"",
            {"experiment_id": "7", "run_id": RUN},
        ),
        (
            "GET",
            f"/api/2.0/mlflow-artifacts/artifacts/workspaces/w/7/{RUN}/artifacts/a",
            b"",
            {"experiment_id": "7", "run_id": RUN},
        ),
        (
            "POST",
            f"/api/2.0/mlflow-artifacts/mpu/create/7/{RUN}/artifacts/a",
            b"",
            {"experiment_id": "7", "run_id": RUN},
        ),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/7/models/m-1/artifacts/a", b"", {"experiment_id": "7"}),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/secret/x", b"", {}),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/", b"", {}),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/7", b"", {"experiment_id": "7"}),
    ],
)
def test_the_log_learns_the_experiment_and_run_that_the_url_names(
    method: str, path: str, query: bytes, expected: dict[str, str]
) -> None:
    assert resource_of(operation_of(method, path), path, query) == expected


def test_a_long_list_of_ids_is_cut() -> None:
    query = "&".join(f"run_ids={n}" for n in range(10_000)).encode()
    path = "/api/2.0/mlflow/metrics/get-history-bulk-interval"
    assert resource_of(operation_of("GET", path), path, query) == {"run_id": "0,1,2,3,4,5,6,7,8,9"}


def test_an_operation_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        Operation("x", Access.READ).name = "y"  # type: ignore[misc]


def test_every_operation_says_whether_it_may_be_sent_again_and_why() -> None:
    lines = (Path(__file__).parent.parent / "proxy" / "operations.tsv").read_text("utf-8").splitlines()
    heading = lines[0].split("\t")
    reasons: dict[str, set[tuple[str, str]]] = collections.defaultdict(set)
    for line in lines[1:]:
        row = dict(zip(heading, line.split("\t"), strict=False))
        assert row["again"] in ("yes", "no"), line
        assert len(row["why"]) > 4, line
        reasons[row["operation"]].add((row["again"], row["why"]))
    assert {name: said for name, said in reasons.items() if len(said) > 1} == {}
    document = (Path(__file__).parent.parent / "docs" / "resending.md").read_text("utf-8")
    for title, again in (("Sent again", "yes"), ("Never sent again", "no")):
        text = document.split(f"### {title}\n")[1].split("\n#")[0]
        said = set(re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", text, re.M))
        assert said == {
            (name, why) for name, [(answer, why)] in reasons.items() if answer == again and why != "reads"
        }


def test_what_only_reads_may_be_sent_again_and_what_makes_something_may_not() -> None:
    for operation in OPERATIONS:
        if operation.access in (Access.READ, Access.OPEN) and operation not in OWN.values():
            assert operation.again or operation.name == "post-ui-telemetry", operation
        if operation.name.startswith(("create-", "register-", "invoke-", "submit-", "gateway-inference")):
            assert not operation.again or operation.name == "create-presigned-download-url", operation
        if operation.submits_job:
            assert not operation.again, operation
    assert not UNKNOWN.again


def test_what_submits_a_job_is_known() -> None:
    assert {operation.name for operation in OPERATIONS if operation.submits_job} == {
        "create-prompt-optimization-job",
        "invoke-genai-evaluate",
        "invoke-issue-detection",
        "invoke-scorer",
        "submit-job",
    }
