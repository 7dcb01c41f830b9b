"""Answers at the redirect URI that do not end a sign-in of this browser's: none of them lets in."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from fake_provider import Provider
from sign_in_service import Answer, Browser, SignInService, serving, settings_for


def fields(url: str) -> dict[str, str]:
    parsed = parse_qs(urlsplit(url).query, keep_blank_values=True)
    return {name: values[0] for name, values in parsed.items()}


def back(service: SignInService, answer: dict[str, str]) -> str:
    return f"{service.url}/oauth2/callback?{urlencode(answer)}"


def refused(answer: Answer, service: SignInService, browser: Browser, reason: str = "bad_state") -> None:
    assert answer.status in (400, 403, 502)
    assert service.results()[-1] == reason
    assert browser.who(service) is None


@pytest.mark.parametrize("state", [None, "", "x" * 300, "\u0430", "\x00"])
def test_state_missing_or_none_at_all(
    provider: Provider, service: SignInService, browser: Browser, state: str | None
) -> None:
    answer = fields(browser.at_provider(service)) | {"state": state or ""}
    if state is None:
        del answer["state"]
    refused(browser.get(back(service, answer)), service, browser)
    assert not provider.seen("token")


def test_state_of_another_browser(provider: Provider, service: SignInService, browser: Browser) -> None:
    """The attacker's own sign-in, ended in the victim's browser: the victim would work as the attacker."""
    theirs = Browser().at_provider(service)
    browser.at_provider(service)
    refused(browser.get(theirs), service, browser)


def test_state_of_one_tab_with_the_code_of_another(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    first, second = fields(browser.at_provider(service)), fields(browser.at_provider(service))
    mixed = first | {"code": second["code"]}
    refused(browser.get(back(service, mixed)), service, browser, "denied")  # PKCE: the provider's refusal


def test_state_replayed_though_the_provider_takes_the_code_again(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    provider.habits(codes_forever=True)
    answer = browser.at_provider(service)
    kept = {host: dict(jar) for host, jar in browser.jar.items()}
    assert browser.get(answer).status == 303
    copy = Browser(kept)
    refused(copy.get(answer), service, copy)


def test_a_sign_in_that_ended_can_not_be_taken_up_by_going_back(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    answer = browser.at_provider(service)
    browser.get(answer)
    browser.post(f"{service.url}/oauth2/sign_out", {})
    refused(browser.get(answer), service, browser)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: "",
        lambda value: value[:-1],
        lambda value: value[:-2] + "AA",
        lambda value: "A" + value,
        lambda value: value.partition(".")[0],
        lambda value: value.partition(".")[0] + ".",
        lambda value: "." + value.partition(".")[2],
        lambda value: value + ".x",
        lambda value: value.replace(".", ".."),
        lambda value: ".".join(reversed(value.split("."))),
        lambda value: "W10." + value.partition(".")[2],
        lambda value: "x" * 9000,
    ],
)
def test_a_state_cookie_forged_truncated_or_shuffled(
    provider: Provider, service: SignInService, browser: Browser, change: object
) -> None:
    answer = browser.at_provider(service)
    jar = browser.jar[urlsplit(service.url).netloc]
    (name,) = [name for name in jar if "_s" in name.removeprefix(service.sessions.cookie_name)]
    jar[name] = change(jar[name])  # type: ignore[operator]
    refused(browser.get(answer), service, browser)


def test_state_cookies_of_two_tabs_exchanged(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    answer = browser.at_provider(service)
    jar = browser.jar[urlsplit(service.url).netloc]
    first = set(jar)
    browser.at_provider(service)
    (name,) = first
    (other,) = set(jar) - first
    jar[name], jar[other] = jar[other], jar[name]
    refused(browser.get(answer), service, browser)


def test_two_state_cookies_of_one_name_that_differ(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    """One of them was put there by a page of a sibling host."""
    answer = browser.at_provider(service)
    jar = browser.jar[urlsplit(service.url).netloc]
    (name,) = [name for name in jar if "_s" in name.removeprefix(service.sessions.cookie_name)]
    both = {"Cookie": f"{name}=planted; {name}={jar[name]}"}
    refused(browser.get(answer, both), service, browser)


def test_a_state_cookie_sealed_with_another_secret_or_for_another_client(
    provider: Provider, tmp_path: Path, browser: Browser
) -> None:
    answers = []
    for number, more in enumerate(({}, {"oauth_client_id": "public", "oauth_client_secret": None})):
        directory = tmp_path / str(number)
        directory.mkdir()
        if number:
            (directory / "cookie-secret").write_text((tmp_path / "0" / "cookie-secret").read_text())
        with serving(
            settings_for(provider.issuer, directory, public_url="http://127.0.0.1:1", **more)
        ) as one:
            here = f"http://127.0.0.1:{one.port}"
            if not number:
                started = browser.get(f"{here}/oauth2/start", {"Host": "127.0.0.1:1"})
                code = fields(browser.get(started.location).location)
                cookie = "; ".join(
                    f"{name}={value}" for name, value in browser.jar[urlsplit(here).netloc].items()
                )
            else:
                got = browser.get(
                    f"{here}/oauth2/callback?{urlencode(code)}", {"Host": "127.0.0.1:1", "Cookie": cookie}
                )
                answers.append((got.status, one.results()))
    assert answers == [(400, ["bad_state"])]


@pytest.mark.parametrize("name", ["state", "code", "iss", "error"])
def test_a_field_that_comes_twice(
    provider: Provider, service: SignInService, browser: Browser, name: str
) -> None:
    answer = browser.at_provider(service)
    assert browser.get(f"{answer}&{name}=x&{name}=y").status == 400
    assert browser.who(service) is None


def test_no_code(provider: Provider, service: SignInService, browser: Browser) -> None:
    answer = fields(browser.at_provider(service))
    del answer["code"]
    refused(browser.get(back(service, answer)), service, browser)


def test_a_code_that_the_provider_has_not_given(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    answer = fields(browser.at_provider(service)) | {"code": "made up"}
    refused(browser.get(back(service, answer)), service, browser, "denied")


def test_a_code_stolen_on_the_way_is_of_no_use_without_the_verifier(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    """PKCE: the thief begins a sign-in of their own and puts the stolen code into its answer."""
    stolen = fields(browser.at_provider(service))["code"]
    thief = Browser()
    own = fields(thief.at_provider(service)) | {"code": stolen}
    refused(thief.get(back(service, own)), service, thief, "denied")


def test_pkce_left_out_on_the_way_to_the_provider(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    started = browser.to_provider(service)
    asked = fields(started.location)
    for name in ("code_challenge", "code_challenge_method"):
        del asked[name]
    without = browser.get(f"{provider.issuer}/authorize?{urlencode(asked)}").location
    refused(browser.get(without), service, browser, "misconfigured")


def test_the_verifier_is_always_sent_and_is_the_challenges(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    browser.sign_in(service)
    assert len(provider.seen("token")[-1]["form"]["code_verifier"]) >= 43


# ------------------------------------------------------------------ mix-up (RFC 9207)


@pytest.mark.parametrize("issuer", ["https://evil.example", "", "{issuer}/", "{issuer}?x"])
def test_mix_up_an_answer_that_names_another_issuer(
    provider: Provider, service: SignInService, browser: Browser, issuer: str
) -> None:
    answer = fields(browser.at_provider(service)) | {"iss": issuer.replace("{issuer}", provider.issuer)}
    before = len(provider.seen("token"))
    refused(browser.get(back(service, answer)), service, browser, "bad_token")
    assert len(provider.seen("token")) == before  # the code went to nobody


def test_mix_up_an_answer_without_the_issuer_that_the_provider_always_names(
    provider: Provider, tmp_path: Path, browser: Browser
) -> None:
    provider.habits(name_issuer=True)
    with serving(settings_for(provider.issuer, tmp_path)) as service:
        named = browser.at_provider(service)
        assert "iss=" in named
        answer = fields(named)
        del answer["iss"]
        refused(browser.get(back(service, answer)), service, browser, "bad_token")
        assert browser.sign_in(service).status == 303


# ------------------------------------------------------------------ fixation


def test_fixation_a_session_planted_before_signing_in_is_not_the_one_after(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    attacker = Browser()
    attacker.sign_in(service)
    name, host = service.sessions.cookie_name, urlsplit(service.url).netloc
    planted = attacker.jar[host][name]
    browser.jar[host] = {name: planted}
    provider.habits(
        userinfo={"sub": "victim", "email": "victim@example.com", "email_verified": True},
        claims={"sub": "victim"},
    )
    browser.sign_in(service)
    assert (browser.who(service) or {})["user"] == "victim@example.com"
    assert browser.jar[host][name] != planted
    assert attacker.who(service) is None  # and the planted one has ended


def test_fixation_a_made_up_session_id_is_not_taken(
    provider: Provider, service: SignInService, browser: Browser
) -> None:
    name, host = service.sessions.cookie_name, urlsplit(service.url).netloc
    browser.jar[host] = {name: "made-up"}
    browser.sign_in(service)
    assert browser.jar[host][name] != "made-up"
