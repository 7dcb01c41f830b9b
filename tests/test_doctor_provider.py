"""`mlflow-proxy doctor provider`: providers that are away, set up wrongly, or late; and their tokens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import fake_provider
import identity_provider
import pytest
from doctor_site import Told, doctor
from fake_provider import CLIENT_ID, CLIENT_SECRET
from service import free_port

pytestmark = pytest.mark.slow

URL = "https://mlflow.example.com"


@pytest.fixture(scope="module")
def fake() -> Iterator[fake_provider.Provider]:
    with fake_provider.running() as provider:
        yield provider


def look(fake: fake_provider.Provider, folder: Path, token: str = "", **settings: str) -> Told:
    environment = {
        "PROXY_PUBLIC_URL": URL,
        "MLFLOW_UI_OAUTH_ISSUER_URL": fake.issuer,
        "MLFLOW_UI_OAUTH_CLIENT_ID": CLIENT_ID,
        "MLFLOW_UI_OAUTH_CLIENT_SECRET": CLIENT_SECRET,
        "PROXY_ROLE_EDITOR_GROUPS": "ml",
        **settings,
    }
    told = doctor(
        "provider",
        *(("--token-file", "-") if token else ()),
        cwd=folder,
        environment=environment,
        stdin=token,
    )
    assert CLIENT_SECRET not in told.text
    assert not token or token not in told.text
    return told


def claims(fake: fake_provider.Provider, **more: object) -> dict[str, object]:
    now = int(time.time())
    return {"iss": fake.issuer, "sub": "ada", "aud": CLIENT_ID, "iat": now, "exp": now + 300, **more}


def test_a_provider_that_is_set_up_well_is_found_so_with_a_token_by_standard_input(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(error="login_required")
    told = look(fake, tmp_path, fake.sign(claims(fake, groups=["ml", "staff"])))
    assert told.code == 0, told.text
    told.says("provider", "redirect-uri", "ok", f"{URL}/oauth2/callback is registered")
    told.says("provider", "client-secret", "ok")
    told.says("provider", "clock", "ok")
    told.says("provider", "groups", "ok", "ml, staff", "role: editor")


def test_an_issuer_that_is_written_otherwise_or_is_away_is_found(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(discovery={"issuer": f"{fake.issuer}/"})
    told = look(fake, tmp_path)
    told.says("provider", "discovery", "failure", f"'{fake.issuer}/'", "exactly what the document names")
    fake.habits()
    told = look(fake, tmp_path, MLFLOW_UI_OAUTH_ISSUER_URL=f"http://127.0.0.1:{free_port()}")
    told.says("provider", "discovery", "failure", "can't be reached")


def test_keys_that_can_not_be_had_are_found(fake: fake_provider.Provider, tmp_path: Path) -> None:
    fake.habits(jwks={"keys": []})
    look(fake, tmp_path).says("provider", "keys", "failure", "no public key")


def test_a_wrong_client_secret_is_found(fake: fake_provider.Provider, tmp_path: Path) -> None:
    fake.habits(error="login_required")
    told = look(fake, tmp_path, MLFLOW_UI_OAUTH_CLIENT_SECRET="an old one that was rotated")
    told.says("provider", "client-secret", "failure", "MLFLOW_UI_OAUTH_CLIENT_SECRET", "rotation.md")
    assert told.wrong() == {("provider", "client-secret")}


def test_scopes_that_are_refused_are_found(fake: fake_provider.Provider, tmp_path: Path) -> None:
    fake.habits(error="invalid_scope", error_description="unknown scope")
    look(fake, tmp_path).says("provider", "scopes", "failure", "unknown scope", "MLFLOW_UI_OAUTH_SCOPES")


@pytest.mark.parametrize(("offset", "outcome"), [(-20, "warning"), (600, "failure")])
def test_a_clock_that_differs_is_found(
    fake: fake_provider.Provider, tmp_path: Path, offset: int, outcome: str
) -> None:
    fake.habits(clock=offset)
    told = look(fake, tmp_path)
    told.says("provider", "clock", outcome, "behind" if offset < 0 else "ahead of", "NTP", "PROXY_CLOCK_SKEW")


def test_a_token_without_the_groups_claim_is_found_and_where_they_may_be(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(error="login_required")
    token = fake.sign(claims(fake, realm_access={"roles": ["ml"]}))
    told = look(fake, tmp_path, token)
    told.says("provider", "groups", "failure", "no claim 'groups'", "PROXY_GROUPS_CLAIM=realm_access.roles")
    assert look(fake, tmp_path, token, PROXY_GROUPS_CLAIM="realm_access.roles").code == 0
    told = look(fake, tmp_path, fake.sign(claims(fake, _claim_names={"groups": "src1"})))
    told.says("provider", "groups", "failure", "more groups than fit")


def test_groups_that_give_no_role_and_people_who_do_not_get_in_are_found(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(error="login_required")
    token = fake.sign(claims(fake, groups=["ML"], email="ada@example.com", email_verified=True))
    told = look(fake, tmp_path, token, PROXY_ALLOWED_EMAIL_DOMAINS="example.org")
    told.says("provider", "groups", "failure", "ML; none of them gives a role", "PROXY_ROLE_EDITOR_GROUPS")
    told.says("provider", "admission", "warning", "ada@example.com is not among those")


def test_tokens_of_others_for_others_or_of_another_time_are_found(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(error="login_required")
    now = int(time.time())
    groups = ["ml"]
    later = fake.sign(claims(fake, groups=groups, iat=now + 900, exp=now + 1800))
    look(fake, tmp_path, later).says("provider", "clock", "failure", "in the future", "clocks")
    ended = fake.sign(claims(fake, groups=groups, exp=now - 900))
    look(fake, tmp_path, ended).says("provider", "times", "warning", "it ended")
    other = fake.sign(claims(fake, groups=groups, aud="payroll"))
    look(fake, tmp_path, other).says("provider", "audience", "failure", "it is for payroll")
    forged = fake.sign(claims(fake, groups=groups), how="foreign")
    look(fake, tmp_path, forged).says("provider", "token", "failure", "signature")
    look(fake, tmp_path, "opaque-access-token").says("provider", "token", "failure", "no JWT")


@pytest.mark.skipif(not identity_provider.installed(), reason="not installed: oidc-provider (npm ci)")
def test_a_redirect_uri_that_is_not_registered_is_found_at_a_real_provider(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(identity_provider.provider(tmp_path / "p", URL))
        settings = identity_provider.settings(provider.port) | {"PROXY_PUBLIC_URL": URL}
        told = doctor("provider", cwd=tmp_path, environment=settings)
        assert told.code == 0, told.text
        told.says("provider", "redirect-uri", "ok")
        told.says("provider", "client-secret", "ok")
        told = doctor(
            "provider", cwd=tmp_path, environment=settings | {"PROXY_PUBLIC_URL": "https://ml.example.com"}
        )
        told.says(
            "provider", "redirect-uri", "failure", "register exactly https://ml.example.com/oauth2/callback"
        )
        told = doctor(
            "provider", cwd=tmp_path, environment=settings | {"MLFLOW_UI_OAUTH_CLIENT_ID": "nobody"}
        )
        told.says("provider", "client", "failure", "does not know the client nobody")
        token = provider.sign(
            {"iss": provider.issuer, "sub": "a", "aud": identity_provider.CLIENT, "exp": time.time() + 60}
        )
        (tmp_path / "token").write_text(token + "\n")
        told = doctor("provider", "--token-file", tmp_path / "token", cwd=tmp_path, environment=settings)
        told.says("provider", "groups", "failure", "no claim 'groups'")
