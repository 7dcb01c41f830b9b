"""Further issuers of JWTs: CI systems, Kubernetes clusters behind their own authority, a second provider."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_provider import Signer
from jwt_site import Site, claims_for, identity, refusal, settings_for

from proxy.auth.oidc import keys
from proxy.certificates import ensure
from proxy.identity import Role
from proxy.settings import jwt_issuers

AUDIENCE = "mlflow"
POD = {
    "namespace": "training",
    "node": {"name": "node-7", "uid": "1"},
    "pod": {"name": "nightly-x7k2p", "uid": "2"},
    "serviceaccount": {"name": "nightly", "uid": "3"},
}


class ApiServer(ThreadingHTTPServer):
    """A Kubernetes API server's part in this: HTTPS by an authority of its own, keys for who has a token."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        paths = ensure(folder, ("localhost", "127.0.0.1"))
        self.ca = paths.ca
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(paths.cert, paths.key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.issuer = f"https://localhost:{self.server_port}"
        self.signer = Signer()
        self.token = "the pod's own token"
        self.named = self.issuer
        self.seen: list[str] = []

    def sign(self, **claims: Any) -> str:
        """A service account's token as the API server makes them: its header names no kind."""
        now = int(time.time())
        usual = {
            "aud": [AUDIENCE],
            "exp": now + 3600,
            "iat": now,
            "iss": self.issuer,
            "jti": "0b4a",
            "kubernetes.io": POD,
            "nbf": now,
            "sub": "system:serviceaccount:training:nightly",
        }
        whole = {name: value for name, value in (usual | claims).items() if value is not None}
        return self.signer.token(whole, "RS256", {"typ": None})


class Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        status, value = 200, {}
        if self.headers.get("authorization") != f"Bearer {self.server.token}":
            status = 401
        elif self.path == "/.well-known/openid-configuration":
            # What a cluster's has, and no more: nobody signs in there.
            value = {
                "issuer": self.server.named,
                "jwks_uri": f"https://127.0.0.1:{self.server.server_port}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        elif self.path == "/openid/v1/jwks":
            value = self.server.signer.jwks()
        else:
            status = 404
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path_factory.mktemp("cluster"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cluster(running: ApiServer) -> ApiServer:
    running.named = running.issuer
    running.seen.clear()
    return running


def site(folder: Path, text: str) -> Site:
    path = folder / "issuers.yaml"
    path.write_text(text)
    return Site(settings_for(None, folder), jwt_issuers.read(path, None))


def kubernetes(cluster: ApiServer, folder: Path, more: str = "namespaces: [training, ci]") -> Site:
    (folder / "token").write_text(f"{cluster.token}\n")
    return site(
        folder,
        f"""
- name: cluster
  issuer: {cluster.issuer}
  audience: {AUDIENCE}
  ca_file: {cluster.ca}
  token_file: token
  {more}
  role: editor
""",
    )


@pytest.fixture(scope="module")
def ci() -> Signer:
    return Signer()


def by_file(folder: Path, signer: Signer, more: str) -> Site:
    """The entry of a CI system whose keys are in a file; more entries may follow."""
    (folder / "keys.json").write_text(json.dumps(signer.jwks()))
    return site(
        folder,
        f"""
- name: ci
  issuer: https://ci.example.com
  audience: {AUDIENCE}
  jwks_file: keys.json
{more}
""",
    )


def job(signer: Signer, **claims: Any) -> str:
    """A job's token as a CI system makes them: neither a scope nor a client."""
    usual = {"aud": AUDIENCE, "scope": None, "client_id": None, "email": None, "groups": None}
    return signer.token(claims_for("https://ci.example.com", **usual | claims), "RS256", {})


# Kubernetes


def test_a_service_account_of_a_cluster_is_a_user(cluster: ApiServer, tmp_path: Path) -> None:
    found = kubernetes(cluster, tmp_path).accepted(cluster.sign())
    assert (found.user, found.role) == ("cluster:training/nightly", Role.EDITOR)
    assert (found.issuer, found.subject) == (cluster.issuer, "system:serviceaccount:training:nightly")
    assert found.credential is not None
    assert found.credential.name == "nightly-x7k2p"
    assert cluster.seen == ["/.well-known/openid-configuration", "/openid/v1/jwks"]


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        (
            {
                "sub": "system:serviceaccount:default:nightly",
                "kubernetes.io": POD | {"namespace": "default"},
            },
            "Service accounts of the namespace default do not get in here.",
        ),
        # One statement, made twice: whoever can choose one of the two has not chosen the other.
        ({"sub": "system:serviceaccount:ci:nightly"}, "The token is not a Kubernetes service account's."),
        ({"sub": "training:nightly"}, "The token is not a Kubernetes service account's."),
        ({"kubernetes.io": None}, "The token is not a Kubernetes service account's."),
    ],
)
def test_other_namespaces_do_not_get_in(
    cluster: ApiServer, tmp_path: Path, claims: dict[str, Any], said: str
) -> None:
    refused = kubernetes(cluster, tmp_path).refused(cluster.sign(**claims))
    assert (refused.reason, refused.message) == ("not_admitted", said)


def test_a_token_for_the_cluster_itself_is_not_for_us(cluster: ApiServer, tmp_path: Path) -> None:
    said = kubernetes(cluster, tmp_path).refused(cluster.sign(aud=["https://kubernetes.default.svc"]))
    assert said.message == (
        "This token is for 'https://kubernetes.default.svc' (aud), not for 'mlflow'. Ask its issuer for one "
        "with that audience."
    )
    assert cluster.seen == []


def test_a_service_accounts_token_of_before_they_ended_does_not_count(
    cluster: ApiServer, tmp_path: Path
) -> None:
    assert "(exp)" in kubernetes(cluster, tmp_path).refused(cluster.sign(exp=None)).message


def test_without_the_clusters_authority_nobody_is_asked_for_keys(cluster: ApiServer, tmp_path: Path) -> None:
    here = kubernetes(cluster, tmp_path)
    strangers = site(
        tmp_path,
        f"- {{name: c, issuer: '{cluster.issuer}', audience: {AUDIENCE}, namespaces: [a], role: viewer}}",
    )
    assert strangers.refused(cluster.sign()).reason == "provider_failed"
    assert cluster.seen == []
    assert strangers.problem is not None
    assert "CERTIFICATE_VERIFY_FAILED" in strangers.problem
    assert here.accepted(cluster.sign()).role is Role.EDITOR


def test_a_token_that_the_cluster_does_not_take_is_said_to_the_operator(
    cluster: ApiServer, tmp_path: Path
) -> None:
    here = kubernetes(cluster, tmp_path)
    (tmp_path / "token").write_text("another's")
    assert here.refused(cluster.sign()).reason == "provider_failed"
    assert here.problem is not None
    assert here.problem.startswith("the issuer cluster of PROXY_JWT_ISSUERS_FILE: ")
    assert here.problem.endswith(f"It does not take the token in {tmp_path}/token (token_file).")
    (tmp_path / "token").unlink()
    here.counted.clear()
    here.refused(cluster.sign())
    assert here.problem.endswith(f"{tmp_path}/token can't be read: No such file or directory.")


def test_the_token_in_the_file_may_be_replaced(cluster: ApiServer, tmp_path: Path) -> None:
    here = kubernetes(cluster, tmp_path)
    cluster.token, old = "the next one", cluster.token
    (tmp_path / "token").write_text(cluster.token)
    try:
        assert here.accepted(cluster.sign()).role is Role.EDITOR
    finally:
        cluster.token = old


def test_an_issuer_that_calls_itself_otherwise_is_not_believed(cluster: ApiServer, tmp_path: Path) -> None:
    here = kubernetes(cluster, tmp_path)
    cluster.named = f"{cluster.issuer}/"
    assert here.refused(cluster.sign()).reason == "provider_failed"
    assert here.problem is not None
    assert f"does not name the issuer {cluster.issuer!r}" in here.problem


# CI systems, and second providers


def test_a_job_of_ours_gets_in_and_a_strangers_does_not(ci: Signer, tmp_path: Path) -> None:
    here = by_file(
        tmp_path,
        ci,
        """
  role: editor
  user_claim: repository
  required_claims:
    repository_id: ["42"]
    ref: [refs/heads/main, refs/heads/release]
""",
    )
    ours = {"repository": "team/training", "repository_id": "42", "ref": "refs/heads/main"}
    mine, other, branch, none = here.outcomes(
        job(ci, **ours),
        job(ci, **ours | {"repository_id": "43"}),
        job(ci, **ours | {"ref": "refs/heads/mine"}),
        job(ci, repository="team/training", ref="refs/heads/main"),
    )
    assert (identity(mine).user, identity(mine).role) == ("ci:team/training", Role.EDITOR)
    said = "This token's claim {} is missing, or does not have a value that gets in here. "
    for outcome, claim in ((other, "repository_id"), (branch, "ref"), (none, "repository_id")):
        assert refusal(outcome).reason == "not_admitted"
        assert refusal(outcome).message.startswith(said.format(claim))


def test_claims_that_are_numbers_truths_and_lists_are_compared_as_written(ci: Signer, tmp_path: Path) -> None:
    here = by_file(
        tmp_path, ci, "  role: viewer\n  required_claims: {id: 42, protected: true, teams: [ml, ops]}"
    )
    good = {"id": 42, "protected": True, "teams": ["web", "ml"]}
    tokens = [
        job(ci, **good | change)
        for change in ({}, {"id": 420}, {"protected": False}, {"teams": ["web"]}, {"teams": {"ml": 1}})
    ]
    found, *refused = here.outcomes(*tokens)
    assert identity(found).role is Role.VIEWER
    assert [refusal(outcome).reason for outcome in refused] == ["not_admitted"] * 4


def test_two_entries_of_one_issuer_give_two_kinds_of_jobs_their_roles(ci: Signer, tmp_path: Path) -> None:
    here = by_file(
        tmp_path,
        ci,
        f"""
  required_claims: {{environment: production}}
  role: admin
- name: others
  issuer: https://ci.example.com
  audience: {AUDIENCE}
  jwks_file: keys.json
  required_claims: {{owner: team}}
  role: viewer
""",
    )
    production, other, stranger = here.outcomes(
        job(ci, owner="team", environment="production"), job(ci, owner="team"), job(ci, owner="x")
    )
    assert (identity(production).user, identity(production).role) == ("ci:ada", Role.ADMIN)
    assert (identity(other).user, identity(other).role) == ("others:ada", Role.VIEWER)
    assert "claim environment is missing" in refusal(stranger).message


def test_the_highest_role_that_a_group_gives_counts(ci: Signer, tmp_path: Path) -> None:
    here = by_file(
        tmp_path, ci, "  groups_claim: realm.roles\n  roles: {viewer: [all], admin: [ops], editor: [ml]}"
    )
    groups: tuple[Any, ...] = (["all", "ml"], ["ops", "all"], ["all"], "ml", ["Ops"], [], None, {"ops": 1})
    outcomes = here.outcomes(*(job(ci, realm={"roles": value}) for value in groups))
    roles = [identity(outcome).role for outcome in outcomes[:4]]
    assert roles == [Role.EDITOR, Role.ADMIN, Role.VIEWER, Role.EDITOR]
    for outcome in outcomes[4:]:
        assert refusal(outcome).message == "No group of the token (claim realm.roles) gives it a role here."


def test_a_bearer_without_a_name_is_nobody(ci: Signer, tmp_path: Path) -> None:
    here = by_file(tmp_path, ci, "  role: viewer\n  user_claim: upn")
    for upn in (None, "", "a\nb", ["a"], True):
        assert "does not say whose it is (claim upn)" in here.refused(job(ci, upn=upn)).message
        here.counted.clear()
    assert here.accepted(job(ci, upn=7)).user == "ci:7"


def test_keys_in_a_file_are_read_again(ci: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "PACE", 0.0)
    here = by_file(tmp_path, ci, "  role: viewer")
    new = Signer()
    new.rotate()

    def rotated() -> str:
        (tmp_path / "keys.json").write_text(json.dumps(new.jwks()))
        return job(new)

    assert [identity(outcome).user for outcome in here.outcomes(job(ci), rotated)] == ["ci:ada", "ci:ada"]


def test_a_file_without_keys_is_said_to_the_operator_at_start(ci: Signer, tmp_path: Path) -> None:
    here = by_file(tmp_path, ci, "  role: viewer")
    (tmp_path / "keys.json").write_text("{")
    here.run(lambda jwts: jwts.warm())
    assert here.problem is not None
    assert here.problem.endswith(f"{tmp_path}/keys.json (jwks_file) is not JSON.")


def test_no_issuer_signs_for_another(cluster: ApiServer, ci: Signer, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(ci.jwks()))
    (tmp_path / "token").write_text(cluster.token)
    both = site(
        tmp_path,
        f"""
- {{name: ci, issuer: https://ci.example.com, audience: {AUDIENCE}, jwks_file: keys.json, role: viewer}}
- name: cluster
  issuer: {cluster.issuer}
  audience: {AUDIENCE}
  ca_file: {cluster.ca}
  token_file: token
  role: admin
""",
    )
    good = both.outcomes(job(ci), cluster.sign())
    assert [identity(outcome).role for outcome in good] == [Role.VIEWER, Role.ADMIN]
    both.counted.clear()
    forged = both.outcomes(job(ci, iss=cluster.issuer), cluster.sign(iss="https://ci.example.com"))
    for outcome in forged:
        assert "signature is not the provider's" in refusal(outcome).message
