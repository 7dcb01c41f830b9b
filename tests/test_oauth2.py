"""Signing in and out through /oauth2, against a provider that keeps to the standard."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import fake_provider
import orjson
import pytest
from fake_provider import CLIENT_ID, SUBJECT, Provider
from sign_in_service import PASSWORD, Browser, SignInService, serving, settings_for

from proxy.exchange import REFUSALS
from proxy.identity import Role


@pytest.fixture(scope="module")
def one_provider() -> Iterator[Provider]:
    with fake_provider.running() as running:
        yield running


@pytest.fixture
def provider(one_provider: Provider) -> Provider:
    one_provider.habits()
    return one_provider


@pytest.fixture(scope="module")
def service(one_provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignInService]:
    with serving(settings_for(one_provider.issuer, tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture
def browser() -> Browser:
    return Browser()


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def session_cookie(browser: Browser, service: SignInService) -> str | None:
    return browser.jar[urlsplit(service.url).netloc].get(service.sessions.cookie_name)


def test_a_person_signs_in_and_lands_on_the_page_asked_for(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    landed = browser.sign_in(service, "/graphs?x=1#/experiments/7/runs?o=%22a%22")
    assert (landed.status, landed.location) == (303, "/graphs?x=1#/experiments/7/runs?o=%22a%22")
    who = browser.who(service)
    assert who is not None
    assert (who["user"], who["role"], who["method"]) == ("ada@example.com", "editor", "session")
    assert service.results()[-1] == "success"


def test_the_request_to_the_provider_has_pkce_state_and_nonce_always(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    asked = [query_of(browser.to_provider(service).location) for _ in range(2)]
    for fields in asked:
        assert fields["response_type"] == "code"
        assert fields["client_id"] == CLIENT_ID
        assert fields["redirect_uri"] == f"{service.url}/oauth2/callback"
        assert fields["scope"] == "openid email profile"
        assert fields["code_challenge_method"] == "S256"
        assert fields["tenant"] == "1"  # the endpoint's own query stays
    for name in ("state", "nonce", "code_challenge"):
        assert len({fields[name] for fields in asked}) == 2
        assert all(len(fields[name]) >= 43 for fields in asked)


def test_two_tabs_that_sign_in_at_once_both_land(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    first, second = browser.at_provider(service, "/#/one"), browser.at_provider(service, "/#/two")
    assert browser.get(second).location == "/#/two"
    assert browser.get(first).location == "/#/one"
    assert browser.who(service) is not None


def test_many_abandoned_tabs_do_not_fill_the_cookie_header(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    for _ in range(9):
        last = browser.at_provider(service)
    jar = browser.jar[urlsplit(service.url).netloc]
    assert len(jar) == 4
    assert browser.get(last).status == 303


def test_a_sign_in_leaves_only_the_session_and_a_short_count_behind(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    landed = browser.sign_in(service)
    assert set(browser.jar[urlsplit(service.url).netloc]) == {
        service.sessions.cookie_name,
        f"{service.sessions.cookie_name}_r",
    }
    for cookie in landed.cookies:
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Path=/" in cookie
        assert "Domain" not in cookie


def test_no_token_of_the_provider_is_in_a_cookie(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    browser.sign_in(service)
    for value in browser.jar[urlsplit(service.url).netloc].values():
        assert SUBJECT not in value
        assert not re.search(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", value)


def test_a_public_client_does_without_a_secret(provider: Provider, tmp_path: Path, browser: Browser) -> None:
    provider.habits(claims={"aud": "public"})
    settings = settings_for(provider.issuer, tmp_path, oauth_client_id="public", oauth_client_secret=None)
    with serving(settings) as service:
        assert browser.sign_in(service).status == 303
        assert browser.who(service) is not None


def test_behind_a_public_https_url_with_a_path_cookies_and_ways_are_its(
    provider: Provider, tmp_path: Path, browser: Browser
) -> None:
    settings = settings_for(provider.issuer, tmp_path, public_url="https://ml.example.com/team")
    with serving(settings) as service:
        here = f"http://127.0.0.1:{service.port}/team"
        public = {"Host": "ml.example.com"}
        started = browser.get(f"{here}/oauth2/start?rd=/team/x", public)
        assert query_of(started.location)["redirect_uri"] == "https://ml.example.com/team/oauth2/callback"
        assert all(
            cookie.startswith(f"{service.sessions.cookie_name}_s") and cookie.endswith("; Secure")
            for cookie in started.cookies
        )
        assert service.sessions.cookie_name.startswith("__Host-mlflow_proxy_")
        back = browser.get(started.location).location.replace("https://ml.example.com/team", here)
        landed = browser.get(back, public)
        assert (landed.status, landed.location) == (303, "/team/x")
        # The same by another of its names, where that cookie would not come back.
        elsewhere = browser.get(f"{here}/oauth2/start?rd=/team/x")
        assert elsewhere.location == "https://ml.example.com/team/oauth2/start?rd=%2Fteam%2Fx&moved"
        assert not elsewhere.cookies
        # And once only, where a server before us replaces Host.
        again = browser.get(f"{here}/oauth2/start?rd=/team/x&moved")
        assert again.location.startswith(provider.issuer)


def test_the_sign_in_page_offers_both_ways(service: SignInService, browser: Browser) -> None:
    page = browser.get(f"{service.url}/oauth2/sign_in?rd=/x")
    assert page.status == 200
    assert "/oauth2/start?rd=" in page.text
    assert 'action="/oauth2/sign_in"' in page.text


def test_a_password_makes_a_session_too(service: SignInService, browser: Browser) -> None:
    url = f"{service.url}/oauth2/sign_in"
    wrong = browser.post(url, {"username": "admin", "password": "wrong", "rd": "/x"})
    assert wrong.status == 403
    assert "wrong" in wrong.text
    assert browser.who(service) is None
    right = browser.post(url, {"username": "admin", "password": PASSWORD, "rd": "/x#/y"})
    assert (right.status, right.location) == (303, "/x#/y")
    assert (browser.who(service) or {})["user"] == "admin"


def test_signing_out_ends_the_session_here_and_at_the_provider(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    browser.sign_in(service)
    copied = Browser({host: dict(jar) for host, jar in browser.jar.items()})
    out = browser.post(f"{service.url}/oauth2/sign_out", {})
    assert out.status == 303
    assert out.location.startswith(f"{provider.issuer}/logout?")
    fields = query_of(out.location)
    assert fields["post_logout_redirect_uri"] == f"{service.url}/oauth2/sign_out"
    assert fields["client_id"] == CLIENT_ID
    assert fields["id_token_hint"].count(".") == 2
    assert session_cookie(browser, service) is None
    assert copied.who(service) is None
    assert "signed out" in browser.get(f"{service.url}/oauth2/sign_out").text


def test_who_signed_in_with_a_password_is_not_sent_to_the_provider_to_sign_out(
    service: SignInService, browser: Browser
) -> None:
    browser.post(f"{service.url}/oauth2/sign_in", {"username": "admin", "password": PASSWORD})
    out = browser.post(f"{service.url}/oauth2/sign_out", {})
    assert (out.status, out.location) == (303, "/oauth2/sign_out")


def logout_token(provider: Provider, **claims: object) -> str:
    now = int(time.time())
    usual = {
        "iss": provider.issuer,
        "aud": CLIENT_ID,
        "iat": now,
        "exp": now + 60,
        "jti": f"jti-{time.monotonic_ns()}",
        "sid": "provider-session-1",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    }
    merged = {name: value for name, value in (usual | claims).items() if value is not None}
    return provider.sign(merged, typ="logout+jwt")


def test_the_provider_ends_a_session_from_behind(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    browser.sign_in(service)
    assert browser.who(service) is not None
    token = logout_token(provider)
    plain = {"Sec-Fetch-Mode": "", "Sec-Fetch-Site": "", "User-Agent": "provider", "Accept": "*/*"}
    url = f"{service.url}/oauth2/backchannel_logout"
    said = Browser().post(url, {"logout_token": token}, plain)
    assert (said.status, said.header("cache-control")) == (200, "no-store")
    assert browser.who(service) is None
    assert service.results()[-1] == "logout"
    # The same token once more, against the person's next session.
    browser.sign_in(service)
    again = Browser().post(url, {"logout_token": token}, plain)
    assert again.status == 400
    assert browser.who(service) is not None


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.example"},
        {"aud": "another"},
        {"exp": 1},
        {"iat": 1, "exp": None},
        {"iat": None},
        {"jti": None},
        {"jti": 7},
        {"events": None},
        {"events": {"other": {}}},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": True}},
        {"nonce": "n"},
        {"sid": None},
    ],
    ids=str,
)
def test_a_logout_token_that_is_not_right_ends_nothing(
    provider: Provider, service: SignInService, browser: Browser, claims: dict[str, object]
) -> None:
    browser.sign_in(service)
    said = Browser().post(
        f"{service.url}/oauth2/backchannel_logout", {"logout_token": logout_token(provider, **claims)}
    )
    assert said.status == 400
    assert orjson.loads(said.body)["error"] == "invalid_request"
    assert browser.who(service) is not None


def test_an_identity_token_does_not_sign_its_owner_out(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    browser.sign_in(service)
    now = int(time.time())
    stolen = provider.sign({"iss": provider.issuer, "aud": CLIENT_ID, "sub": SUBJECT, "iat": now, "jti": "x"})
    said = Browser().post(f"{service.url}/oauth2/backchannel_logout", {"logout_token": stolen})
    assert said.status == 400
    assert browser.who(service) is not None


def test_signing_in_that_lets_nobody_through_stops_after_a_few_rounds(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    host = urlsplit(service.url).netloc
    for _ in range(3):
        assert browser.sign_in(service).status == 303
        del browser.jar[host][service.sessions.cookie_name]  # a browser that does not keep it
    stopped = browser.to_provider(service)
    assert stopped.status == 400
    assert "circles" in stopped.text
    assert "PROXY_COOKIE_SECRET" in stopped.text
    # The button on that page is a new beginning.
    assert browser.sign_in(service).status == 303


def test_many_tabs_at_once_are_no_loop(provider: Provider, service: SignInService, browser: Browser) -> None:
    for _ in range(3):
        ways = [browser.at_provider(service) for _ in range(4)]
        assert [browser.get(way).status for way in ways] == [303] * 4
        browser.post(f"{service.url}/oauth2/sign_out", {})


def test_who_the_settings_do_not_name_is_told_so(
    provider: Provider, tmp_path: Path, browser: Browser
) -> None:
    settings = settings_for(provider.issuer, tmp_path, allowed_email_domains=("example.org",))
    with serving(settings) as service:
        refused = browser.sign_in(service)
        assert refused.status == 403
        assert "ada@example.com is not among those who get in" in refused.text
        assert "PROXY_ALLOWED_EMAIL_DOMAINS" in refused.text
        assert browser.who(service) is None
        assert service.results() == ["not_admitted"]
        assert service.refusal("/oauth2/callback") == "not_admitted"


def test_who_has_no_role_is_told_which_settings_give_one(
    provider: Provider, tmp_path: Path, browser: Browser
) -> None:
    settings = settings_for(provider.issuer, tmp_path, default_role=Role.NONE, editor_groups=("other",))
    with serving(settings) as service:
        refused = browser.sign_in(service)
        assert refused.status == 403
        assert "PROXY_ROLE_VIEWER_GROUPS" in refused.text
        assert browser.who(service) is None


def test_a_provider_that_is_away_is_a_page_with_the_request_id_and_what_to_check(
    tmp_path: Path, browser: Browser
) -> None:
    with serving(settings_for("http://127.0.0.1:9/realms/x", tmp_path)) as service:
        away = browser.to_provider(service)
        assert away.status == 503
        assert away.header("x-request-id") in away.text
        assert "/realms/x/.well-known/openid-configuration" in away.text
        assert "Traceback" not in away.text
        assert service.results() == ["unavailable"]
        assert service.refusal("/oauth2/start") == "provider_failed"
        script = browser.get(f"{service.url}/oauth2/start", {"Sec-Fetch-Mode": "cors"})
        assert script.status == 503
        assert orjson.loads(script.body)["error_code"] == "TEMPORARILY_UNAVAILABLE"


def test_a_refused_sign_in_is_one_of_the_closed_set(service: SignInService) -> None:
    assert {exchange.refusal for exchange in service.exchanges} - {None} <= REFUSALS


def test_another_method_is_refused(service: SignInService) -> None:
    for path in ("start", "sign_in", "callback", "sign_out", "backchannel_logout", "userinfo"):
        assert Browser().ask("PUT", f"{service.url}/oauth2/{path}").status in (401, 405)


def test_a_host_that_is_not_ours_is_refused(service: SignInService) -> None:
    for path in ("start", "sign_in", "callback", "sign_out"):
        assert Browser().get(f"{service.url}/oauth2/{path}", {"Host": "evil.example"}).status == 421
