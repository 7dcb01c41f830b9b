"""The requests that are sent to MLflow directly and through the proxy, and what may differ, with the reasons.

They are sent in this order, and later ones build on earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
JSON = "Content-Type: application/json"
OWN_HEADERS = {
    "date": "each server's clock; MLflow's answers with a file have two of it",
    "server": "MLflow says uvicorn, the proxy does not say what it runs on",
    "x-request-id": "the proxy's, which its log is searched by",
    "connection": "between two programs alone",
    "keep-alive": "between two programs alone",
}
"""Never compared."""
UI_HEADERS = {
    "cache-control": "what has a hash in its name is immutable, and index.html is asked for again",
    "etag": "made of the content, where MLflow's is made of the time at which it was installed",
    "last-modified": "beside such an ETag it says nothing",
    "accept-ranges": "a part of a file may be asked for, of those of MLflow's too",
    "vary": "the files are there compressed as well",
    "content-disposition": "nobody saves a script",
    "expires": "Cache-Control says it",
    "link": "what the page will need is said beforehand",
    "content-security-policy": "the UI's files are the proxy's to protect",
    "x-content-type-options": "the UI's files are the proxy's to protect",
    "x-frame-options": "the UI's files are the proxy's to protect",
    "referrer-policy": "the UI's files are the proxy's to protect",
}
"""Of MLflow's static files, which the proxy serves itself."""


OWN_PAGES = {
    "cache-control": "nothing of the proxy's own is kept by anybody",
    "content-security-policy": "as all pages of the proxy's own",
    "cross-origin-resource-policy": "as all pages of the proxy's own",
    "cross-origin-opener-policy": "as all pages of the proxy's own",
    "referrer-policy": "as all pages of the proxy's own",
    "x-frame-options": "no page of the proxy's own is shown in a frame",
    "content-type": "of the version MLflow says that it is HTML",
    "vary": "it depends on nothing",
}
"""Of what the proxy answers in MLflow's place."""


PUT_APART = {
    "last-modified": "the two were put one after the other",
    "etag": "made of the time at which the file was put",
}
"""Of a file that each side has put for itself."""


@dataclass(frozen=True)
class Case:
    """One request. ``<name>`` in it stands for what `Both` has under that name, on the side that is asked."""

    name: str
    method: str
    target: str
    headers: tuple[str, ...] = ()
    body: bytes | None = None
    chunks: tuple[bytes, ...] | None = None
    """The body in these chunks, in place of `body`."""
    expect: bool = False
    """Whether the body waits for 100 Continue."""
    status: int = 200
    """What MLflow answers: so that a case goes on being the one it was meant to be."""
    made: bool = False
    """Whether the answer has ids, times and names of its own."""
    but: Mapping[str, str] = field(default_factory=dict)
    """Headers that differ on purpose, with the reason."""
    proxied: int = 0
    """What the proxy answers where that is something else on purpose; nothing more is compared then."""
    why: str = ""
    """The reason for that."""
    body_differs: str = ""
    """Why the bodies are not the same, where they are not."""


def call(path: str, title: str = "", status: int = 200, /, made: bool = False, **what: Any) -> Case:
    """A POST of MLflow's API."""
    body = json.dumps(what).encode()
    return Case(title or f"POST {path}", "POST", f"{API}/{path}", (JSON,), body, status=status, made=made)


def get(target: str, *headers: str, name: str = "", status: int = 200) -> Case:
    return Case(name or f"GET {target}", "GET", target, headers, status=status)


READS = (
    get(f"{API}/experiments/get?experiment_id=<experiment>"),
    get(f"{API}/experiments/get-by-name?experiment_name=differential%20<word>"),
    get(f"{API}/experiments/search?max_results=2"),
    get(f"{API}/experiments/search?max_results=5&filter=name%20LIKE%20%27diff%25%27", name="a filter"),
    get(f"{API}/runs/get?run_id=<run>"),
    get(f"{API}/runs/get?run_uuid=<run>", name="a run by its older name"),
    get(f"{API}/metrics/get-history?run_id=<run>&metric_key=loss"),
    get(f"{API}/metrics/get-history?run_id=<run>&metric_key=loss&max_results=2", name="a page of a history"),
    get("/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id=<run>&metric_key=loss"),
    get("/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids=<run>&metric_key=loss&max_results=9"),
    get(f"{API}/artifacts/list?run_id=<run>"),
    get(f"{API}/artifacts/list?run_id=<run>&path=folder"),
    get(f"{API}/registered-models/get?name=model%20<word>"),
    get(f"{API}/registered-models/search?max_results=3"),
    get(f"{API}/model-versions/get?name=model%20<word>&version=1"),
    get(f"{API}/model-versions/search?filter=name%3D%27model%20<word>%27"),
    get(f"{API}/model-versions/get-download-uri?name=model%20<word>&version=1"),
    get(f"{API}/registered-models/alias?name=model%20<word>&alias=best"),
    get(f"{API}/logged-models/<model>"),
    call("experiments/search", max_results=3),
    call("experiments/search", "a filter that is none", 400, max_results=3, filter="what = 'is this'"),
    call("runs/search", experiment_ids=["<experiment>"], max_results=10),
    call("runs/search", "runs by a metric", experiment_ids=["<experiment>"], filter="metrics.loss > 0.1"),
    call("runs/search", "runs in order", experiment_ids=["<experiment>"], order_by=["params.p DESC"]),
    call("runs/search", "a page of runs", experiment_ids=["<experiment>"], max_results=1),
    call("logged-models/search", experiment_ids=["<experiment>"]),
    call("registered-models/get-latest-versions", name="model <word>"),
    call("traces/search", "an older search of traces", 405, experiment_ids=["<experiment>"]),
    Case(
        "search of traces",
        "POST",
        "/api/3.0/mlflow/traces/search",
        (JSON,),
        b'{"locations": [{"type": "MLFLOW_EXPERIMENT", '
        b'"mlflow_experiment": {"experiment_id": "<experiment>"}}]}',
    ),
    Case(
        "graphql",
        "POST",
        "/graphql",
        (JSON,),
        b'{"query": "{mlflowGetExperiment(input:{experimentId:\\"<experiment>\\"}){experiment{name}}}"}',
    ),
    Case("graphql, not understood", "POST", "/graphql", (JSON,), b'{"query": "{no"}', status=500),
    Case(
        "the UI's way to the API",
        "POST",
        "/ajax-api/2.0/mlflow/runs/search",
        (JSON, "X-Requested-With: XMLHttpRequest"),
        b'{"experiment_ids": ["<experiment>"]}',
    ),
)

REFUSALS = (
    get(f"{API}/experiments/get?experiment_id=999999", status=404),
    get(f"{API}/experiments/get", name="without an id", status=400),
    get(f"{API}/experiments/get?experiment_id=", name="with an empty id", status=400),
    get(f"{API}/runs/get?run_id=none", name="a run of that name", status=404),
    get(f"{API}/runs/get?run_id={'0' * 32}", name="a run that is none", status=404),
    get(f"{API}/registered-models/get?name=none", status=404),
    get(f"{API}/model-versions/get?name=model%20<word>&version=9", name="no such version", status=404),
    get(f"{API}/logged-models/none", name="no such logged model", status=404),
    get("/get-artifact?run_uuid=<run>&path=none", name="no such artifact, whole", status=404),
    get(f"{ARTIFACTS}/<place>/none", name="no such artifact", status=404),
    call("experiments/create", "a name that is taken", 400, made=True, name="differential <word>"),
    call("experiments/create", "no name", 400),
    call(
        "runs/log-metric", "a metric of no run", 404, run_id="0" * 32, key="a", value=1, timestamp=1, step=1
    ),
    call("runs/log-metric", "no key", 400, run_id="<run>", value=1, timestamp=1),
    call("runs/log-parameter", "another value", 400, run_id="<run>", key="p", value="other"),
    call("runs/log-batch", "too many metrics", 400, run_id="<run>", metrics=[{"key": "m"}] * 1001),
    Case("no JSON", "POST", f"{API}/runs/search", (JSON,), b"{"),
    Case("an empty body", "POST", f"{API}/experiments/create", (JSON,), b"", status=400),
    Case("a list", "POST", f"{API}/runs/search", (JSON,), b"[1]"),
    Case("no type of content", "POST", f"{API}/experiments/search", (), b'{"max_results": 1}', status=400),
    Case(
        "another type of content",
        "POST",
        f"{API}/experiments/search",
        ("Content-Type: text/plain; charset=latin-1",),
        b'{"max_results": 1}',
        status=400,
    ),
)

WRITES = (
    replace(
        call("runs/create", experiment_id="<experiment>", run_name="made <side>", start_time=5),
        body_differs="the run has the verified user's name (docs/verified-names.md)",
    ),
    call(
        "logged-models/<model>/tags",
        "no such method",
        405,
        tags=[{"key": "k", "value": "v"}],
    ),
    call("experiments/create", made=True, name="made <side>"),
    call("experiments/set-experiment-tag", experiment_id="<experiment>", key="k", value="v"),
    call("experiments/update", experiment_id="<own experiment>", new_name="renamed <side>"),
    call("experiments/delete", experiment_id="<own experiment>"),
    call("experiments/restore", experiment_id="<own experiment>"),
    call("experiments/delete", "one that is deleted", experiment_id="<own experiment>"),
    call("runs/log-metric", run_id="<run>", key="late", value=0.5, timestamp=9, step=9),
    call("runs/log-metric", "not a number", run_id="<run>", key="nan", value="NaN", timestamp=9, step=9),
    call("runs/log-parameter", run_id="<run>", key="p", value="1"),
    call("runs/set-tag", run_id="<run>", key="t", value="ünïcödé ☃"),
    call("runs/delete-tag", run_id="<own run>", key="gone"),
    call("runs/delete-tag", "a tag that is gone", 404, made=True, run_id="<own run>", key="gone"),
    call(
        "runs/log-batch",
        run_id="<run>",
        metrics=[{"key": "b", "value": 1.0, "timestamp": 5, "step": step} for step in range(50)],
        params=[{"key": "q", "value": "2"}],
        tags=[{"key": "u", "value": "3"}],
    ),
    call("runs/log-batch", "an empty batch", run_id="<run>"),
    call("runs/log-inputs", run_id="<run>", datasets=[]),
    call("runs/update", made=True, run_id="<own run>", status="FINISHED", end_time=5),
    call("runs/delete", run_id="<own run>"),
    call("runs/restore", run_id="<own run>"),
    call("registered-models/create", made=True, name="made <side>"),
    call("registered-models/create", "a model twice", 400, made=True, name="made <side>"),
    Case(
        "PATCH",
        "PATCH",
        f"{API}/registered-models/update",
        (JSON,),
        b'{"name": "made <side>", "description": "d"}',
        made=True,
    ),
    call("registered-models/set-tag", name="made <side>", key="k", value="v"),
    Case(
        "DELETE with a body",
        "DELETE",
        f"{API}/registered-models/delete-tag",
        (JSON,),
        b'{"name": "made <side>", "key": "k"}',
    ),
    Case("DELETE", "DELETE", f"{API}/registered-models/delete?name=made%20<side>", status=400),
    Case(
        "DELETE, by its body",
        "DELETE",
        f"{API}/registered-models/delete",
        (JSON,),
        b'{"name": "made <side>"}',
    ),
)

CHUNKED = (JSON, "Transfer-Encoding: chunked")
FILE = ("Content-Type: application/octet-stream",)
UPLOADS = (
    Case("PUT of a file", "PUT", f"{ARTIFACTS}/<place>/up-<side>.bin", FILE, b"content"),
    Case("PUT of it again", "PUT", f"{ARTIFACTS}/<place>/up-<side>.bin", FILE, b"other content"),
    replace(get(f"{ARTIFACTS}/<place>/up-<side>.bin", name="what was put"), but=PUT_APART),
    Case("PUT of nothing", "PUT", f"{ARTIFACTS}/<place>/empty-<side>", FILE, b""),
    replace(get(f"{ARTIFACTS}/<place>/empty-<side>", name="nothing"), but=PUT_APART),
    Case(
        "PUT in chunks",
        "PUT",
        f"{ARTIFACTS}/<place>/chunks-<side>",
        ("Transfer-Encoding: chunked",),
        chunks=(b"a" * 70_000, b"b", b"c" * 3),
    ),
    replace(get(f"{ARTIFACTS}/<place>/chunks-<side>", name="what came in chunks"), but=PUT_APART),
    Case(
        "PUT of no chunk",
        "PUT",
        f"{ARTIFACTS}/<place>/none-<side>",
        ("Transfer-Encoding: chunked",),
        chunks=(),
    ),
    Case(
        "PUT that asks first",
        "PUT",
        f"{ARTIFACTS}/<place>/asked-<side>",
        ("Expect: 100-continue",),
        b"asked",
        expect=True,
    ),
    Case("PUT of 3 MB", "PUT", f"{ARTIFACTS}/<place>/large-<side>", FILE, bytes(range(250)) * 12_000),
    replace(get(f"{ARTIFACTS}/<place>/large-<side>", name="3 MB"), but=PUT_APART),
    Case("PUT of a name in UTF-8", "PUT", f"{ARTIFACTS}/<place>/%C3%BC%20<side>.txt", FILE, b"utf-8"),
    replace(get(f"{ARTIFACTS}/<place>/%C3%BC%20<side>.txt", name="a name in UTF-8"), but=PUT_APART),
    Case("DELETE of a file", "DELETE", f"{ARTIFACTS}/<place>/up-<side>.bin"),
    Case("GET of a deleted one", "GET", f"{ARTIFACTS}/<place>/up-<side>.bin", status=404, made=True),
    Case(
        "POST that asks first",
        "POST",
        f"{API}/experiments/search",
        (JSON, "Expect: 100-continue"),
        b"{}",
        expect=True,
        status=400,
    ),
)

DOWNLOADS = (
    get(f"{ARTIFACTS}/<place>/text.txt"),
    get(f"{ARTIFACTS}/<place>/page.html"),
    get(f"{ARTIFACTS}/<place>/data.bin"),
    get(f"{ARTIFACTS}/<place>/data.json"),
    get(f"{ARTIFACTS}/<place>/empty"),
    get(f"{ARTIFACTS}/<place>/folder/deep.txt"),
    get(f"{ARTIFACTS}/<place>/with%20space.txt"),
    get(f"{ARTIFACTS}/<place>/%74ext.txt", name="a letter that needs no encoding"),
    get(f"{ARTIFACTS}/<place>/a%2Bb%26c.txt", name="signs that have a meaning elsewhere"),
    get(f"{ARTIFACTS}/<place>/text.txt?ignored=%00&x=%E2%98%83", name="a query of no use"),
    get(f"{ARTIFACTS}?path=<place>"),
    get(f"{ARTIFACTS}/<place>/data.bin", "Range: bytes=0-9", name="the first bytes", status=206),
    get(f"{ARTIFACTS}/<place>/data.bin", "Range: bytes=-10", name="the last bytes", status=206),
    get(f"{ARTIFACTS}/<place>/data.bin", "Range: bytes=100-", name="from there on", status=206),
    get(f"{ARTIFACTS}/<place>/data.bin", "Range: bytes=999999999-", name="beyond the end", status=416),
    get(f"{ARTIFACTS}/<place>/data.bin", "Range: lines=1-2", name="another unit", status=400),
    get(f"{ARTIFACTS}/<place>/data.bin", 'If-None-Match: "none"', name="unless it is another"),
    get(f"{ARTIFACTS}/<place>/data.bin", "Range: bytes=0-9", 'If-Range: "other"', name="if it were another"),
    get(f"{ARTIFACTS}/<place>/data.bin", "Accept-Encoding: gzip, br, zstd", name="compressed, of a file"),
    get("/get-artifact?run_uuid=<run>&path=text.txt"),
    get("/get-artifact?run_id=<run>&path=page.html"),
    get("/get-artifact?run_uuid=<run>&path=folder%2Fdeep.txt"),
    get("/get-artifact?run_uuid=<run>&path=data.bin"),
    get("/get-artifact?run_uuid=<run>&path=empty"),
    get(
        "/get-artifact?run_uuid=<run>&path=data.bin",
        "Range: bytes=0-9",
        name="a part of a whole one",
        status=206,
    ),
    get("/model-versions/get-artifact?name=model%20<word>&version=1&path=text.txt"),
    Case("HEAD of a file", "HEAD", f"{ARTIFACTS}/<place>/data.bin"),
    Case("HEAD of a whole one", "HEAD", "/get-artifact?run_uuid=<run>&path=text.txt"),
    Case("HEAD of a call", "HEAD", f"{API}/experiments/get?experiment_id=<experiment>", status=400),
    Case("HEAD of an error", "HEAD", f"{API}/experiments/get?experiment_id=999999", status=400),
    Case("HEAD of no file", "HEAD", f"{ARTIFACTS}/<place>/none", status=404),
)

CALLED = f"{API}/experiments/get?experiment_id=<experiment>"
ODD = (
    get(CALLED, "X-Odd: a", "X-Odd: b", "x-odd:c", name="a header three times"),
    get(CALLED, "Accept: text/html", "Accept: application/json;q=0.1", name="Accept twice"),
    get(CALLED, "X-Empty:", "X-Spaces:    within   it   ", name="empty and padded"),
    get(CALLED, f"X-Long: {'v' * 20_000}", name="a long value"),
    get(CALLED, *(f"X-Number-{n}: {n}" for n in range(60)), name="60 headers"),
    get(CALLED, "X-Latin: caf\xe9", name="bytes beyond ASCII"),
    get(CALLED, "X-Tab: a\tb", name="a tab in a value"),
    get(CALLED, "Accept-Language: de, en;q=0.5", "DNT: 1", "Pragma: no-cache", name="a browser's"),
    get(CALLED, "Cookie: a=1; b=2", "Cookie: c=3", name="cookies twice"),
    get(CALLED, "Referer: http://127.0.0.1/", "User-Agent: mlflow-python-client/3", name="a client's"),
    get(
        CALLED, "If-None-Match: *", "If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT", name="on a condition"
    ),
    get(CALLED, "accept: */*", "ACCEPT-ENCODING: identity", name="names in any case"),
    get(CALLED, "TE: trailers", "Upgrade-Insecure-Requests: 1", name="hop by hop"),
    get(f"{CALLED}&experiment_id=0", name="an argument twice"),
    get(f"{API}/experiments/get?experiment%5Fid=<experiment>", name="a name that is encoded"),
    get(f"{API}/experiments/get?experiment_id=%30", name="a value that is encoded"),
    get(f"{API}/experiments/get?;&=&&experiment_id=0&x", name="a query like that"),
    get(f"{API}/experiments/get?experiment_id=0&x=a+b%20c%2Bd", name="plus and space"),
    get(f"{API}/experiments/get?experiment_id=0&x={'y' * 8000}", name="a long query"),
    get("/%61pi/2.0/mlflow/experiments/get?experiment_id=0", name="a path that is encoded"),
    get("/nothing/here", name="no such path", status=404),
    Case("a body with a GET", "GET", f"{API}/experiments/get", (JSON,), b'{"experiment_id": "0"}'),
    Case(
        "a POST in chunks",
        "POST",
        f"{API}/experiments/search",
        CHUNKED,
        chunks=(b'{"max_', b'results": 1}'),
        status=400,
        proxied=200,
        why="MLflow takes a body in chunks for an empty one on most routes: it gets the length from us",
    ),
    Case("an empty POST to a page", "POST", f"{API}/experiments/search", (JSON,), b"{}", status=400),
    Case("DELETE of what can't be", "DELETE", f"{API}/experiments/get?experiment_id=0", status=405),
    Case("PUT of what can't be", "PUT", f"{API}/experiments/get", (JSON,), b"{}", status=405),
    Case("POST to what is read", "POST", f"{API}/runs/get", (JSON,), b'{"run_id": "<run>"}', status=405),
    Case("OPTIONS", "OPTIONS", CALLED, status=204),
    Case("OPTIONS of a file", "OPTIONS", f"{ARTIFACTS}/<place>/text.txt", status=204),
    Case("TRACE", "TRACE", CALLED, status=405),
    Case("PROPFIND", "PROPFIND", CALLED, status=405),
    replace(get("/health"), but=OWN_PAGES),
    replace(get("/version"), but=OWN_PAGES),
    replace(
        get("/api/3.0/mlflow/server-info"),
        body_differs="clients are told to send and fetch through the proxy, and not at the storage directly",
    ),
)

SCRIPT = "the page loads a script of ours, which adds the account's menu"
UI = (
    replace(get("/"), body_differs=SCRIPT),
    get("/static-files/<script>", name="a script"),
    get("/static-files/<sheet>", name="a style sheet"),
    get("/static-files/none.js", name="no such file", status=404),
    replace(Case("HEAD of the page", "HEAD", "/"), body_differs=SCRIPT),
    Case("HEAD of a script", "HEAD", "/static-files/<script>"),
)

CASES = (
    *READS,
    *REFUSALS,
    *UPLOADS,
    *DOWNLOADS,
    *ODD,
    *(replace(case, but=UI_HEADERS) for case in UI),
    *WRITES,
)
