"""Making a run or a model in another's name, and changing or hiding who made one, by every door there is."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import wire
from attacked import PASSWORDS, Target

API = "/api/2.0/mlflow"
AJAX = "/ajax-api/2.0/mlflow"
JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def do(target: Target, method: str, path: str, what: Any, *headers: tuple[str, str]) -> wire.Answer:
    """As edda, an editor; bytes are sent as they are."""
    body = what if isinstance(what, bytes) else json.dumps(what).encode()
    return target.ask("edda", method, path, *(headers or (JSON,)), body=body)


def run_of(target: Target, run: str) -> tuple[str, dict[str, str]]:
    """Who made a run: its user_id, and its tags that say so."""
    found = target.ask("ada", "GET", f"{API}/runs/get?run_id={run}").json()["run"]
    return found["info"]["user_id"], who(found["data"].get("tags", []))


def model_of(target: Target, model: str) -> dict[str, str]:
    return who(target.ask("ada", "GET", f"{API}/logged-models/{model}").json()["model"]["info"]["tags"])


def who(tags: list[dict[str, str]]) -> dict[str, str]:
    found = [
        tag for tag in tags if tag["key"] == "note" or "user" in tag["key"].lower() or "_proxy" in tag["key"]
    ]
    assert len(found) == len({tag["key"] for tag in found})
    return {tag["key"]: tag["value"] for tag in found}


@pytest.fixture(scope="module")
def run(target: Target) -> str:
    """A run of ada's, which she made in somebody else's name."""
    what = {"experiment_id": "0", "user_id": "boss", "tags": [{"key": "mlflow.user", "value": "boss"}]}
    made = target.post("ada", f"{API}/runs/create", what)
    assert made.status == 200, made.text
    return str(made.json()["run"]["info"]["run_id"])


@pytest.fixture(scope="module")
def model(target: Target) -> str:
    what = {"experiment_id": "0", "name": "m", "tags": [{"key": "mlflow.user", "value": "boss"}]}
    made = target.post("ada", f"{API}/logged-models", what)
    assert made.status == 200, made.text
    return str(made.json()["model"]["info"]["model_id"])


ADAS = {"mlflow.user": "ada", "mlflow_proxy.claimed_user": "boss"}


def test_a_run_in_another_s_name_is_in_one_s_own(target: Target, run: str) -> None:
    assert run_of(target, run) == ("ada", ADAS)


def test_a_model_in_another_s_name_is_in_one_s_own(target: Target, model: str) -> None:
    assert model_of(target, model) == ADAS


@pytest.mark.parametrize(
    "what",
    [
        b'{"experiment_id":"0","userId":"boss"}',
        b'{"experiment_id":"0","user_id":"edda","user_id":"boss"}',
        b'{"experiment_id":"0","user_id":"edda","\\u0075ser_id":"boss"}',
        b'{"experimentId":"0","tags":[],"tags":[{"value":"boss","key":"mlflow.user"}]}',
        b'{"experiment_id":"0","tags":[{"key":"note","key":"mlflow.user","value":"boss"}]}',
        b'{"user_id":"boss","tags":[{"key":"mlflow.user","value":"boss"}],"experiment_id":"0","[x]":1}',
        b'{"experiment_id":"0","[x]":1,"user_id":"boss"}',
        b'{"experiment_id":"0","user_id":"boss","x":NaN}',
        json.dumps(json.dumps({"experiment_id": "0", "user_id": "boss"})).encode(),
        json.dumps({"experiment_id": "0", "user_id": "boss"}).encode("utf-16"),
        json.dumps({"experiment_id": "0", "user_id": "boss"}).encode("utf-32-be"),
        json.dumps({"experiment_id": "0", "user_id": "boss"}).encode("utf-8-sig"),
    ],
)
@pytest.mark.parametrize("path", [f"{API}/runs/create", f"{AJAX}/runs/create?user_id=boss&userId=boss"])
def test_no_spelling_makes_a_run_in_another_s_name(target: Target, path: str, what: bytes) -> None:
    made = do(target, "POST", path, what)
    assert made.status == 200, made.text
    user, tags = run_of(target, made.json()["run"]["info"]["run_id"])
    assert user == tags.pop("mlflow.user") == "edda"
    assert set(tags.items()) <= {("mlflow_proxy.claimed_user", "boss")}


def test_a_prompt_lab_run_in_another_s_name_is_in_one_s_own(target: Target) -> None:
    what = {
        "experiment_id": "0",
        "run_name": "prompt",
        "prompt_template": "{{ x }}",
        "prompt_parameters": [{"key": "x", "value": "y"}],
        "model_route": "r",
        "model_input": "y",
        "mlflow_version": "3.17.2",
        "user_id": "boss",
    }
    made = do(target, "POST", f"{AJAX}/runs/create-promptlab-run", what)
    assert made.status == 200, made.text
    user, tags = run_of(target, made.json()["run"]["info"]["run_id"])
    assert user == "edda"
    assert tags == {}
    forged = {**what, "tags": [{"key": "mlflow.user", "value": "boss"}]}
    assert do(target, "POST", f"{AJAX}/runs/create-promptlab-run", forged).status == 403


Change = tuple[str, str, Callable[[str, str], Any]]
OF_RUNS: tuple[Change, ...] = (
    ("POST", "runs/set-tag", lambda run, key: {"run_id": run, "key": key, "value": "boss"}),
    ("POST", "runs/set-tag", lambda run, key: {"runUuid": run, "run_id": run, "key": key, "value": "boss"}),
    ("POST", "runs/delete-tag", lambda run, key: {"run_id": run, "key": key}),
    ("POST", "runs/log-batch", lambda run, key: {"run_id": run, "tags": [{"key": key, "value": "boss"}]}),
    (
        "POST",
        "runs/log-batch",
        lambda run, key: {"runId": run, "tags": [{"key": "note", "value": "x"}, {"value": "", "key": key}]},
    ),
    ("POST", "runs/update", lambda run, key: {"run_id": run, "tags": [{"key": key, "value": "boss"}]}),
    ("POST", "runs/update", lambda run, _key: {"run_id": run, "user_id": "boss"}),
    ("POST", "runs/update", lambda run, _key: {"run_id": run, "userId": "boss"}),
)
KEYS = (
    "mlflow.user",
    "mlflow_proxy.claimed_user",
    "mlflow_proxy.credential",
    "mlflow_proxy.new",
    "MLflow.user",
)
WRITTEN: tuple[Callable[[Any], bytes], ...] = (
    lambda what: json.dumps(what).encode(),
    lambda what: json.dumps(json.dumps(what)).encode(),
    lambda what: json.dumps(what).replace("user", "\\u0075ser").replace("proxy", "pro\\u0078y").encode(),
    lambda what: json.dumps(what).encode("utf-16"),
    lambda what: (
        json.dumps({"run_id": "x", "tags": [], "key": "note"})[:-1].encode()
        + b","
        + json.dumps(what).encode()[1:]
    ),
)


@pytest.mark.parametrize("encode", range(len(WRITTEN)))
@pytest.mark.parametrize("change", range(len(OF_RUNS)))
def test_who_made_a_run_is_neither_changed_nor_hidden(
    target: Target, run: str, change: int, encode: int
) -> None:
    method, path, what = OF_RUNS[change]
    for key in KEYS:
        for base in (API, AJAX):
            answer = do(target, method, f"{base}/{path}", WRITTEN[encode](what(run, key)))
            assert answer.status == 403
            assert answer.json()["error_code"] == "PERMISSION_DENIED"
            assert target.forwarded(answer) is None
    assert run_of(target, run) == ("ada", ADAS)


@pytest.mark.parametrize("key", KEYS)
def test_who_made_a_model_is_neither_changed_nor_hidden(target: Target, model: str, key: str) -> None:
    for encode in WRITTEN:
        what = encode({"tags": [{"key": "note", "value": "x"}, {"key": key, "value": "boss"}]})
        for headers in ((JSON,), (FORM,), ()):
            assert do(target, "PATCH", f"{API}/logged-models/{model}/tags", what, *headers).status == 403
    escaped = "".join(f"%{ord(letter):02X}" for letter in key)
    for spelled in (key, escaped, quote(key + " "), quote("\u200b" + key)):
        for body in (b"", b"{}", b'{"tag_key": "note"}'):
            answer = do(target, "DELETE", f"{API}/logged-models/{model}/tags/{spelled}", body)
            assert answer.status == 403, answer.text
    # A path that MLflow could read in a second way never comes so far.
    twice = quote(quote(escaped))
    for spelled in (f"{key}/", f"{key}/.", f"./{key}", f"/{key}", twice, f"{key}%00"):
        answer = do(target, "DELETE", f"{API}/logged-models/{model}/tags/{spelled}", b"")
        assert answer.status in (400, 403), answer.text
    assert model_of(target, model) == ADAS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'[{"run_id": "x"}]',
        b"run_id=x&key=mlflow.user",
        b'"run_id"',
        b'{"run_id": "x"} {"key": "mlflow.user"}',
        gzip.compress(b'{"run_id": "x", "key": "mlflow.user"}', mtime=0),
        b"\xff\xfe\x00",
    ],
)
def test_a_body_that_is_not_one_json_object_is_refused(target: Target, body: bytes) -> None:
    for path in ("create", "update", "set-tag", "delete-tag", "log-batch"):
        for headers in ((JSON,), (FORM,), (JSON, ("Content-Encoding", "gzip"))):
            answer = do(target, "POST", f"{API}/runs/{path}?run_id=x", body, *headers)
            assert answer.status == 400
            assert set(answer.json()) == {"error_code", "message"}
            assert target.forwarded(answer) is None


def test_another_method_is_no_way_round(target: Target, run: str) -> None:
    what = {"run_id": run, "key": "mlflow.user", "value": "boss"}
    query = f"run_id={run}&key=mlflow.user&value=boss"
    for method in ("GET", "PUT", "PATCH", "DELETE", "HEAD"):
        assert do(target, method, f"{API}/runs/set-tag?{query}", what).status in (403, 404, 405)
    override = ("X-HTTP-Method-Override", "POST")
    assert do(target, "GET", f"{API}/runs/set-tag?{query}", what, JSON, override).status in (403, 404, 405)
    assert run_of(target, run) == ("ada", ADAS)


def test_chunks_are_no_way_round(target: Target, run: str) -> None:
    head = [
        f"POST {API}/runs/set-tag HTTP/1.1",
        "Host: 127.0.0.1",
        "{}: {}".format(*wire.basic("edda", PASSWORDS["edda"])),
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        "Connection: close",
    ]
    body = json.dumps({"run_id": run, "key": "mlflow.user", "value": "boss"}).encode()
    pieces = b"".join(b"1\r\n%c\r\n" % letter for letter in body)
    assert wire.statuses(target.service, "\r\n".join([*head, "", ""]).encode() + pieces + b"0\r\n\r\n") == [
        403
    ]
    assert run_of(target, run) == ("ada", ADAS)


def test_a_run_of_ones_own_is_no_different(target: Target) -> None:
    made = target.post("edda", f"{API}/runs/create", {"experiment_id": "0"}).json()["run"]["info"]["run_id"]
    what = {"run_id": made, "key": "mlflow.user", "value": "edda"}
    assert target.post("edda", f"{API}/runs/set-tag", what).status == 403
    assert target.post("ada", f"{API}/runs/set-tag", what).status == 403
    assert run_of(target, made) == ("edda", {"mlflow.user": "edda"})


def test_a_token_is_named_and_no_other_credential_in_its_place(target: Target) -> None:
    made = target.post("edda", "/-/api/tokens", {"name": "nightly ü", "lifetime": 600})
    assert made.status == 201, made.text
    bearer = ("Authorization", "Bearer " + made.json()["token"])
    what = {"experiment_id": "0", "user_id": "boss"}
    answer = wire.post(target.service, f"{API}/runs/create", what, bearer)
    assert answer.status == 200, answer.text
    run = answer.json()["run"]["info"]["run_id"]
    named = {
        "mlflow.user": "edda",
        "mlflow_proxy.credential": "nightly ü",
        "mlflow_proxy.claimed_user": "boss",
    }
    assert run_of(target, run) == ("edda", named)
    forged = {**what, "tags": [{"key": "mlflow_proxy.credential", "value": "ada's"}]}
    assert wire.post(target.service, f"{API}/runs/create", forged, bearer).status == 403
    for path, more in (("set-tag", {"value": "ada's"}), ("delete-tag", {})):
        change = {"run_id": run, "key": "mlflow_proxy.credential", **more}
        assert wire.post(target.service, f"{API}/runs/{path}", change, bearer).status == 403
    assert run_of(target, run) == ("edda", named)


SCRIPT = """
import json, sys, time
import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

client = mlflow.MlflowClient()
refused = []

def forbidden(what, *arguments, **more):
    began = time.monotonic()
    try:
        what(*arguments, **more)
    except MlflowException as error:
        assert time.monotonic() - began < 5, "it was tried again"
        refused.append([error.error_code, str(error)])
    else:
        raise AssertionError("it was not refused")

with mlflow.start_run(tags={"mine": "yes"}, description="a note") as run:
    mlflow.log_metrics({"loss": float("nan"), "accuracy": 0.5}, step=1)
    mlflow.log_params({"rate": 1e-300, "\\u00fc": "\\U0001f600"})
    mlflow.set_tags({"stage": "one", "other": "two"})
    mlflow.delete_tag("other")
    with mlflow.start_run(nested=True) as child:
        mlflow.log_metric("x", float("inf"))
    model = mlflow.initialize_logged_model(name="m", tags={"mine": "yes"})
    mlflow.set_logged_model_tags(model.model_id, {"a": "b", "c": "d"})
    client.delete_logged_model_tag(model.model_id, "c")
    mlflow.finalize_logged_model(model.model_id, "READY")
    forbidden(mlflow.set_tag, "mlflow.user", "boss")
    forbidden(mlflow.set_tags, {"a": "b", "mlflow.user": "boss"})
    forbidden(mlflow.delete_tag, "mlflow.user")
    forbidden(mlflow.set_logged_model_tags, model.model_id, {"mlflow.user": "boss"})
    forbidden(client.delete_logged_model_tag, model.model_id, "mlflow.user")
    forbidden(client.log_batch, run.info.run_id, tags=[RunTag("mlflow_proxy.credential", "boss")])
with mlflow.start_run(run_id=run.info.run_id, tags={"again": "yes"}):
    client.log_batch(run.info.run_id, [Metric("m", 1, 1, 0)], [Param("p", "q")], [RunTag("t", "u")])
client.update_run(run.info.run_id, name="renamed")
forged = client.create_run("0", tags={"mlflow.user": "boss"})

found = client.get_run(run.info.run_id)
made = client.get_logged_model(model.model_id)
print(json.dumps({
    "user": found.info.user_id, "tags": found.data.tags, "params": found.data.params, "refused": refused,
    "child": client.get_run(child.info.run_id).data.tags, "model": made.tags,
    "metrics": sorted(found.data.metrics),
    "forged": [forged.info.user_id, forged.data.tags], "name": found.info.run_name,
}))
"""


def test_the_unmodified_client_logs_as_before_and_is_told_at_once_what_it_may_not(target: Target) -> None:
    environment = target.service.client_environment("edda", PASSWORDS["edda"])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["user"] == found["tags"]["mlflow.user"] == "edda"
    tags = found["tags"]
    assert (tags["mine"], tags["stage"], tags["again"], tags["t"]) == ("yes", "one", "yes", "u")
    assert "other" not in tags
    assert not any(key.startswith("mlflow_proxy.") for key in tags)
    assert found["params"] == {"rate": "1e-300", "ü": "\U0001f600", "p": "q"}
    assert found["metrics"] == ["accuracy", "loss", "m"]
    assert found["name"] == "renamed"
    assert found["child"]["mlflow.user"] == "edda"
    assert found["model"] == {**found["model"], "mlflow.user": "edda", "mine": "yes", "a": "b"}
    assert "c" not in found["model"]
    assert len(found["refused"]) == 6
    for code, text in found["refused"]:
        assert code == "PERMISSION_DENIED"
        assert "Leave it out" in text
    user, tags = found["forged"]
    assert user == tags["mlflow.user"] == "edda"
    assert tags["mlflow_proxy.claimed_user"] == "boss"
