"""Identity tokens that are not the provider's, not for us, or not for this sign-in: none of them lets in."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fake_provider import CLIENT_ID, SUBJECT, Provider, b64
from sign_in_service import Browser, SignInService, serving, settings_for


def refused(browser: Browser, service: SignInService, why: str = "", reason: str = "bad_token") -> None:
    """A sign-in that fails for that reason, with a page that says so and no session."""
    answer = browser.sign_in(service)
    assert answer.status in (400, 403, 502), answer.text
    assert service.results()[-1] == reason
    assert why in answer.text.replace("&#39;", "'").replace("&#34;", '"')
    assert browser.who(service) is None


def test_without_an_attack_the_same_sign_in_succeeds(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    for how in ("RS256", "ES256"):
        provider.habits(sign=how)
        assert browser.sign_in(service).status == 303


# ------------------------------------------------------------------ algorithms


@pytest.mark.parametrize(
    "name",
    ["none", "None", "NONE", "nOnE", "none ", " none", "no\u0000ne", "", None, 0, [], ["none"]],
)
@pytest.mark.parametrize("how", ["unsigned", "RS256"])
def test_alg_none_in_any_spelling(
    provider: Provider, service: SignInService, browser: Browser, name: Any, how: str
) -> None:
    provider.habits(sign=how, header={"alg": name}, claims={"at_hash": None})
    refused(browser, service)


@pytest.mark.parametrize("signature", ["", "AA", "."])
def test_alg_none_written_as_an_unsecured_token(
    provider: Provider, service: SignInService, browser: Browser, signature: str
) -> None:
    now = int(time.time())
    claims = {"iss": provider.issuer, "aud": CLIENT_ID, "sub": SUBJECT, "iat": now, "exp": now + 60}
    parts = [b64(json.dumps(part).encode()) for part in ({"alg": "none"}, claims)]
    provider.habits(id_token=f"{'.'.join(parts)}.{signature}")
    refused(browser, service)


@pytest.mark.parametrize("how", ["hmac-public-pem", "hmac-public-der", "hmac-public-jwk"])
@pytest.mark.parametrize("name", ["HS256", "hs256", "HS384", "RS256", "RSA256"])
def test_hs256_signed_with_the_public_key(
    provider: Provider, service: SignInService, browser: Browser, how: str, name: str
) -> None:
    provider.habits(sign=how, header={"alg": name}, claims={"at_hash": None})
    refused(browser, service)


def test_hs256_signed_with_an_empty_key(provider: Provider, service: SignInService, browser: Browser) -> None:
    provider.habits(sign="hmac-empty", claims={"at_hash": None})
    refused(browser, service)


def test_hs256_signed_with_the_clients_secret(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    provider.habits(sign="hmac-secret", claims={"at_hash": None})
    refused(browser, service)


@pytest.mark.parametrize(
    "name", ["RS384", "PS256", "ES256", "ES256K", "EdDSA", "ES512", "RS1", "dir", "RS256\n"]
)
def test_another_algorithm_than_the_one_it_was_signed_with(
    provider: Provider, service: SignInService, browser: Browser, name: str
) -> None:
    provider.habits(header={"alg": name})
    refused(browser, service)


# ------------------------------------------------------------------ keys


def test_a_key_that_the_provider_does_not_publish(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    provider.habits(sign="foreign")
    refused(browser, service)


@pytest.mark.parametrize(
    "kid", ["unknown", "", "../../dev/null", "ec", "rsa-1' or '1'='1", "x" * 3000, 7, {}, []]
)
def test_a_key_id_that_is_none_of_the_providers(
    provider: Provider, service: SignInService, browser: Browser, kid: Any
) -> None:
    provider.habits(sign="foreign", header={"kid": kid})
    refused(browser, service)


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
@pytest.mark.parametrize("how", ["foreign", "RS256"])
def test_a_key_or_the_way_to_one_in_the_tokens_own_header(
    provider: Provider, service: SignInService, browser: Browser, name: str, how: str
) -> None:
    own = {
        "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        "jku": f"{provider.issuer}/own-keys",
        "x5u": f"{provider.issuer}/own-keys",
        "x5c": ["AAAA"],
    }
    provider.habits(sign=how, header={name: own[name]})
    refused(browser, service, f"header has '{name}'")
    assert not provider.seen("own-keys")


@pytest.mark.parametrize("value", [["exp"], ["b64"], [], "exp", None])
def test_a_critical_header_that_nobody_here_understands(
    provider: Provider, service: SignInService, browser: Browser, value: Any
) -> None:
    if value is None:
        provider.habits(header={"b64": False})
    else:
        provider.habits(header={"crit": value, "exp": 1, "b64": False})
    refused(browser, service)


def test_a_flood_of_unknown_keys_does_not_become_a_flood_of_fetches(
    provider: Provider, service: SignInService
) -> None:
    Browser().sign_in(service)
    before = len(provider.seen("keys"))
    for number in range(15):
        provider.habits(sign="foreign", header={"kid": f"made-up-{number}"})
        refused(Browser(), service)
    assert len(provider.seen("keys")) - before <= 1


def test_a_symmetric_or_short_key_in_the_key_set_is_never_used(
    provider: Provider, tmp_path: Any, browser: Browser
) -> None:
    secret = {"kty": "oct", "kid": "rsa-1", "k": b64(b"x" * 32), "alg": "RS256"}
    short = {"kty": "RSA", "kid": "rsa-1", "n": b64(b"\xff" * 64), "e": "AQAB"}
    provider.habits(jwks={"keys": [secret, short, {"kty": "RSA", "kid": "rsa-1"}, "rsa-1", None]})
    with serving(settings_for(provider.issuer, tmp_path)) as fresh:
        refused(browser, fresh, "no public key", reason="bad_answer")


# ------------------------------------------------------------------ the token itself


@pytest.mark.parametrize("how", ["truncated", "other-payload"])
def test_a_token_that_was_changed_on_the_way(
    provider: Provider, service: SignInService, browser: Browser, how: str
) -> None:
    provider.habits(sign=how)
    refused(browser, service)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b.c.d.e",
        "e30.e30.",
        "e30.e30.e30",
        7,
        [],
        {},
        True,
        "\u0000",
        "eyJ.é.x",
    ],
    ids=repr,
)
def test_what_is_no_token_at_all(
    provider: Provider, service: SignInService, browser: Browser, token: Any
) -> None:
    provider.habits(token_extra={"id_token": token})
    refused(browser, service)


def test_a_header_that_is_nested_without_end(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 60000).rstrip(b"=").decode()
    provider.habits(id_token=f"{deep}.e30.AAAA")
    refused(browser, service)


def test_an_encrypted_token_is_not_opened(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    header = b64(json.dumps({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "rsa-1"}).encode())
    provider.habits(id_token=f"{header}.AAAA.AAAA.AAAA.AAAA")
    refused(browser, service)


def test_no_identity_token_though_openid_was_asked_for(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    provider.habits(leave_out_id_token=True)
    refused(browser, service)


@pytest.mark.parametrize(
    "kind", ["at+jwt", "logout+jwt", "application/at+jwt", "dpop+jwt", "secevent+jwt", 7]
)
def test_a_token_of_another_kind(
    provider: Provider, service: SignInService, browser: Browser, kind: Any
) -> None:
    provider.habits(header={"typ": kind})
    refused(browser, service)


def test_a_logout_token_in_place_of_an_identity_token(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    provider.habits(claims={"events": {"http://schemas.openid.net/event/backchannel-logout": {}}})
    refused(browser, service)


# ------------------------------------------------------------------ issuer


@pytest.mark.parametrize(
    "change",
    [
        lambda issuer: f"{issuer}/",
        lambda issuer: issuer.replace("http:", "https:"),
        lambda issuer: issuer.upper(),
        lambda issuer: issuer.replace("127.0.0.1", "localhost"),
        lambda issuer: issuer.replace("team", "te\u0430m"),  # Cyrillic
        lambda issuer: f"{issuer}\u200b",
        lambda issuer: f"{issuer}?x",
        lambda issuer: f"{issuer}.evil.example",
        lambda issuer: issuer.rpartition("/")[0],
        lambda issuer: "",
        lambda issuer: None,
        lambda issuer: [issuer],
        lambda issuer: {"value": issuer},
    ],
)
def test_a_wrong_or_look_alike_issuer(
    provider: Provider, service: SignInService, browser: Browser, change: Any
) -> None:
    provider.habits(claims={"iss": change(provider.issuer)})
    refused(browser, service)


# ------------------------------------------------------------------ audience


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another-client"},
        {"aud": ["another-client"]},
        {"aud": []},
        {"aud": ""},
        {"aud": None},
        {"aud": "MLFLOW"},
        {"aud": "mlflow "},
        {"aud": {"mlflow": 1}},
        {"aud": ["another-client", "third"], "azp": CLIENT_ID},
        {"aud": ["another-client"], "azp": CLIENT_ID},
    ],
    ids=str,
)
def test_a_token_for_another_client(
    provider: Provider, service: SignInService, browser: Browser, claims: dict[str, Any]
) -> None:
    provider.habits(claims=claims)
    refused(browser, service)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [CLIENT_ID, "another-client"]},
        {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
        {"azp": "another-client"},
        {"azp": [CLIENT_ID]},
        {"azp": f"{CLIENT_ID} "},
    ],
    ids=str,
)
def test_a_token_that_another_client_holds(
    provider: Provider, service: SignInService, browser: Browser, claims: dict[str, Any]
) -> None:
    provider.habits(claims=claims)
    refused(browser, service)


def test_several_audiences_of_which_we_are_the_holder_are_let_in(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    provider.habits(claims={"aud": [CLIENT_ID, "another-client"], "azp": CLIENT_ID})
    assert browser.sign_in(service).status == 303


# ------------------------------------------------------------------ nonce, at_hash, subject


@pytest.mark.parametrize("nonce", [None, "", "another", 7, [], {}, True])
def test_a_nonce_that_is_absent_or_wrong(
    provider: Provider, service: SignInService, browser: Browser, nonce: Any
) -> None:
    provider.habits(claims={"nonce": nonce})
    refused(browser, service)


def test_a_token_of_another_sign_in_of_the_same_person(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    now = int(time.time())
    old = {
        "iss": provider.issuer,
        "aud": CLIENT_ID,
        "sub": SUBJECT,
        "iat": now,
        "exp": now + 60,
        "nonce": "of then",
    }
    provider.habits(id_token=provider.sign(old))
    refused(browser, service)


@pytest.mark.parametrize("value", ["AAAA", "x" * 22, 7, ["a"]])
def test_an_access_token_that_the_identity_token_does_not_belong_to(
    provider: Provider, service: SignInService, browser: Browser, value: Any
) -> None:
    provider.habits(claims={"at_hash": value})
    refused(browser, service)


@pytest.mark.parametrize("subject", [None, "", 7, [], "x" * 300, "a\nb", "a\u202eb"])
def test_a_subject_that_names_nobody(
    provider: Provider, service: SignInService, browser: Browser, subject: Any
) -> None:
    # With an address and groups in it, so that user-info, which names another subject, is not asked.
    provider.habits(claims={"sub": subject, "email": "ada@example.com", "groups": ["ml"]})
    refused(browser, service)


def test_user_info_about_somebody_else(provider: Provider, service: SignInService, browser: Browser) -> None:
    provider.habits(userinfo={"sub": "somebody else", "email": "root@example.com", "email_verified": True})
    refused(browser, service)


# ------------------------------------------------------------------ time


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": -61},
        {"exp": None},
        {"iat": 63},
        {"iat": None},
        {"nbf": 63},
    ],
    ids=str,
)
def test_beyond_the_bounds_of_clock_skew(
    provider: Provider, service: SignInService, browser: Browser, claims: dict[str, int | None]
) -> None:
    now = int(time.time())
    provider.habits(claims={name: None if off is None else now + off for name, off in claims.items()})
    refused(browser, service)


@pytest.mark.parametrize("claims", [{"exp": -50}, {"iat": 55}, {"nbf": 55}], ids=str)
def test_within_the_bounds_of_clock_skew(
    provider: Provider, service: SignInService, browser: Browser, claims: dict[str, int]
) -> None:
    now = int(time.time())
    provider.habits(claims={name: now + off for name, off in claims.items()})
    assert browser.sign_in(service).status == 303


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value",
    ["99999999999", True, [], {}, -1e400, float("nan")],
    ids=["text", "true", "list", "object", "inf", "nan"],
)
def test_times_that_are_no_numbers(
    provider: Provider, service: SignInService, browser: Browser, claim: str, value: Any
) -> None:
    provider.habits(claims={claim: value})
    refused(browser, service)


def test_a_number_without_end_is_refused_and_not_a_crash(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    provider.habits(claims={"iat": int("9" * 400)})
    refused(browser, service)


@pytest.mark.parametrize("kid", ["rsa-1", None])
def test_a_key_that_may_be_one_of_two(
    provider: Provider, tmp_path: Path, browser: Browser, kid: str | None
) -> None:
    """Whoever gets a second key of that name into the set must not have a token tried against both."""
    with urllib.request.urlopen(f"{provider.issuer}/keys", timeout=10) as answer:
        real = json.load(answer)["keys"][0]
    other = real | {"n": real["n"][:10] + "AAAA" + real["n"][14:]}
    provider.habits(jwks={"keys": [real, other]}, header={"kid": kid})
    with serving(settings_for(provider.issuer, tmp_path)) as fresh:
        refused(browser, fresh)
    provider.habits(jwks={"keys": [real]}, header={"kid": kid})
    with serving(settings_for(provider.issuer, tmp_path)) as fresh:
        assert browser.sign_in(fresh).status == 303
