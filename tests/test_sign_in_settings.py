"""Settings of signing in: what must fit together, and who may not be let in by an oversight."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import UserError
from proxy.identity import Role
from proxy.settings import Loaded, load, proxy_database_uri, table

SECRET = "0123456789abcdef-never-shown-0123456789"
PROVIDER = {
    "MLFLOW_UI_OAUTH_ISSUER_URL": "https://id.example.com/realms/team/",
    "MLFLOW_UI_OAUTH_CLIENT_ID": "mlflow",
}
GITHUB = {
    "MLFLOW_UI_OAUTH_CLIENT_ID": "mlflow",
    "PROXY_OAUTH_AUTHORIZE_URL": "https://github.com/login/oauth/authorize",
    "PROXY_OAUTH_TOKEN_URL": "https://github.com/login/oauth/access_token",
    "PROXY_OAUTH_USERINFO_URL": "https://api.github.com/user",
}

ALLOWED = {"PROXY_ALLOWED_EMAILS": "ada@example.com"}


def read(directory: Path, *given: dict[str, str], **more: str) -> Loaded:
    return load({}, {name: text for each in (*given, more) for name, text in each.items()}, directory)


def problem(directory: Path, *given: dict[str, str], **more: str) -> str:
    with pytest.raises(UserError) as caught:
        read(directory, *given, **more)
    (line,) = str(caught.value).splitlines()
    return line


def test_an_issuer_and_a_client_are_all_that_a_provider_needs(tmp_path: Path) -> None:
    settings = read(tmp_path, PROVIDER).settings
    assert settings.oauth_issuer_url == "https://id.example.com/realms/team/"
    assert settings.oauth_scopes == "openid email profile"
    assert (settings.default_role, settings.basic_auth) == (Role.NONE, True)


def test_values_are_read_as_a_person_writes_them(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        PROVIDER,
        MLFLOW_UI_OAUTH_SCOPES=" openid, email  groups ",
        PROXY_ALLOWED_EMAIL_DOMAINS="@Example.com, bücher.example",
        PROXY_ALLOWED_EMAILS="Ada@Example.com,,ada@example.com",
        PROXY_ROLE_ADMIN_GROUPS="/team/Admins, ops",
        PROXY_DEFAULT_ROLE="Viewer",
    ).settings
    assert settings.oauth_scopes == "openid email groups"
    assert settings.allowed_email_domains == ("example.com", "bücher.example")
    assert settings.allowed_emails == ("ada@example.com",)
    assert settings.admin_groups == ("/team/Admins", "ops")
    assert settings.default_role is Role.VIEWER


def test_a_provider_is_refused_off_loopback_without_a_public_url(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert read(tmp_path, PROVIDER, MLFLOW_HOST=host)
    for host in ("0.0.0.0", "::", "10.0.0.7", "mlflow.example.com"):
        assert "set PROXY_PUBLIC_URL" in problem(tmp_path, PROVIDER, MLFLOW_HOST=host)
        assert "set PROXY_PUBLIC_URL" in problem(tmp_path, GITHUB, MLFLOW_HOST=host, PROXY_ALLOWED_GROUPS="x")
        assert read(tmp_path, PROVIDER, MLFLOW_HOST=host, PROXY_PUBLIC_URL="https://mlflow.example.com")


@pytest.mark.parametrize(
    "issuer",
    [
        "https://accounts.google.com",
        "https://ACCOUNTS.google.com./",
        "https://accounts.google.com:443",
        "https://login.microsoftonline.com/common/v2.0",
        "https://login.microsoftonline.com/organizations/v2.0",
        "https://login.microsoftonline.com/Consumers/v2.0",
        "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
        "https://gitlab.com",
        "https://appleid.apple.com",
        "https://slack.com",
    ],
)
def test_nobody_gets_in_by_default_with_a_public_provider(tmp_path: Path, issuer: str) -> None:
    given = PROVIDER | {"MLFLOW_UI_OAUTH_ISSUER_URL": issuer}
    assert "PROXY_ALLOWED_GROUPS" in problem(tmp_path, given)
    assert "PROXY_ALLOWED_GROUPS" in problem(tmp_path, given, PROXY_ROLE_ADMIN_GROUPS="x")
    assert read(tmp_path, given, PROXY_ALLOWED_EMAIL_DOMAINS="example.com")
    assert read(tmp_path, given, PROXY_ALLOWED_EMAILS="ada@example.com")
    assert read(tmp_path, given, PROXY_ALLOWED_GROUPS="team")


def test_a_tenant_of_ones_own_is_not_public(tmp_path: Path) -> None:
    tenant = "https://login.microsoftonline.com/3b5e0f0c-0000-4000-8000-000000000000/v2.0"
    assert read(tmp_path, PROVIDER | {"MLFLOW_UI_OAUTH_ISSUER_URL": tenant})
    assert read(tmp_path, PROVIDER | {"MLFLOW_UI_OAUTH_ISSUER_URL": "https://gitlab.example.com"})


def test_a_plain_oauth2_provider_needs_all_its_endpoints_and_no_issuer(tmp_path: Path) -> None:
    assert read(tmp_path, GITHUB, PROXY_ALLOWED_EMAILS="a@b.example")
    assert "anybody can have an account" in problem(tmp_path, GITHUB)
    for name in ("PROXY_OAUTH_AUTHORIZE_URL", "PROXY_OAUTH_TOKEN_URL", "PROXY_OAUTH_USERINFO_URL"):
        assert f"set {name}" in problem(tmp_path, GITHUB | {name: ""}, PROXY_ALLOWED_EMAILS="a@b.example")
    assert "unset one of the two" in problem(tmp_path, GITHUB, PROVIDER)


def test_a_provider_needs_its_client_and_a_client_its_provider(tmp_path: Path) -> None:
    assert "set MLFLOW_UI_OAUTH_CLIENT_ID" in problem(tmp_path, PROVIDER, MLFLOW_UI_OAUTH_CLIENT_ID="")
    line = problem(tmp_path, MLFLOW_UI_OAUTH_CLIENT_ID="mlflow")
    assert line.startswith("MLFLOW_UI_OAUTH_CLIENT_ID (environment): a client needs its provider")
    assert "openid" in problem(tmp_path, PROVIDER, MLFLOW_UI_OAUTH_SCOPES="email profile")


def test_basic_may_be_off_where_there_is_a_provider(tmp_path: Path) -> None:
    assert not read(tmp_path, PROVIDER, PROXY_BASIC_AUTH="off").settings.basic_auth
    assert "nobody could sign in" in problem(tmp_path, PROXY_BASIC_AUTH="off")


@pytest.mark.parametrize(
    "issuer",
    [
        "id.example.com",
        "http://id.example.com",
        "ftp://id.example.com",
        "https://",
        "https://u:p@id.example.com",
        "https://id.example.com/?x=1",
        "https://id.example.com/#x",
        "https://id.example.com\\x",
        "https://id.example.com/a b",
        "https://id.example.com:99999",
        "https://id.example.com/.well-known/openid-configuration",
        "http://localhost.example.com",
    ],
)
def test_an_issuer_that_can_not_be_one_is_refused(tmp_path: Path, issuer: str) -> None:
    line = problem(tmp_path, PROVIDER | {"MLFLOW_UI_OAUTH_ISSUER_URL": issuer})
    assert line.startswith("MLFLOW_UI_OAUTH_ISSUER_URL (environment): ")


def test_a_provider_on_loopback_may_do_without_tls(tmp_path: Path) -> None:
    for issuer in ("http://127.0.0.1:8080/x", "http://[::1]:8080", "http://localhost:8080"):
        loaded = read(tmp_path, PROVIDER | {"MLFLOW_UI_OAUTH_ISSUER_URL": issuer})
        assert loaded.settings.oauth_issuer_url == issuer


def test_what_lets_nobody_do_anything_is_said_at_start(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, PROVIDER).warnings
    assert warning.startswith("PROXY_DEFAULT_ROLE (default): ")
    assert read(tmp_path, PROVIDER, PROXY_DEFAULT_ROLE="viewer").warnings == ()
    assert read(tmp_path, PROVIDER, PROXY_ROLE_EDITOR_GROUPS="x").warnings == ()
    given = PROVIDER | {"PROXY_DEFAULT_ROLE": "viewer", "PROXY_PUBLIC_URL": "http://mlflow.example.com"}
    (warning,) = read(tmp_path, given, PROXY_TLS="off").warnings
    assert "take over sessions" in warning


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROXY_ALLOWED_EMAIL_DOMAINS", "example.com"),
        ("PROXY_ALLOWED_EMAILS", "ada@example.com"),
        ("PROXY_ALLOWED_GROUPS", "x"),
        ("PROXY_ROLE_VIEWER_GROUPS", "x"),
        ("PROXY_ROLE_EDITOR_GROUPS", "x"),
        ("PROXY_ROLE_ADMIN_GROUPS", "x"),
        ("PROXY_DEFAULT_ROLE", "viewer"),
    ],
)
def test_who_gets_in_without_an_identity_provider_is_said_to_have_no_effect(
    tmp_path: Path, name: str, value: str
) -> None:
    (warning,) = read(tmp_path, {name: value}).warnings
    assert warning.startswith(f"{name} (environment): has no effect")
    assert read(tmp_path, GITHUB, {name: value, "PROXY_DEFAULT_ROLE": "viewer"}, ALLOWED).warnings == ()


def test_the_database_is_a_file_of_ours_unless_set(tmp_path: Path) -> None:
    assert proxy_database_uri(read(tmp_path).settings) == f"sqlite:///{tmp_path}/mlflow-data/proxy.db"
    loaded = read(tmp_path, PROXY_DATABASE_URL="sqlite:///there/p.db")
    assert proxy_database_uri(loaded.settings) == f"sqlite:///{tmp_path}/there/p.db"
    assert loaded.warnings == ()


def test_replicas_are_told_to_share_their_secret_and_nothing_is_shown(tmp_path: Path) -> None:
    url = f"postgresql://u:{SECRET}@db.example.com/mlflow"
    (warning,) = read(tmp_path, PROXY_DATABASE_URL=url).warnings
    assert "PROXY_COOKIE_SECRET" in warning
    loaded = read(tmp_path, PROXY_DATABASE_URL=url, PROXY_COOKIE_SECRET=f"{SECRET}, {SECRET[::-1]}")
    assert loaded.warnings == ()
    assert proxy_database_uri(loaded.settings).startswith("postgresql+psycopg://")
    assert SECRET not in table(loaded)
    assert "postgresql://u:***@db.example.com/mlflow" in table(loaded)
    assert {"PROXY_COOKIE_SECRET", "MLFLOW_UI_OAUTH_CLIENT_SECRET"}.isdisjoint(loaded.passthrough)
