"""Each role tries what is above it, by every door there is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import service as services
import wire
from attacked import PASSWORDS, Target

from proxy.auth.passwords import hash_password

API = "/api/2.0/mlflow"
V3 = "/api/3.0/mlflow"
READS = [
    ("POST", f"{API}/experiments/search", {"max_results": 1}),
    ("POST", f"{API}/runs/search", {"experiment_ids": ["0"]}),
    ("POST", "/graphql", {"query": "{__typename}"}),
    ("POST", f"{API}/logged-models/search", {"experiment_ids": ["0"]}),
    ("POST", f"{API}/registered-models/get-latest-versions", {"name": "none"}),
    ("GET", f"{API}/registered-models/search", None),
    ("GET", f"{API}/experiments/get?experiment_id=0", None),
]
WRITES = [
    ("POST", f"{API}/experiments/create", {"name": "x"}),
    ("POST", f"{API}/runs/create", {"experiment_id": "0"}),
    ("POST", f"{API}/runs/log-batch", {"run_id": "x"}),
    ("POST", f"{API}/runs/log-metric", {"run_id": "x"}),
    ("POST", f"{API}/runs/set-tag", {"run_id": "x"}),
    ("POST", f"{API}/runs/delete", {"run_id": "x"}),
    ("POST", f"{API}/traces/delete-traces", {"experiment_id": "0"}),
    ("POST", f"{V3}/traces/delete-traces", {"experiment_id": "0"}),
    ("PATCH", f"{API}/registered-models/update", {"name": "x"}),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/x", {}),
    ("POST", "/v1/traces", {}),
    ("POST", "/ajax-api/2.0/mlflow/gateway-proxy", {}),
    ("POST", "/gateway/openai/v1/chat/completions", {}),
    ("PATCH", "/ajax-api/3.0/jobs/cancel/x", {}),
]
DESTROYS = [
    ("POST", f"{API}/experiments/delete", {"experiment_id": "0"}),
    ("POST", f"{API}/experiments/restore", {"experiment_id": "0"}),
    ("DELETE", f"{API}/registered-models/delete", {"name": "x"}),
    ("DELETE", f"{API}/model-versions/delete", {"name": "x", "version": "1"}),
    ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/0", None),
    ("DELETE", f"{V3}/gateway/secrets/delete", {"secret_id": "x"}),
    ("DELETE", f"{V3}/datasets/x", None),
    ("DELETE", f"{V3}/mcp-servers/a%2Fb", None),
]
ADMINS = [
    ("POST", f"{V3}/gateway/secrets/create", {}),
    ("GET", f"{V3}/gateway/secrets/list", None),
    ("POST", f"{V3}/gateway/endpoints/create", {}),
    ("POST", f"{API}/webhooks", {}),
    ("GET", f"{API}/webhooks", None),
    ("POST", f"{API}/webhooks/x/test", {}),
    ("POST", f"{V3}/workspaces", {}),
    ("POST", "/ajax-api/3.0/jobs/", {}),
    ("POST", "/ajax-api/3.0/mlflow/assistant/message", {}),
    ("GET", "/metrics", None),
    ("POST", f"{API}/users/create", {}),
    ("GET", "/no/such/route", None),
    ("OPTIONS", f"{API}/experiments/search", None),
    ("PROPFIND", "/", None),
    ("TRACE", "/", None),
    ("CONNECT", "/", None),
    ("SEARCH", f"{API}/experiments/search", {}),
    ("POST", "/", {}),
    ("DELETE", "/", None),
    ("PUT", f"{API}/experiments/search", {}),
    ("HEAD", f"{API}/experiments/create", None),
]


def do(target: Target, user: str | None, method: str, path: str, what: object) -> wire.Answer:
    body = b"" if what is None else json.dumps(what).encode()
    headers = (("Content-Type", "application/json"),) if body else ()
    return target.ask(user, method, path, *headers, body=body)


def refused(target: Target, answer: wire.Answer, method: str) -> bool:
    """Refused by us, before MLflow, in MLflow's own shape, with what to do about it."""
    if answer.status != 403 or target.forwarded(answer) is not None:
        return False
    assert target.logged(answer)["refusal"] == "forbidden"
    if method != "HEAD":
        assert answer.json()["error_code"] == "PERMISSION_DENIED"
        assert "administrator" in answer.json()["message"]
    return True


@pytest.mark.parametrize(("method", "path", "what"), READS)
def test_a_viewer_reads_by_post_too(target: Target, method: str, path: str, what: object) -> None:
    for prefix in ("/api", "/ajax-api"):
        answer = do(target, "vera", method, path.replace("/api", prefix, 1), what)
        assert answer.status in (200, 404), answer
        assert target.forwarded(answer) is not None
        assert do(target, None, method, path, what).status == 401


@pytest.mark.parametrize(("method", "path", "what"), WRITES)
def test_a_viewer_writes_nothing_and_an_editor_may(
    target: Target, method: str, path: str, what: object
) -> None:
    assert refused(target, do(target, "vera", method, path, what), method)
    assert do(target, "edda", method, path, what).status != 403
    assert do(target, None, method, path, what).status == 401


@pytest.mark.parametrize(("method", "path", "what"), [*DESTROYS, *ADMINS])
def test_an_editor_neither_destroys_nor_administers(
    target: Target, method: str, path: str, what: object
) -> None:
    for user in ("vera", "edda"):
        assert refused(target, do(target, user, method, path, what), method)
    assert do(target, None, method, path, what).status == 401


def test_what_an_editor_was_refused_did_not_happen(target: Target) -> None:
    got = target.ask("vera", "GET", f"{API}/experiments/get?experiment_id=0")
    assert got.json()["experiment"]["lifecycle_stage"] == "active"


def test_graphql_changes_nothing(target: Target) -> None:
    """It is open to viewers, so it must have no mutation that does more than search."""
    asked = {"query": "{__schema{mutationType{fields{name}}}}"}
    answer = target.post("vera", "/graphql", asked)
    mutations = {field["name"] for field in answer.json()["data"]["__schema"]["mutationType"]["fields"]}
    # testMutation gives back what it is given (mlflow/server/graphql/graphql_schema_extensions.py).
    assert mutations == {"mlflowSearchDatasets", "mlflowSearchRuns", "testMutation"}


def test_a_body_names_no_other_operation(target: Target) -> None:
    """A GET may carry a JSON body, which Flask reads: it still is the GET that was authorized."""
    answer = do(target, "vera", "GET", f"{API}/experiments/get", {"experiment_id": "0"})
    assert answer.json()["experiment"]["experiment_id"] == "0"
    answer = do(
        target, "vera", "POST", f"{API}/experiments/search", {"name": "made by a search", "max_results": 1}
    )
    assert "experiment_id" not in answer.json()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/2.0/mlflow-artifacts/presigned/0/x"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/0/x"),
        ("POST", "/ajax-api/2.0/mlflow-artifacts/mpu/complete/0/x"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/abort/0/x"),
        ("POST", f"{API}/artifacts/presigned-upload-url"),
        ("POST", f"{API}/artifacts/presigned-download-url"),
        ("HEAD", "/api/2.0/mlflow-artifacts/presigned/0/x"),
    ],
)
def test_nobody_gets_an_address_that_goes_past_us(target: Target, method: str, path: str) -> None:
    for user in PASSWORDS:
        answer = do(target, user, method, path, {} if method == "POST" else None)
        assert answer.status == 501
        assert target.forwarded(answer) is None
        if method != "HEAD":
            assert answer.json()["error_code"] == "NOT_IMPLEMENTED"
            assert "PROXY_DIRECT_ARTIFACTS" in answer.json()["message"]
    assert do(target, None, method, path, None).status == 401


CLIENT = """
import json, sys, time
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

client = MlflowClient()
said = {}
def attempt(name, do):
    began = time.monotonic()
    try:
        do()
        said[name] = ["done", "", 0]
    except MlflowException as error:
        said[name] = [error.error_code, str(error), time.monotonic() - began]

experiment = sys.argv[1]
attempt("search", lambda: client.search_experiments(max_results=1))
attempt("log", lambda: client.log_metric(client.create_run(experiment).info.run_id, "m", 1.0))
attempt("delete", lambda: client.delete_experiment(experiment))
attempt("administer", lambda: client.list_webhooks())
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    ("user", "may"),
    [("vera", {"search"}), ("edda", {"search", "log"}), ("nobody", set())],
)
def test_mlflow_s_own_client_is_told_at_once_and_in_words(target: Target, user: str, may: set[str]) -> None:
    password = PASSWORDS.get(user, "wrong-all-the-same")
    ran = subprocess.run(
        [sys.executable, "-c", CLIENT, target.experiment],
        env=target.service.client_environment(user, password),
        capture_output=True,
        timeout=120,
        check=True,
    )
    said = json.loads(ran.stdout.splitlines()[-1])
    for name, (code, message, seconds) in said.items():
        if name in may:
            assert code == "done", message
            continue
        assert seconds < 10  # a 401 or 403 is not tried again
        if user == "nobody":
            assert code == "UNAUTHENTICATED"
            assert "MLFLOW_TRACKING_USERNAME" in message
        else:
            assert code == "PERMISSION_DENIED"
            assert user in message
            assert "administrator" in message


@pytest.mark.slow  # a service of its own; tests/test_access.py has the rule itself
def test_an_editor_may_delete_where_the_operator_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("delete-role")
    users = folder / "users"
    users.write_text(
        f"edda:{hash_password(PASSWORDS['edda'])}:editor\nvera:{hash_password(PASSWORDS['vera'])}:viewer\n"
    )
    with services.running(folder, PROXY_USERS_FILE=str(users), PROXY_DELETE_ROLE="editor") as service:
        credential = wire.basic("edda", PASSWORDS["edda"])
        made = wire.post(service, f"{API}/experiments/create", {"name": "short-lived"}, credential).json()
        viewers = wire.basic("vera", PASSWORDS["vera"])
        assert wire.post(service, f"{API}/experiments/delete", made, viewers).status == 403
        assert wire.post(service, f"{API}/experiments/delete", made, credential).status == 200
        assert wire.ask(service, "GET", f"{V3}/gateway/secrets/list", credential).status == 403
        assert wire.ask(service, "GET", "/no/such/route", credential).status == 403
