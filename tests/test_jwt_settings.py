"""Settings of providers' tokens: what must fit together, and the file of further issuers, read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_sign_in_settings import PROVIDER, problem, read

from proxy.errors import UserError
from proxy.identity import Role
from proxy.settings import jwt_issuers
from proxy.settings.jwt_issuers import JwtIssuer

MAIN = "https://id.example.com/realms/team/"
GOOD = """
- name: ci
  issuer: https://ci.example.com
  audience: mlflow
  role: editor
"""


def entries(folder: Path, text: str) -> tuple[JwtIssuer, ...]:
    path = folder / "issuers.yaml"
    path.write_text(text)
    return jwt_issuers.read(path, MAIN)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        entries(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def one_problem(folder: Path, more: str) -> str:
    """What is said of the good entry with those lines besides, or in place of its own."""
    lines = GOOD.rstrip().splitlines()
    for line in more.splitlines():
        key = line.split(":")[0]
        lines = [kept for kept in lines if not kept.startswith(f"  {key}:")]
        lines.append(f"  {line}" if line.strip() else line)
    (line,) = problems(folder, "\n".join(lines))
    return line.removeprefix("issuers.yaml, entry 1 (ci): ")


def test_an_audience_needs_a_provider_with_openid_connect(tmp_path: Path) -> None:
    said = problem(tmp_path, PROXY_JWT_AUDIENCE="https://mlflow.example.com")
    assert said.startswith("PROXY_JWT_AUDIENCE (environment): is about access tokens")
    assert said.endswith("set MLFLOW_UI_OAUTH_ISSUER_URL")
    said = problem(tmp_path, PROXY_CLI_CLIENT_ID="mlflow-cli")
    assert said.startswith("PROXY_CLI_CLIENT_ID (environment): is a client of the identity provider")


@pytest.mark.parametrize("client", ["MLFLOW_UI_OAUTH_CLIENT_ID", "PROXY_CLI_CLIENT_ID"])
def test_a_client_is_no_audience(tmp_path: Path, client: str) -> None:
    more = {client: "that-client", "PROXY_JWT_AUDIENCE": "https://mlflow.example.com, that-client"}
    said = problem(tmp_path, {**PROVIDER, "PROXY_PUBLIC_URL": "https://mlflow.example.com", **more})
    assert said.startswith(f"PROXY_JWT_AUDIENCE (environment): has {client}, whose identity tokens")


def test_an_audit_file_has_room_for_more_than_a_few_lines(tmp_path: Path) -> None:
    said = problem(tmp_path, PROXY_AUDIT_MAX_SIZE="10kB")
    assert said == "PROXY_AUDIT_MAX_SIZE (environment): is less than 65536 bytes (64KiB): write more"


def test_what_is_wrong_with_the_file_is_said_with_all_other_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "issuers.yaml"
    path.write_text("- name: ci\n  issuer: https://ci.example.com\n")
    with pytest.raises(UserError) as caught:
        read(tmp_path, PROXY_JWT_ISSUERS_FILE=str(path), PROXY_CLI_CLIENT_ID="x")
    before = f"PROXY_JWT_ISSUERS_FILE (environment): {path}, entry 1 (ci): "
    assert sorted(str(caught.value).splitlines())[1:] == [
        f"{before}audience is missing",
        f"{before}role is missing: viewer, editor or admin, or roles by groups",
    ]


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "keys.json").write_text("{}")
    ci, cluster, partner = entries(
        tmp_path,
        """
- name: ci
  issuer: https://token.actions.githubusercontent.com
  audience: https://mlflow.example.com
  required_claims:
    repository_id: [123, 0456]
    environment: production
  role: editor
- name: cluster
  issuer: https://kubernetes.default.svc.cluster.local
  audience: [mlflow, mlflow-old]
  jwks_uri: https://10.0.0.1:6443/openid/v1/jwks
  token_file: token
  namespaces: [training, ci]
  role: Editor
- name: partner
  issuer: http://localhost:8080/realms/x
  audience: mlflow
  jwks_file: keys.json
  user_claim: preferred_username
  groups_claim: realm_access.roles
  roles:
    viewer: everybody
    admin: [ml-admins, root]
""",
    )
    assert ci.required_claims == (
        ("repository_id", frozenset({"123", "0456"})),
        ("environment", frozenset({"production"})),
    )
    assert (ci.role, ci.user_claim, ci.namespaces, ci.roles) == (Role.EDITOR, "sub", None, ())
    assert cluster.audience == ("mlflow", "mlflow-old")
    assert cluster.namespaces == frozenset({"training", "ci"})
    assert cluster.token_file == tmp_path / "token"
    assert partner.jwks_file == tmp_path / "keys.json"
    assert partner.role is None
    assert partner.roles == (
        (Role.ADMIN, frozenset({"ml-admins", "root"})),
        (Role.VIEWER, frozenset({"everybody"})),
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("audiences: x", "audiences is not known: did you mean audience?"),
        ("frobnicate: x", "frobnicate is not known: there are audience, "),
        ("issuer: http://ci.example.com", "issuer 'http://ci.example.com' does not begin with https://"),
        ("issuer: https://ci.example.com/.well-known/openid-configuration", "issuer is the discovery"),
        (f"issuer: {MAIN}", "issuer is MLFLOW_UI_OAUTH_ISSUER_URL, whose tokens PROXY_JWT_AUDIENCE lets in"),
        ("jwks_uri: http://keys.example.com", "jwks_uri 'http://keys.example.com' does not begin with"),
        ("jwks_file: absent.json", "jwks_file absent.json can't be read: No such file"),
        ("ca_file: issuers.yaml", "ca_file issuers.yaml holds no certificate (PEM)"),
        ("audience: []", "audience is not a value or a list of values"),
        ("audience: [[a]]", "audience is not a value or a list of values"),
        ("role: none", "role 'none' is no role that can be given"),
        ("role: root", "role 'root' is not a role: viewer, editor, admin"),
        ("role: [viewer]", "role is not a single value"),
        ("roles: {editor: [a]}", "role and roles are both set: remove one"),
        ("groups_claim: roles", "groups_claim has no effect without roles"),
        ("required_claims: [a]", "required_claims is not a mapping"),
        ("required_claims: {a: }", "required_claims.a is missing"),
        ("namespaces: ['*']", "namespaces '*' is not a namespace; a * means nothing"),
        ("namespaces: [Team]", "namespaces 'Team' is not a namespace"),
        ("user_claim: a b", "user_claim 'a b' is not the name of a claim"),
        (
            "issuer: https://token.actions.githubusercontent.com",
            "required_claims is missing, and anybody can get a token of that issuer for any audience",
        ),
        ("issuer: https://gitlab.com", "required_claims is missing, and anybody"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_entry(tmp_path: Path, more: str, said: str) -> None:
    assert one_problem(tmp_path, more).startswith(said)


def test_namespaces_say_who_somebody_is(tmp_path: Path) -> None:
    assert one_problem(tmp_path, "namespaces: [a]\nuser_claim: sub").startswith("user_claim is for others")


def test_keys_in_a_file_are_asked_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    said = one_problem(tmp_path, "jwks_file: keys.json\njwks_uri: https://ci.example.com/keys")
    assert said.startswith("jwks_uri has no effect beside jwks_file")


@pytest.mark.parametrize("name", ["service", "client", "CI", "a:b", "-a", "", "a" * 33])
def test_a_name_can_be_nobody_elses_beginning(tmp_path: Path, name: str) -> None:
    (line,) = problems(tmp_path, GOOD.replace("name: ci", f"name: '{name}'"))
    assert f"): name {name!r} is " in line


def test_two_entries_have_two_names(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, GOOD + GOOD)
    assert line == "issuers.yaml, entry 2 (ci): name 'ci' is another entry's: each needs its own"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "issuers.yaml: is not a list"),
        ("name: ci", "issuers.yaml: is not a list"),
        ("- ci", "issuers.yaml, entry 1 is not a mapping"),
        ("- name: [", "issuers.yaml: line 1 is not YAML"),
        ("- name: a\n  name: b", "issuers.yaml: name set twice, the second time in line 2"),
        ("- !!python/object/apply:os.system [x]", "issuers.yaml: line 1 is not YAML"),
    ],
)
def test_what_is_no_list_of_issuers_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (line,) = problems(tmp_path, text)
    assert line.startswith(said)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    said = problem(tmp_path, PROXY_JWT_ISSUERS_FILE=str(tmp_path / "absent.yaml"))
    assert f"{tmp_path}/absent.yaml can't be read: No such file or directory" in said
