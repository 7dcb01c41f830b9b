"""What other sites' pages, and whoever writes the links, can do with signing in and out: nothing."""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlsplit

import pytest
from fake_provider import Provider
from sign_in_service import PASSWORD, Browser, SignInService

from proxy.oauth2 import safe_rd

OUTSIDE = [
    "https://evil.example/",
    "http://evil.example",
    "HTTPS://EVIL.EXAMPLE",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "/\\evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "/\\/evil.example",
    "/%5cevil.example",
    "/%5Cevil.example",
    "/%255cevil.example",
    "/%2fevil.example",
    "/%2Fevil.example",
    "/%252fevil.example",
    "/%25252fevil.example",
    "/%2525252525252fevil.example",
    "%2f%2fevil.example",
    "/\t/evil.example",
    "\t//evil.example",
    "/%09/evil.example",
    "/\n/evil.example",
    "/%0a/evil.example",
    "/%0d%0aLocation:%20https://evil.example",
    "/x\r\nSet-Cookie: a=b",
    " //evil.example",
    "\x00//evil.example",
    "/%00/evil.example",
    "/./\\evil.example",
    "/.//evil.example",
    "/..//evil.example",
    "/a/..//evil.example",
    "/%2e%2e//evil.example",
    "/%2e/%2fevil.example",
    "/a/%2e%2e/%2e%2e/b",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "{origin}@evil.example/",
    "{origin}.evil.example/",
    "{origin}:x@evil.example/",
    "{origin}//evil.example/",
    "{origin}\\@evil.example/",
    "{origin}1/",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,x",
    "blob:x",
    "mailto:x",
    "evil.example",
    "@evil.example",
    "?//evil.example",
    "#//evil.example",
    "",
    "/\u2215evil.example",
    "/\uff0fevil.example",
    "\u3002evil.example",
    "/\u00ad/evil.example",
    "/%ef%bc%8fevil.example",
    "/%ef%bc%bcevil.example",
    "/%ff%fe/evil.example",
    "/%ef%bc%8e%ef%bc%8e//evil.example",
    "/" + "x" * 3000,
    "/oauth2/start",
    "/oauth2/sign_out",
    "/oauth2%2fstart",
    "/%6fauth2/start",
]
INSIDE = [
    "/",
    "/#/experiments/1",
    "/?x=1#/experiments/1/runs?searchFilter=%22a%22&o=//x",
    "/graphs/%C3%A4?u=https://elsewhere.example/",
    "/-/account",
    "/static-files/x.js",
    "/a%20b",
    "/#/models/a%2Fb",
]


@pytest.mark.parametrize("rd", OUTSIDE)
def test_an_open_redirect_through_rd_leads_to_the_front_page(rd: str) -> None:
    origin = "https://ml.example.com"
    assert safe_rd(rd.replace("{origin}", origin), "", origin) == "/"
    assert safe_rd(rd.replace("{origin}", origin), "/team", origin) == "/team/"


@pytest.mark.parametrize("rd", INSIDE)
def test_a_way_back_into_this_service_is_kept(rd: str) -> None:
    origin = "https://ml.example.com"
    assert safe_rd(rd, "", origin) == rd
    assert safe_rd(origin + rd, "", origin) == rd
    assert safe_rd(f"/team{rd}", "/team", origin) == f"/team{rd}"


@pytest.mark.parametrize(
    "rd", ["/other", "/teams/", "/team/../other", "/team", "/TEAM/", "/team%2f..%2fother"]
)
def test_a_way_back_to_another_application_of_the_host_is_not(rd: str) -> None:
    assert safe_rd(rd, "/team", "https://ml.example.com") == "/team/"


@pytest.mark.parametrize(
    "rd", ["https://evil.example/", "//evil.example", "/\\evil.example", "/%5cevil.example"]
)
def test_an_open_redirect_through_a_real_sign_in(
    provider: Provider, service: SignInService, browser: Browser, rd: str
) -> None:
    assert browser.sign_in(service, rd).location == "/"


@pytest.mark.parametrize("rd", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_an_open_redirect_through_the_password_form(
    service: SignInService, browser: Browser, rd: str
) -> None:
    url = f"{service.url}/oauth2/sign_in"
    assert browser.post(url, {"username": "admin", "password": PASSWORD, "rd": rd}).location == "/"
    assert "evil" not in browser.get(f"{url}?{urlencode({'rd': rd})}").text


def test_an_answer_header_split_through_rd(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    started = browser.get(f"{service.url}/oauth2/start?rd={quote('/x' + chr(13) + chr(10) + 'X-Evil: 1')}")
    landed = browser.get(browser.get(started.location).location)
    assert landed.location == "/"
    assert landed.header("x-evil") is None


ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "", "Origin": "null"},
    {"Sec-Fetch-Site": "", "Origin": "http://localhost.evil.example"},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_signing_in_with_a_password_from_another_site(
    service: SignInService, browser: Browser, headers: dict[str, str]
) -> None:
    """Sign-in by another's hand: the victim would go on as the attacker, and log to their experiments."""
    answer = browser.post(
        f"{service.url}/oauth2/sign_in", {"username": "admin", "password": PASSWORD}, headers
    )
    assert answer.status == 403
    assert not answer.cookies
    assert browser.who(service) is None


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_signing_out_from_another_site(
    provider: Provider, service: SignInService, browser: Browser, headers: dict[str, str]
) -> None:
    browser.sign_in(service)
    assert browser.post(f"{service.url}/oauth2/sign_out", {}, headers).status == 403
    assert browser.who(service) is not None


def test_signing_out_by_a_link_or_an_image(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    browser.sign_in(service)
    browser.get(f"{service.url}/oauth2/sign_out", {"Sec-Fetch-Site": "cross-site"})
    assert browser.who(service) is not None


@pytest.mark.parametrize("path", ["/oauth2/callback", "/oauth2/start", "/oauth2/userinfo"])
def test_a_change_by_the_wrong_method(service: SignInService, browser: Browser, path: str) -> None:
    assert browser.post(f"{service.url}{path}", {"code": "x"}).status in (401, 405)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "{{ 7*7 }}",
        "a\r\nSet-Cookie: x=y",
        "\x00\x1b[31m",
    ],
)
def test_the_providers_error_is_shown_as_text(
    provider: Provider, service: SignInService, browser: Browser, text: str
) -> None:
    for error in ("access_denied", "invalid_scope", text):
        provider.habits(error=error, error_description=text)
        page = browser.sign_in(service)
        assert page.status in (403, 502)
        assert page.header("content-type") == "text/html; charset=utf-8"
        assert "script-src" not in (page.header("content-security-policy") or "script-src")
        for raw in ("<script>alert", "<img", "\x1b", "\x00", ">49<"):
            assert raw not in page.text
        assert page.header("set-cookie") is None or "x=y" not in " ".join(page.cookies)
    assert "The identity provider said:" in page.text


def test_an_error_that_no_provider_said_is_not_shown(service: SignInService, browser: Browser) -> None:
    """A link alone must not put words onto a page of ours."""
    words = "Your account is locked. Call 555-0100"
    page = browser.get(
        f"{service.url}/oauth2/callback?{urlencode({'error': 'x', 'error_description': words, 'state': 'y'})}"
    )
    assert page.status == 400
    assert "555" not in page.text


def test_a_very_long_error_is_cut(provider: Provider, service: SignInService, browser: Browser) -> None:
    provider.habits(error="access_denied", error_description="x" * 20000)
    assert len(browser.sign_in(service).body) < 20000


def test_a_sign_in_begun_elsewhere_sets_no_cookie_for_scripts(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    for cookie in browser.to_provider(service).cookies:
        assert "HttpOnly" in cookie
    assert urlsplit(service.url).netloc in browser.jar
