"""Tokens that look like a provider's: forged, borrowed from elsewhere, raised, or mere garbage."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_provider
import pytest
from fake_provider import Provider, Signer, b64
from jwt_site import AUDIENCE, Site, claims_for, exchange, identity, refusal, settings_for

from proxy.auth.jwt import Jwts, reading
from proxy.auth.oidc import keys
from proxy.auth.refusals import Refusal
from proxy.auth.verified import Verified, Wrong
from proxy.identity import Role
from proxy.settings.jwt_issuers import JwtIssuer

HEADER = b64(b'{"alg":"RS256","kid":"rsa-1"}')


@pytest.fixture(scope="module")
def one_provider() -> Iterator[Provider]:
    with fake_provider.running() as running:
        yield running


@pytest.fixture
def fake(one_provider: Provider) -> Provider:
    one_provider.habits()
    return one_provider


@pytest.fixture
def site(fake: Provider, tmp_path: Path) -> Site:
    return Site(settings_for(fake.issuer, tmp_path))


def guessed(outcome: Verified | Refusal) -> str:
    """The message of a refusal that counts as a wrong credential."""
    assert isinstance(outcome, Wrong), outcome
    return outcome.message


def test_a_good_token_is_the_measure_of_all_that_follows(fake: Provider, site: Site) -> None:
    good = claims_for(fake.issuer)
    tokens = fake.sign(good), fake.sign(good, "ES256"), fake.sign(good, typ="at+jwt")
    assert [identity(outcome).role for outcome in site.outcomes(*tokens)] == [Role.EDITOR] * 3


# Signatures


@pytest.mark.parametrize(
    "how",
    [
        "unsigned", "hmac-public-pem", "hmac-public-der", "hmac-public-jwk", "hmac-empty", "hmac-secret",
        "foreign", "truncated", "other-payload",
    ],
)  # fmt: skip
def test_a_signature_that_is_not_the_providers_is_refused(fake: Provider, site: Site, how: str) -> None:
    assert "can't be believed" in guessed(
        site.outcomes(fake.sign(claims_for(fake.issuer), how))[0]
    ) or how in ("unsigned",)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "nOnE"},
        {"alg": "HS256"},
        {"alg": "HS512"},
        {"alg": None},
        {"alg": ["RS256"]},
        {"alg": "ES256"},
        {"alg": "RSA1_5"},
        {"alg": "dir"},
        {"kid": "ec"},
        {"kid": 1},
        {"kid": "../../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"crit": ["exp"]},
        {"b64": False},
        {"zip": "DEF"},
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": "secevent+jwt"},
        {"typ": 7},
    ],
)
def test_a_header_that_names_another_way_is_refused(
    fake: Provider, site: Site, header: dict[str, Any]
) -> None:
    guessed(site.outcomes(fake.sign(claims_for(fake.issuer), header=header))[0])


def test_a_token_brings_no_key_of_its_own(fake: Provider, site: Site) -> None:
    mallory = Signer()
    claims = claims_for(fake.issuer, groups=["admins"])
    for header in (
        {"jwk": mallory.rsa_jwk()},
        {"jku": f"{fake.origin}/realms/mallory/keys"},
        {"x5u": f"{fake.origin}/x5u.pem"},
        {"x5c": ["MIIB"]},
        {"jwk": mallory.rsa_jwk(), "kid": None},
    ):
        guessed(site.outcomes(mallory.token(claims, "RS256", header))[0])
        site.counted.clear()
    # Even the provider's own signature does not make up for it.
    guessed(site.outcomes(fake.sign(claims, header={"jwk": fake_key(fake)}))[0])


def fake_key(fake: Provider) -> dict[str, Any]:
    return {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": fake.path}


def test_a_published_secret_key_is_not_used_to_verify(fake: Provider, site: Site) -> None:
    secret = b"a secret that should not be there"
    fake.habits(jwks={"keys": [{"kty": "oct", "kid": "oct", "k": b64(secret), "alg": "HS256"}]})
    header = b64(b'{"alg":"HS256","kid":"oct"}')
    head = f"{header}.{b64(json.dumps(claims_for(fake.issuer)).encode())}"
    token = f"{head}.{b64(hmac.digest(secret, head.encode(), 'sha256'))}"
    assert "algorithm is 'HS256'" in guessed(site.outcomes(token)[0])


def test_the_key_of_another_issuer_signs_nothing_for_the_provider(fake: Provider, tmp_path: Path) -> None:
    other = Signer()
    (tmp_path / "keys.json").write_text(json.dumps(other.jwks()))
    entry = JwtIssuer(
        "ci", "https://ci.example.com", (AUDIENCE,), jwks_file=tmp_path / "keys.json", role=Role.VIEWER
    )
    site = Site(settings_for(fake.issuer, tmp_path), (entry,))
    theirs = other.token(claims_for("https://ci.example.com"), "RS256", {})
    forged = other.token(claims_for(fake.issuer, groups=["admins"]), "RS256", {})
    turned = fake.sign(claims_for("https://ci.example.com"))
    found, first, second = site.outcomes(theirs, forged, turned)
    assert identity(found).user == "ci:ada"
    assert "signature is not the provider's" in guessed(first)
    assert "signature is not the provider's" in guessed(second)


# Whom it is for, and what it is


@pytest.mark.parametrize(
    "aud",
    [
        None, "", "mlflow", "https://mlflow.example.com/", "https://MLFLOW.example.com", [], ["x"],
        f"{AUDIENCE} x", {"aud": AUDIENCE}, [AUDIENCE, 7], [[AUDIENCE]], True, 0,
    ],
)  # fmt: skip
def test_a_token_for_another_audience_is_refused(fake: Provider, site: Site, aud: Any) -> None:
    assert "(aud), not for" in site.refused(fake.sign(claims_for(fake.issuer, aud=aud))).message


@pytest.mark.parametrize("iss", [None, "", "http://elsewhere", ["ISSUER"], {"iss": "ISSUER"}, "ISSUER/", 1])
def test_a_token_of_another_issuer_is_refused(fake: Provider, site: Site, iss: Any) -> None:
    named = json.loads(json.dumps(iss).replace("ISSUER", fake.issuer))
    assert "do not count here" in site.refused(fake.sign(claims_for(fake.issuer, iss=named))).message


def test_a_token_that_was_given_to_the_client_alone_is_refused(fake: Provider, site: Site) -> None:
    for client in ("mlflow-proxy", "mlflow-cli"):
        assert "(aud)" in site.refused(fake.sign(claims_for(fake.issuer, aud=client))).message
        site.counted.clear()


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "n"},
        {"at_hash": "x"},
        {"c_hash": "x"},
        {"s_hash": "x"},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": "Offline"},
        {"token_use": "id"},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
        # An identity token for two audiences, ours among them, of a provider that marks none.
        {"aud": [AUDIENCE, "mlflow-cli"], "azp": "mlflow-cli", "client_id": None, "scope": None},
        {"scope": None, "client_id": None},
        {"cnf": {"jkt": "x"}},
    ],
)
def test_what_is_not_a_bearers_access_token_is_refused(
    fake: Provider, site: Site, claims: dict[str, Any]
) -> None:
    said = site.refused(fake.sign(claims_for(fake.issuer, **claims)))
    assert said.message.startswith("This token is "), said
    assert "identity" in said.message or "bound to a key" in said.message


@pytest.mark.parametrize("claims", [{"typ": "Refresh"}, {"events": {}}, {"cnf": {"x5t#S256": "x"}}])
def test_the_kind_in_the_header_does_not_make_up_for_the_claims(
    fake: Provider, site: Site, claims: dict[str, Any]
) -> None:
    token = fake.sign(claims_for(fake.issuer, **claims), typ="at+jwt")
    assert site.refused(token).message.startswith("This token is ")


# When


def test_a_token_that_expired_a_second_ago_is_refused(fake: Provider, site: Site) -> None:
    for exp in (int(time.time()) - 1, int(time.time()), time.time() - 0.001, 0, 1):
        assert "has expired on" in site.refused(fake.sign(claims_for(fake.issuer, exp=exp))).message
        assert site.counted == ["expired"]
        site.counted.clear()


def test_a_token_that_is_not_yet_valid_is_refused(fake: Provider, site: Site) -> None:
    later = int(time.time()) + 62
    for name in ("nbf", "iat"):
        said = site.refused(fake.sign(claims_for(fake.issuer, **{name: later})))
        assert "is not valid before" in said.message
        site.counted.clear()


@pytest.mark.parametrize("exp", ["9999999999", 1e300, 10**400, -1, True, [], {}, 10**11])
def test_an_end_that_is_no_time_is_refused(fake: Provider, site: Site, exp: Any) -> None:
    site.refused(fake.sign(claims_for(fake.issuer, exp=exp)))
    site.counted.clear()
    site.refused(raw(fake, {"exp": "REPLACED"}, '"REPLACED"', "NaN"))
    site.counted.clear()
    site.refused(raw(fake, {"exp": "REPLACED"}, '"REPLACED"', "Infinity"))


def raw(fake: Provider, claims: dict[str, Any], old: str, new: str) -> str:
    """Claims as no JSON writer would write them, under somebody's signature."""
    text = json.dumps(claims_for(fake.issuer, **claims)).replace(old, new)
    return f"{HEADER}.{b64(text.encode())}.{b64(b'x' * 256)}"


# What a caller would like to be


def test_claims_of_ones_own_raise_no_role(fake: Provider, site: Site) -> None:
    wishes = {
        "role": "admin",
        "roles": ["admins", "admin"],
        "scope": "mlflow admin admins mlflow:admin",
        "scp": ["admins"],
        "group": "admins",
        "Groups": ["admins"],
        "groups ": ["admins"],
        "is_admin": True,
        "PROXY_ROLE_ADMIN_GROUPS": "editors",
        "realm_access": {"roles": ["admins"]},
    }
    assert site.accepted(fake.sign(claims_for(fake.issuer, **wishes))).role is Role.EDITOR


@pytest.mark.parametrize(
    "groups", [{"admins": True}, [["admins"]], "admins,editors", ["Admins"], ["admins "]]
)
def test_groups_that_only_look_like_one_give_no_role(fake: Provider, site: Site, groups: Any) -> None:
    assert site.refused(fake.sign(claims_for(fake.issuer, groups=groups))).reason == "not_admitted"


def test_an_unverified_address_is_nobodys_name(fake: Provider, site: Site) -> None:
    token = fake.sign(claims_for(fake.issuer, email="root@example.com", email_verified=False))
    assert site.accepted(token).user == "ada"


def test_a_person_can_not_become_a_client_by_a_chosen_name(fake: Provider, site: Site) -> None:
    for claims in ({"sub": "client:ci"}, {"sub": "service:ci"}):
        bare = {"email": None, "email_verified": None}
        said = site.refused(fake.sign(claims_for(fake.issuer, **bare, **claims)))
        assert said.message.endswith("begins as those of programs do.")
        site.counted.clear()


# Garbage and floods


def deep(depth: int) -> str:
    return b64(b"[" * depth + b"]" * depth)


GARBAGE: dict[str, str] = {
    "nothing between dots": "..",
    "not base64": "a!.b!.c!",
    "not json": f"{b64(b'x')}.{b64(b'y')}.{b64(b'z')}",
    "no objects": f"{b64(b'[]')}.{b64(b'7')}.{b64(b'z')}",
    "five parts, as an encrypted one has": "a.b.c.d.e",
    "deep": f"{HEADER}.{deep(10_000)}.eA",
    "deep header": f"{deep(10_000)}.{b64(b'{}')}.eA",
    "a number of 20,000 digits": f"{HEADER}.{b64(b'[' + b'9' * 20_000 + b']')}.eA",
    "not utf-8": f"{HEADER}.{b64(bytes([0xFF, 0xFE, 0x7B, 0x7D]))}.eA",
    "too long": f"{'a' * reading.LONGEST}.b.c",
    "padded": f"{HEADER}=.e30.eA",
    "half a character": "a.b.c",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_before_anybody_is_asked_for_a_key(fake: Provider, site: Site, name: str) -> None:
    asked = len(fake.seen("keys"))
    assert guessed(site.outcomes(GARBAGE[name])[0]).startswith("This token is not whole, or no token at all.")
    assert len(fake.seen("keys")) == asked


def test_a_token_of_more_than_32_kib_is_not_even_read(fake: Provider, site: Site) -> None:
    fits, too_long = (fake.sign(claims_for(fake.issuer, more="x" * size)) for size in (20_000, 30_000))
    assert len(fits) < reading.LONGEST < len(too_long)
    first, second = site.outcomes(fits, too_long)
    assert identity(first).role is Role.EDITOR
    assert "not whole" in guessed(second)


def test_what_is_no_ascii_is_refused(site: Site) -> None:
    outcomes: list[Verified | Refusal] = []

    async def body(jwts: Jwts) -> None:
        outcomes.extend(
            [await jwts.verify(token, exchange()) for token in (b"\xff.\xff.\xff", b"", b"\0.\0.\0")]
        )

    site.run(body)
    for outcome in outcomes:
        guessed(outcome)


def test_a_flood_of_unknown_keys_asks_the_provider_once(fake: Provider, site: Site) -> None:
    mallory = Signer()
    old, new = (claims_for(fake.issuer, iat=int(time.time()) + ahead) for ahead in (-200, 50))
    flood: list[str | Callable[[], str]] = [
        mallory.token(old if number % 2 else new, "RS256", {"kid": f"guess-{number}"})
        for number in range(200)
    ]
    asked = len(fake.seen("keys"))
    outcomes = site.outcomes(fake.sign(claims_for(fake.issuer)), *flood, fake.sign(claims_for(fake.issuer)))
    assert len(fake.seen("keys")) == asked + 1
    assert identity(outcomes[0]) is not None
    assert identity(outcomes[-1]) is not None
    for number, outcome in enumerate(outcomes[1:-1]):
        if number % 2:
            assert "a key that is not among its issuer's published ones" in guessed(outcome)
        else:  # it claims to be newer than our last question, so that is no wrong credential yet
            assert (refusal(outcome).reason, refusal(outcome).retry_after) == ("provider_failed", keys.PACE)


def test_forging_is_slower_for_the_forger_than_for_us(fake: Provider, site: Site) -> None:
    """5,000 tokens, each wrong in another way, within a few seconds: nobody is held up meanwhile."""
    mallory = Signer()
    forged = [
        mallory.token(claims_for(fake.issuer), "RS256", {}).encode(),
        mallory.token(claims_for("https://elsewhere.example.com"), "RS256", {}).encode(),
        GARBAGE["deep"].encode(),
        GARBAGE["too long"].encode(),
        GARBAGE["a number of 20,000 digits"].encode(),
    ]
    took = 0.0

    async def body(jwts: Jwts) -> None:
        nonlocal took
        await jwts.verify(forged[0], exchange())
        begun = time.process_time()
        for _ in range(1000):
            for token in forged:
                await jwts.verify(token, exchange())
        took = time.process_time() - begun

    site.run(body)
    assert took < 5
