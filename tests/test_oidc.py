"""The provider, asked directly: what is made of its answers, and what when it is slow, down or wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import fake_provider
import pytest
from fake_provider import CLIENT_ID, CLIENT_SECRET, SUBJECT
from sign_in_service import Browser, settings_for

from proxy.auth.oidc import (
    RESULTS,
    Provider,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    SignedIn,
    Tokens,
    endpoints,
    http,
    keys,
)
from proxy.settings import Settings

T = TypeVar("T")
BACK = "http://127.0.0.1/oauth2/callback"
KEYS = [b"k" * 32]


@pytest.fixture(scope="module")
def one_provider() -> Iterator[fake_provider.Provider]:
    with fake_provider.running() as running:
        yield running


@pytest.fixture
def fake(one_provider: fake_provider.Provider) -> fake_provider.Provider:
    one_provider.habits()
    return one_provider


def with_provider(settings: Settings, body: Callable[[Provider], Awaitable[T]]) -> tuple[T, list[str]]:
    """Run `body` with a provider; what it returns, and what was counted."""
    counted: list[str] = []

    async def run() -> T:
        provider = Provider(settings, KEYS, lambda _, result: counted.append(result))
        try:
            return await body(provider)
        finally:
            await provider.aclose()

    result = asyncio.run(run())
    assert set(counted) <= RESULTS
    return result, counted


async def sign_in(provider: Provider) -> SignedIn:
    begun = await provider.authorization("/x", BACK)
    answer = await asyncio.to_thread(lambda: Browser().get(begun.url).location)
    params = {name: values[0] for name, values in parse_qs(urlsplit(answer).query).items()}
    return await provider.exchange(params, begun.cookie, BACK)


def failure(settings: Settings, body: Callable[[Provider], Awaitable[Any]] = sign_in) -> ProviderError:
    """The error that it ends with."""

    async def fails(provider: Provider) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await body(provider)
        return caught.value

    return with_provider(settings, fails)[0]


def test_claims_come_from_the_token_and_what_it_lacks_from_user_info(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(claims={"name": "Ada Lovelace", "groups": ["from-token"]})
    signed_in, _ = with_provider(settings_for(fake.issuer, tmp_path), sign_in)
    claims = signed_in.claims
    assert (claims.issuer, claims.subject, claims.sid) == (fake.issuer, SUBJECT, "provider-session-1")
    assert (claims.email, claims.email_verified, claims.name) == ("ada@example.com", True, "Ada Lovelace")
    assert claims.groups == ("from-token",)
    assert claims.user == "ada@example.com"
    assert signed_in.rd == "/x"
    assert signed_in.tokens.refresh_token
    assert signed_in.tokens.id_token
    assert (signed_in.tokens.expires or 0) > time.time() + 3000


def test_user_info_is_not_asked_where_the_token_says_everything(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    before = len(fake.seen("userinfo"))
    fake.habits(claims={"email": "ada@example.com", "email_verified": True, "groups": []})
    signed_in, _ = with_provider(settings_for(fake.issuer, tmp_path), sign_in)
    assert signed_in.claims.email_verified
    assert len(fake.seen("userinfo")) == before


def test_secrets_are_not_shown_by_what_holds_them(fake: fake_provider.Provider, tmp_path: Path) -> None:
    signed_in, _ = with_provider(settings_for(fake.issuer, tmp_path), sign_in)
    for secret in (signed_in.tokens.refresh_token, signed_in.tokens.id_token, signed_in.tokens.access_token):
        assert secret not in repr(signed_in)


@pytest.mark.parametrize(
    "methods", [None, ["client_secret_basic"], ["private_key_jwt", "client_secret_post"]]
)
def test_the_client_is_known_by_a_method_that_the_provider_has(
    fake: fake_provider.Provider, tmp_path: Path, methods: list[str] | None
) -> None:
    fake.habits(discovery={"token_endpoint_auth_methods_supported": methods})
    with_provider(settings_for(fake.issuer, tmp_path), sign_in)
    seen = fake.seen("token")[-1]
    posted = methods is not None and "client_secret_post" in methods
    assert ("client_secret" in seen["form"]) is posted
    assert ("Authorization" in seen["headers"]) is not posted


def test_the_discovery_document_and_the_keys_are_fetched_once_for_many_sign_ins(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    async def many(provider: Provider) -> None:
        await asyncio.gather(*(sign_in(provider) for _ in range(8)))

    before = [len(fake.seen(name)) for name in (".well-known/openid-configuration", "keys")]
    with_provider(settings_for(fake.issuer, tmp_path), many)
    after = [len(fake.seen(name)) for name in (".well-known/openid-configuration", "keys")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]


def test_a_key_that_is_new_is_fetched_and_believed(
    fake: fake_provider.Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "PACE", 0.0)

    async def rotated(provider: Provider) -> SignedIn:
        await sign_in(provider)
        await asyncio.to_thread(fake.rotate)
        return await sign_in(provider)

    signed_in, _ = with_provider(settings_for(fake.issuer, tmp_path), rotated)
    assert signed_in.claims.subject == SUBJECT


def test_keys_that_were_fetched_count_while_the_provider_is_down(
    fake: fake_provider.Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "OLD", 0.0)
    monkeypatch.setattr(keys, "PACE", 0.0)

    async def down(provider: Provider) -> SignedIn:
        await sign_in(provider)
        broken = {"status": 500, "body": "no"}
        answers = {"keys": broken, ".well-known/openid-configuration": broken}
        await asyncio.to_thread(lambda: fake.habits(answers=answers))
        return await sign_in(provider)

    signed_in, _ = with_provider(settings_for(fake.issuer, tmp_path), down)
    assert signed_in.claims.subject == SUBJECT


def test_a_provider_that_was_down_at_start_is_found_when_it_is_back(
    fake: fake_provider.Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "PACE", 0.0)

    async def back(provider: Provider) -> SignedIn:
        await asyncio.to_thread(
            lambda: fake.habits(answers={".well-known/openid-configuration": {"status": 503}})
        )
        await provider.warm()
        assert "503" in (provider.problem or "")
        await asyncio.to_thread(fake.habits)
        signed_in = await sign_in(provider)
        assert provider.problem is None
        return signed_in

    with_provider(settings_for(fake.issuer, tmp_path), back)


def test_a_provider_that_is_down_is_not_asked_at_every_request(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(answers={".well-known/openid-configuration": {"status": 503}})
    before = len(fake.seen(".well-known/openid-configuration"))

    async def many(provider: Provider) -> None:
        for _ in range(20):
            with pytest.raises(ProviderUnavailable):
                await provider.authorization("/", BACK)

    with_provider(settings_for(fake.issuer, tmp_path), many)
    assert len(fake.seen(".well-known/openid-configuration")) - before == 1


# ------------------------------------------------------------------ answers that are wrong

DISCOVERY = ".well-known/openid-configuration"
ODD = [
    {"status": 404, "body": "{}"},
    {"status": 302, "headers": {"Location": "{origin}/elsewhere"}, "body": "{}"},
    {"status": 301, "headers": {"Location": "http://169.254.169.254/"}, "body": "{}"},
    {"body": "<html>"},
    {"body": "[]"},
    {"body": "null"},
    {"body": '"text"'},
    {"body": "[" * 100_000},
    {"body": "9" * 100_000},
    {"body": '{"a":' * 50_000},
    {"size": http.LIMIT + 1},
    {"size": 30_000_000},
    {"size": http.LIMIT + 1, "unsaid": True},
    {"body": "x", "headers": {"Content-Encoding": "gzip"}},
    {"body": "x", "headers": {"Content-Encoding": "br"}},
    {"body": "\udcff".encode("utf-8", "surrogatepass").decode("latin-1")},
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:60])
@pytest.mark.parametrize("endpoint", [DISCOVERY, "keys", "token", "userinfo"])
def test_an_answer_that_is_odd_or_oversize_is_a_failure_that_says_which(
    fake: fake_provider.Provider, tmp_path: Path, endpoint: str, odd: dict[str, Any]
) -> None:
    odd = dict(odd)
    if "headers" in odd:
        odd["headers"] = {k: v.replace("{origin}", fake.issuer) for k, v in odd["headers"].items()}
    fake.habits(answers={endpoint: odd})
    error = failure(settings_for(fake.issuer, tmp_path))
    assert error.reason == "bad_answer"
    assert isinstance(error, ProviderUnavailable)
    why = {"size": "is over", "headers": "compressed"}
    if odd.get("status", 200) in (301, 302):
        why["headers"] = "redirect"
    for name, words in why.items():
        assert name not in odd or words in error.check
    assert error.check
    assert not fake.seen("elsewhere")  # a redirect is not followed


@pytest.mark.parametrize("endpoint", [DISCOVERY, "keys", "token", "userinfo"])
def test_an_answer_that_is_packed_is_not_unpacked(
    fake: fake_provider.Provider, tmp_path: Path, endpoint: str
) -> None:
    """50 MB come in 50 KB."""
    fake.habits(answers={endpoint: {"gzip": 50_000_000, "headers": {"Content-Encoding": "gzip"}}})
    error = failure(settings_for(fake.issuer, tmp_path))
    assert error.reason == "bad_answer"
    assert "compressed" in error.check


@pytest.mark.parametrize("endpoint", [DISCOVERY, "keys", "token", "userinfo"])
def test_a_provider_that_is_slow_or_drips_is_given_up(
    fake: fake_provider.Provider, tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_DEADLINE", 1.0)
    for how in ({"wait": 4, "body": "{}"}, {"drip": 0.2, "body": " " * 100}):
        fake.habits(answers={endpoint: how})
        began = time.monotonic()
        error = failure(settings_for(fake.issuer, tmp_path))
        assert error.reason == "unavailable"
        assert time.monotonic() - began < 3.5


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("endpoint", [DISCOVERY, "keys", "token", "userinfo"])
def test_a_provider_that_is_out_of_order_is_unavailable(
    fake: fake_provider.Provider, tmp_path: Path, endpoint: str, status: int
) -> None:
    fake.habits(answers={endpoint: {"status": status, "body": "<html>busy</html>"}})
    error = failure(settings_for(fake.issuer, tmp_path))
    assert (error.reason, type(error)) == ("unavailable", ProviderUnavailable)
    assert endpoint in error.check


@pytest.mark.parametrize(
    "change",
    [
        lambda issuer: f"{issuer}/",
        lambda issuer: issuer.replace("http:", "https:"),
        lambda issuer: issuer.replace("team", "TEAM"),
        lambda issuer: issuer.replace("team", "te\u0430m"),
        lambda issuer: "https://evil.example",
        lambda issuer: None,
        lambda issuer: [issuer],
    ],
)
def test_a_discovery_document_of_another_issuer_is_refused_and_named(
    fake: fake_provider.Provider, tmp_path: Path, change: Callable[[str], Any]
) -> None:
    fake.habits(discovery={"issuer": change(fake.issuer)})
    error = failure(settings_for(fake.issuer, tmp_path))
    assert error.reason == "misconfigured"
    assert "MLFLOW_UI_OAUTH_ISSUER_URL" in error.check


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "value",
    [None, "", 7, "/token", "http://login.example.com/x", "ftp://x/", "javascript:alert(1)", "https://",
     "https://user:password@login.example.com/", "https://login.example.com/#x",
     "https://[::1", "https://a b/"],
)  # fmt: skip
def test_an_endpoint_that_is_no_https_url_is_refused(
    fake: fake_provider.Provider, tmp_path: Path, name: str, value: Any
) -> None:
    fake.habits(discovery={name: value})
    assert name in failure(settings_for(fake.issuer, tmp_path)).check


@pytest.mark.parametrize("offered", [["HS256"], ["none"], ["HS256", "none", "RSA1"]])
def test_a_provider_that_signs_with_nothing_that_can_be_believed_is_refused(
    fake: fake_provider.Provider, tmp_path: Path, offered: list[str]
) -> None:
    fake.habits(discovery={"id_token_signing_alg_values_supported": offered})
    assert failure(settings_for(fake.issuer, tmp_path)).reason == "misconfigured"


def test_an_algorithm_that_the_provider_does_not_announce_is_refused(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(sign="ES256", discovery={"id_token_signing_alg_values_supported": ["RS256"]})
    assert failure(settings_for(fake.issuer, tmp_path)).reason == "bad_token"


def test_a_secret_that_is_wrong_names_the_setting_and_not_the_secret(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    error = failure(settings_for(fake.issuer, tmp_path, oauth_client_secret="wrong-secret-here"))
    assert error.reason == "misconfigured"
    assert "MLFLOW_UI_OAUTH_CLIENT_SECRET" in str(error)
    assert "wrong-secret-here" not in str(error)


@pytest.mark.parametrize("kind", ["mac", "DPoP", 7, None])
def test_a_token_that_is_no_bearer_token_is_refused(
    fake: fake_provider.Provider, tmp_path: Path, kind: Any
) -> None:
    fake.habits(token_extra={"token_type": kind})
    assert failure(settings_for(fake.issuer, tmp_path)).reason == "bad_answer"


@pytest.mark.parametrize("access", ["", None, 7, []])
def test_an_access_token_that_is_none_is_refused(
    fake: fake_provider.Provider, tmp_path: Path, access: Any
) -> None:
    fake.habits(token_extra={"access_token": access})
    assert failure(settings_for(fake.issuer, tmp_path)).reason == "bad_answer"


@pytest.mark.parametrize("lives", ["3600", "soon", -1, None, [], 10**30, True])
def test_a_lifetime_that_makes_no_sense_does_no_harm(
    fake: fake_provider.Provider, tmp_path: Path, lives: Any
) -> None:
    fake.habits(token_extra={"expires_in": lives})

    async def attempt(provider: Provider) -> str:
        try:
            await sign_in(provider)
        except ProviderUnavailable as error:
            return error.reason
        return "in"

    assert with_provider(settings_for(fake.issuer, tmp_path), attempt)[0] in ("in", "bad_answer")


# ------------------------------------------------------------------ refreshing a session


def refreshed(
    fake: fake_provider.Provider, settings: Settings, **habits: Any
) -> tuple[SignedIn, Any, Tokens]:
    async def run(provider: Provider) -> tuple[SignedIn, Any, Tokens]:
        signed_in = await sign_in(provider)
        await asyncio.to_thread(lambda: fake.habits(**habits))
        claims, new = await provider.refresh(signed_in.tokens, SUBJECT)
        return signed_in, claims, new

    return with_provider(settings, run)[0]


def test_a_refresh_brings_the_groups_of_now(fake: fake_provider.Provider, tmp_path: Path) -> None:
    before, claims, new = refreshed(
        fake, settings_for(fake.issuer, tmp_path), userinfo={"groups": ["other"], "email": "ada@example.com"}
    )
    assert before.claims.groups == ("ml", "staff")
    assert claims.groups == ("other",)
    assert new.refresh_token != before.tokens.refresh_token


def test_an_answer_without_a_new_refresh_token_keeps_the_old_one(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    before, claims, new = refreshed(fake, settings_for(fake.issuer, tmp_path), new_refresh_token=False)
    assert new.refresh_token == before.tokens.refresh_token
    assert claims is not None


def test_an_answer_without_an_identity_token_asks_user_info(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    before, claims, new = refreshed(
        fake,
        settings_for(fake.issuer, tmp_path),
        refresh_id_token=False,
        userinfo={"groups": ["from-user-info"]},
    )
    assert claims.groups == ("from-user-info",)
    assert claims.subject == SUBJECT
    assert new.id_token == before.tokens.id_token


def test_an_answer_that_says_nothing_of_the_person_changes_nothing(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(discovery={"userinfo_endpoint": None})
    _, claims, new = refreshed(
        fake,
        settings_for(fake.issuer, tmp_path),
        refresh_id_token=False,
        discovery={"userinfo_endpoint": None},
    )
    assert claims is None
    assert new.refresh_token


def test_a_new_refresh_token_is_kept_though_the_groups_can_not_be_asked_for(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    """The old one is spent: without the new one the session would end with the provider's next trouble."""
    before, claims, new = refreshed(
        fake, settings_for(fake.issuer, tmp_path), answers={"userinfo": {"status": 503}}
    )
    assert claims is None
    assert new.refresh_token != before.tokens.refresh_token


def test_a_provider_that_gives_no_refresh_token_is_not_asked(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(refresh_token=False)
    before, claims, new = refreshed(fake, settings_for(fake.issuer, tmp_path))
    assert (claims, new) == (None, before.tokens)


@pytest.mark.parametrize("error", ["invalid_grant", "access_denied", "interaction_required"])
def test_a_refresh_that_the_provider_refuses_ends_the_session(
    fake: fake_provider.Provider, tmp_path: Path, error: str
) -> None:
    with pytest.raises(ProviderRefused):
        refreshed(fake, settings_for(fake.issuer, tmp_path), refresh_error=error)


@pytest.mark.parametrize("error", ["invalid_client", "server_error", "temporarily_unavailable", "slow_down"])
def test_a_refresh_that_fails_for_another_reason_does_not(
    fake: fake_provider.Provider, tmp_path: Path, error: str
) -> None:
    with pytest.raises(ProviderUnavailable):
        refreshed(fake, settings_for(fake.issuer, tmp_path), refresh_error=error)


def test_a_refresh_that_speaks_of_somebody_else_ends_the_session(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    with pytest.raises(ProviderRefused):
        refreshed(
            fake,
            settings_for(fake.issuer, tmp_path),
            claims={"sub": "mallory"},
            userinfo={"sub": "mallory", "email": "mallory@example.com"},
        )
    with pytest.raises(ProviderRefused):
        refreshed(
            fake, settings_for(fake.issuer, tmp_path), refresh_id_token=False, userinfo={"sub": "mallory"}
        )


def test_a_refresh_with_a_forged_token_ends_the_session(fake: fake_provider.Provider, tmp_path: Path) -> None:
    with pytest.raises(ProviderRefused):
        refreshed(fake, settings_for(fake.issuer, tmp_path), sign="foreign")


# ------------------------------------------------------------------ plain OAuth2


def github(fake: fake_provider.Provider, directory: Path, **more: Any) -> Settings:
    return settings_for(
        "",
        directory,
        **{
            "oauth_issuer_url": None,
            "oauth_authorize_url": f"{fake.issuer}/authorize",
            "oauth_token_url": f"{fake.issuer}/token",
            "oauth_userinfo_url": f"{fake.issuer}/user",
            "oauth_scopes": "read:user user:email",
            "oauth_user_claim": "login",
        }
        | more,
    )


GITHUB: dict[str, Any] = {
    "userinfo": {"id": 583231, "login": "octocat", "name": "Mona", "email": "mona@example.com"},
    "leave_out_id_token": True,
    "refresh_token": False,
    "new_refresh_token": False,
    "expires_in": None,
}


def test_a_plain_oauth2_provider_lets_in_by_its_user_info(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    mails = [
        {"email": "other@example.com", "primary": False, "verified": True},
        {"email": "mona@example.org", "primary": True, "verified": True},
    ]
    fake.habits(**GITHUB, emails=mails)
    signed_in, _ = with_provider(github(fake, tmp_path), sign_in)
    claims = signed_in.claims
    assert (claims.issuer, claims.subject, claims.user) == (fake.origin, "583231", "octocat")
    assert (claims.email, claims.email_verified, claims.name) == ("mona@example.org", True, "Mona")
    asked = fake.seen("authorize")[-1]["query"]
    assert asked["code_challenge_method"] == "S256"
    assert "nonce" not in asked
    assert len(fake.seen("token")[-1]["form"]["code_verifier"]) >= 43


def test_a_plain_oauth2_providers_address_is_not_believed_unless_verified(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    for mails in (None, [], [{"email": "x@example.com", "primary": True, "verified": False}], "odd", [7]):
        fake.habits(**GITHUB, emails=mails)
        signed_in, _ = with_provider(github(fake, tmp_path), sign_in)
        assert not signed_in.claims.email_verified


@pytest.mark.parametrize(
    "user", [{}, {"id": None}, {"id": True}, {"id": []}, {"login": "octocat"}, {"id": ""}]
)
def test_a_plain_oauth2_provider_that_names_nobody_lets_nobody_in(
    fake: fake_provider.Provider, tmp_path: Path, user: dict[str, Any]
) -> None:
    fake.habits(**(GITHUB | {"userinfo": user}))
    assert failure(github(fake, tmp_path)).reason == "bad_answer"


def test_a_plain_oauth2_session_is_asked_about_with_its_access_token(
    fake: fake_provider.Provider, tmp_path: Path
) -> None:
    fake.habits(**GITHUB)

    async def run(provider: Provider) -> Any:
        signed_in = await sign_in(provider)
        changed = GITHUB["userinfo"] | {"groups": ["new"]}
        await asyncio.to_thread(lambda: fake.habits(**(GITHUB | {"userinfo": changed})))
        claims, kept = await provider.refresh(signed_in.tokens, "583231")
        assert kept.refresh_token == signed_in.tokens.refresh_token
        await asyncio.to_thread(lambda: fake.habits(answers={"user": {"status": 403, "body": "{}"}}))
        # 403 is GitHub's word for too many questions: it says nothing of the person.
        assert await provider.refresh(kept, "583231") == (None, kept)
        await asyncio.to_thread(lambda: fake.habits(answers={"user": {"status": 401, "body": "{}"}}))
        with pytest.raises(ProviderRefused):
            await provider.refresh(kept, "583231")
        return claims

    claims, _ = with_provider(github(fake, tmp_path), run)
    assert claims.groups == ("new",)


def test_a_plain_oauth2_provider_signs_nobody_out(fake: fake_provider.Provider, tmp_path: Path) -> None:
    error = failure(github(fake, tmp_path), lambda provider: provider.verify_logout_token("a.b.c"))
    assert error.reason == "bad_token"


def test_a_secret_with_odd_characters_arrives_as_it_is(fake: fake_provider.Provider, tmp_path: Path) -> None:
    assert set("+%/ '") <= set(CLIENT_SECRET)
    signed_in, _ = with_provider(settings_for(fake.issuer, tmp_path), sign_in)
    assert signed_in.claims.subject == SUBJECT
    assert CLIENT_ID == "mlflow"
