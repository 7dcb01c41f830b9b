"""Providers' tokens as credentials: who bears one, as what, for how long, and what is said otherwise."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import identity_provider
import pytest
from identity_provider import EDITOR, MACHINE, NATIVE, OTHER_AUDIENCE, STRANGER, VIEWER, OidcProvider
from jwt_site import AUDIENCE, Site, claims_for, identity, refusal, settings_for

from proxy.auth.jwt import jwts
from proxy.auth.oidc import Claims, keys
from proxy.auth.verified import Verified, Wrong
from proxy.identity import Role
from proxy.settings.jwt_issuers import JwtIssuer
from proxy.store import StoreUnavailable

pytestmark = pytest.mark.skipif(not identity_provider.installed(), reason="needs node and `npm ci`")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    folder = tmp_path_factory.mktemp("provider")
    with identity_provider.provider(folder, "https://mlflow.example.com") as running:
        yield running


@pytest.fixture
def site(provider: OidcProvider, tmp_path: Path) -> Site:
    return Site(settings_for(provider.issuer, tmp_path))


def signed_in(issuer: str, *groups: str, email: str = "ada@example.com") -> Claims:
    return Claims(issuer, "ada", email, True, "Ada", groups, user=email)


# Whose token it is


def test_a_persons_access_token_is_a_credential(site: Site, provider: OidcProvider) -> None:
    token = provider.device_tokens(EDITOR)["access_token"]
    (outcome,) = site.outcomes(token)
    assert isinstance(outcome, Verified)
    found = identity(outcome)
    assert (found.user, found.role, found.method) == ("bob@example.com", Role.EDITOR, "jwt")
    assert (found.issuer, found.subject) == (provider.issuer, EDITOR)
    assert found.credential is not None
    assert found.credential.id == hashlib.sha256(token.encode()).hexdigest()[:16]
    assert (found.credential.name, found.credential.read_only) == (NATIVE, False)
    assert found.credential.expires == outcome.until
    assert time.time() + 250 < outcome.until <= time.time() + 300
    assert site.counted == ["success"]


def test_a_program_is_a_client_and_no_person(site: Site, provider: OidcProvider) -> None:
    found = site.accepted(provider.machine_token())
    assert (found.user, found.role) == (f"client:{MACHINE}", Role.EDITOR)
    assert (found.issuer, found.subject) == (provider.issuer, MACHINE)
    assert found.credential is not None
    assert found.credential.name == MACHINE
    assert site.vouched == []


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "ci@clients", "azp": "ci", "client_id": None, "gty": "client-credentials"},  # Auth0
        {"sub": "4a6b", "appid": "ci", "client_id": None, "idtyp": "app", "scope": None},  # Entra ID
        {
            "sub": "4a6b",
            "azp": "ci",
            "client_id": "ci",
            "preferred_username": "service-account-ci",
        },  # Keycloak
        {"sub": "ci", "cid": "ci", "client_id": None, "scp": ["mlflow"], "scope": None},  # Okta
    ],
)
def test_a_client_is_known_as_providers_write_it(
    site: Site, provider: OidcProvider, claims: dict[str, str | None]
) -> None:
    token = provider.sign(claims_for(provider.issuer, email=None, **claims))
    assert site.accepted(token).user == "client:ci"


def test_a_person_who_looks_like_a_client_stays_a_person(site: Site, provider: OidcProvider) -> None:
    for claims in (
        {"client_id": "ci", "azp": "ci", "preferred_username": "service-account-ci"},
        {"client_id": None, "azp": "ci", "preferred_username": "service-account-ci", "email": None},
        {"client_id": "ci", "sid": "1", "preferred_username": "service-account-ci", "email": None},
    ):
        user = site.accepted(provider.sign(claims_for(provider.issuer, **claims))).user
        assert user in ("ada@example.com", "ada")
        site.counted.clear()


def test_a_client_that_no_group_lets_in_has_the_default_role(provider: OidcProvider, tmp_path: Path) -> None:
    token = provider.sign(claims_for(provider.issuer, sub="ci", client_id="ci", groups=None))

    def site(**more: object) -> Site:
        return Site(settings_for(provider.issuer, tmp_path, **more))

    assert site().refused(token).reason == "not_admitted"
    assert site(default_role=Role.VIEWER).accepted(token).role is Role.VIEWER
    # Where addresses say who gets in, a client has none: a group has to let it in.
    named = {"default_role": Role.VIEWER, "allowed_email_domains": ("example.com",)}
    said = site(**named).refused(token)
    assert said.message.startswith("The token is ci's own, and no group of it (claim groups) gives it a role")
    in_group = provider.sign(claims_for(provider.issuer, sub="ci", client_id="ci"))
    assert site(**named).accepted(in_group).role is Role.EDITOR
    assert site(default_role=Role.VIEWER, allowed_groups=("ml",)).refused(in_group).reason == "not_admitted"
    assert site(allowed_groups=("editors",)).accepted(in_group).role is Role.EDITOR


def test_who_gets_in_is_what_it_is_at_sign_in(provider: OidcProvider, tmp_path: Path, site: Site) -> None:
    token = provider.device_tokens(STRANGER)["access_token"]
    said = site.refused(token)
    assert said.reason == "not_admitted"
    assert "none of your groups gives you a role here" in said.message
    elsewhere = Site(settings_for(provider.issuer, tmp_path, allowed_email_domains=("other.example",)))
    said = elsewhere.refused(provider.device_tokens(EDITOR)["access_token"])
    assert said.message == "bob@example.com is not among those who get in here."


@pytest.mark.parametrize("name", ["service:nightly", "client:ci", "cluster:a/b", "mlflow-jobs"])
def test_a_person_has_no_programs_name(provider: OidcProvider, tmp_path: Path, name: str) -> None:
    settings = settings_for(provider.issuer, tmp_path, oauth_user_claim="preferred_username")
    cluster = JwtIssuer("cluster", "https://k8s.example.com", ("x",), role=Role.VIEWER)
    token = provider.sign(claims_for(provider.issuer, preferred_username=name))
    said = Site(settings, (cluster,)).refused(token)
    assert said.message == f"The user name {name!r} begins as those of programs do."


# What a token lacks


def test_what_a_token_lacks_comes_from_the_last_sign_in(provider: OidcProvider, tmp_path: Path) -> None:
    asked = []

    async def people(issuer: str, subject: str) -> Claims | None:
        asked.append((issuer, subject))
        return signed_in(issuer, "admins")

    site = Site(settings_for(provider.issuer, tmp_path), people=people)
    bare = {"email": None, "email_verified": None, "groups": None}
    (outcome,) = site.outcomes(provider.sign(claims_for(provider.issuer, **bare)))
    assert isinstance(outcome, Verified)
    found = identity(outcome)
    assert (found.user, found.role) == ("ada@example.com", Role.ADMIN)
    assert asked == [(provider.issuer, "ada")]
    # That can change at the next sign-in, so it is looked up again long before the token ends.
    assert outcome.until <= time.time() + jwts.ASKED_AGAIN
    assert site.vouched == []


def test_what_a_token_says_itself_counts_before_the_last_sign_in(
    provider: OidcProvider, tmp_path: Path
) -> None:
    async def people(issuer: str, subject: str) -> Claims | None:
        return signed_in(issuer, "admins", email="old@example.com")

    settings = settings_for(provider.issuer, tmp_path, groups_claim="realm_access.roles")
    site = Site(settings, people=people)
    token = provider.sign(
        claims_for(provider.issuer, email=None, groups=None, realm_access={"roles": ["viewers"]})
    )
    found = site.accepted(token)
    assert (found.user, found.role) == ("old@example.com", Role.VIEWER)


def test_an_address_is_not_verified_by_a_sign_in_with_another(provider: OidcProvider, tmp_path: Path) -> None:
    async def people(issuer: str, subject: str) -> Claims | None:
        return signed_in(issuer, "editors", email="ada@example.com")

    site = Site(settings_for(provider.issuer, tmp_path), people=people)
    other, same = (
        provider.sign(claims_for(provider.issuer, email=email, email_verified=None))
        for email in ("admin@example.com", "ada@example.com")
    )
    assert [identity(found).user for found in site.outcomes(other, same)] == ["ada", "ada@example.com"]


def test_a_stranger_with_a_bare_token_is_told_to_sign_in_once(provider: OidcProvider, tmp_path: Path) -> None:
    bare = provider.sign(claims_for(provider.issuer, email=None, email_verified=None, groups=None))
    said = Site(settings_for(provider.issuer, tmp_path)).refused(bare)
    assert said.reason == "not_admitted"
    assert said.message.endswith("what it lacks is taken from your last sign-in here with a browser.")
    named = Site(settings_for(provider.issuer, tmp_path, oauth_user_claim="upn"))
    assert "does not say your user name (upn)" in named.refused(bare).message


def test_a_token_that_lacks_nothing_is_noted_as_a_sign_in_is(site: Site, provider: OidcProvider) -> None:
    site.accepted(provider.device_tokens(VIEWER)["access_token"])
    ((claims, at),) = site.vouched
    assert (claims.issuer, claims.subject, claims.user) == (provider.issuer, VIEWER, "alice@example.com")
    assert claims.groups == ("viewers", "everybody")
    assert time.time() - 30 < at <= time.time()


def test_without_the_database_it_is_said_that_it_is_the_database(
    provider: OidcProvider, tmp_path: Path
) -> None:
    async def people(issuer: str, subject: str) -> Claims | None:
        raise StoreUnavailable("away")

    site = Site(settings_for(provider.issuer, tmp_path), people=people)
    bare = provider.sign(claims_for(provider.issuer, groups=None))
    whole = provider.sign(claims_for(provider.issuer))
    said, found = site.outcomes(bare, whole)
    assert (refusal(said).reason, refusal(said).retry_after) == ("no_database", 5)
    assert identity(found).role is Role.EDITOR
    assert site.counted == ["unavailable", "success"]


# Times


def test_an_expired_token_is_told_when_it_expired_and_what_gives_a_new_one(
    site: Site, provider: OidcProvider
) -> None:
    said = site.refused(provider.sign(claims_for(provider.issuer, exp=1_700_000_000)))
    assert said.reason == "unauthenticated"
    assert said.message == (
        "This token has expired on 2023-11-14 22:13:20 UTC. Run `mlflow-proxy login "
        "https://mlflow.example.com`, or make a token at https://mlflow.example.com/-/account."
    )
    assert not isinstance(said, Wrong)  # nobody is locked out for a credential that was right
    assert site.counted == ["expired"]


def test_a_token_counts_to_its_last_second(site: Site, provider: OidcProvider) -> None:
    ends = int(time.time()) + 2

    def late() -> str:
        time.sleep(max(0.0, ends - time.time()))
        return token

    token = provider.sign(claims_for(provider.issuer, exp=ends))
    first, second = site.outcomes(token, late)
    assert isinstance(first, Verified)
    assert first.until == ends
    assert "has expired on" in refusal(second).message


def test_a_clock_that_is_a_little_ahead_is_forgiven(site: Site, provider: OidcProvider) -> None:
    now = int(time.time())
    ahead = provider.sign(claims_for(provider.issuer, iat=now + 30, nbf=now + 30))
    assert site.accepted(ahead).user == "ada@example.com"


def test_a_long_token_is_verified_again_within_the_hour(site: Site, provider: OidcProvider) -> None:
    (outcome,) = site.outcomes(provider.sign(claims_for(provider.issuer, exp=int(time.time()) + 86400)))
    assert isinstance(outcome, Verified)
    assert outcome.until <= time.time() + 3600


# Keys


def test_keys_rotate_without_a_restart(
    site: Site, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "PACE", 0.0)
    old = provider.machine_token()

    def rotated() -> str:
        provider.rotate_keys()
        return provider.machine_token()

    outcomes = site.outcomes(old, rotated, old)
    assert {identity(outcome).user for outcome in outcomes} == {f"client:{MACHINE}"}


def test_a_withdrawn_key_counts_no_more(
    site: Site, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "PACE", 0.0)
    monkeypatch.setattr(keys, "OLD", 0.0)
    old = provider.sign(claims_for(provider.issuer, iat=int(time.time()) - 200))

    def withdrawn() -> str:
        provider.rotate_keys(keep=False)
        return old

    first, second = site.outcomes(old, withdrawn)
    assert identity(first).user == "ada@example.com"
    assert "a key that is not among its issuer's published ones" in refusal(second).message


def test_a_key_newer_than_our_last_question_is_worth_another_try(site: Site, provider: OidcProvider) -> None:
    def rotated() -> str:
        provider.rotate_keys()
        return provider.machine_token()

    _, said = site.outcomes(provider.machine_token, rotated)
    assert refusal(said).reason == "provider_failed"
    assert 0 < (refusal(said).retry_after or 0) <= keys.PACE
    assert site.counted == ["success", "unavailable"]


def test_tokens_count_while_the_provider_is_away(site: Site, provider: OidcProvider) -> None:
    def away() -> str:
        token = provider.machine_token()
        provider.set_down("/")
        return token

    try:
        outcomes = site.outcomes(provider.machine_token, away)
        assert identity(outcomes[1]).user == f"client:{MACHINE}"
        site.counted.clear()
        said = site.refused(provider.sign(claims_for(provider.issuer)))  # no key is known after a start
    finally:
        provider.set_down("")
    assert (said.reason, said.retry_after) == ("provider_failed", 5)
    assert "Try again in a moment" in said.message


# Other tokens of the same provider


def test_an_id_token_is_not_an_access_token(site: Site, provider: OidcProvider) -> None:
    given = provider.device_tokens(EDITOR)
    said = site.refused(given["id_token"])
    assert said.message.startswith(f"This token is for '{NATIVE}' (aud), not for '{AUDIENCE}'.")
    site.counted.clear()
    assert isinstance(site.refused(given["refresh_token"]), Wrong)


def test_a_token_for_another_service_is_told_whose_it_would_have_to_be(
    site: Site, provider: OidcProvider
) -> None:
    said = site.refused(provider.machine_token(OTHER_AUDIENCE))
    assert said.message == (
        f"This token is for '{OTHER_AUDIENCE}' (aud), not for '{AUDIENCE}'. Run `mlflow-proxy login "
        "https://mlflow.example.com`, or make a token at https://mlflow.example.com/-/account."
    )
    assert not isinstance(said, Wrong)


def test_a_token_of_another_issuer_is_told_so(site: Site, provider: OidcProvider) -> None:
    said = site.refused(provider.sign(claims_for("https://elsewhere.example.com")))
    assert said.message.startswith("Tokens of the issuer 'https://elsewhere.example.com' do not count here.")


def test_a_token_that_never_ends_does_not_count(site: Site, provider: OidcProvider) -> None:
    said = site.refused(provider.sign(claims_for(provider.issuer, exp=None)))
    assert "does not say when it ends (exp)" in said.message
