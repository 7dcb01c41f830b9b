"""The identity provider: what it says of itself, its keys, its clock, and whether it knows our address."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from proxy.auth.oidc import Provider, ProviderError
from proxy.auth.oidc.discovery import address
from proxy.auth.oidc.endpoints import Endpoints
from proxy.auth.oidc.http import TokenError
from proxy.doctor.case import Case
from proxy.doctor.database import clock
from proxy.doctor.result import Result, failure, ok, skipped, warning
from proxy.doctor.token import token
from proxy.settings import Settings

SECONDS = 60.0
_PAGE = 256 * 1024
# What a provider answers to a question that no person may be asked for (OpenID Connect Core, 3.1.2.6): it
# knows the client and sends people to the redirect URI.
_NOBODY = frozenset(
    {"login_required", "interaction_required", "consent_required", "account_selection_required"}
)
_ABOUT_REDIRECT = re.compile(r"redirect[_ -]?ur[il]|AADSTS50011|callback url", re.IGNORECASE)
_ABOUT_CLIENT = re.compile(
    r"invalid_client|unauthorized_client|client (is )?(not|in)|AADSTS700016", re.IGNORECASE
)


def provider(case: Case) -> Iterator[Result]:
    """The provider that people sign in with."""
    settings = case.settings
    if settings.oauth_client_id is None:
        yield skipped("provider", "no identity provider is set (MLFLOW_UI_OAUTH_ISSUER_URL)")
        if case.asked.token is not None:
            yield skipped("token", "there is nothing to compare the token with")
        return
    plain = not settings.oauth_issuer_url
    if plain:
        yield ok("discovery", "plain OAuth2: there is no discovery document, and nothing is signed")
    else:
        reached = False
        for result in _discovery(settings):
            reached = reached or not result.mend
            yield result
        yield from _clock(settings, case.within(10))
        if not reached:
            return
    yield from _redirect(case)
    if settings.oauth_client_secret is not None:
        yield _secret(settings)
    if case.asked.token is None:
        yield skipped(
            "token",
            "no token was given, so nobody knows whether the provider sends groups",
            "mlflow-proxy doctor provider --token-file FILE (- for standard input), with an identity token "
            "or an access token of somebody's",
        )
    elif plain:
        yield skipped("token", "a plain OAuth2 provider signs no tokens")
    else:
        yield from token(settings, case.asked.token)


def _discovery(settings: Settings) -> Iterator[Result]:
    where = address(str(settings.oauth_issuer_url))

    async def look() -> str | None:
        endpoints = Endpoints(settings)
        try:
            await endpoints.look()
        except ProviderError as error:
            return error.check or error.message
        finally:
            await endpoints.aclose()
        return None

    problem = asyncio.run(look())
    if problem is None:
        yield ok("discovery", where)
        yield ok("keys", "its key set has keys that signatures can be checked with")
        return
    what = "keys" if "key set" in problem else "discovery"
    mend = "look at MLFLOW_UI_OAUTH_ISSUER_URL, and whether this machine reaches the provider"
    if "names the issuer" in problem:
        mend = "set MLFLOW_UI_OAUTH_ISSUER_URL to exactly what the document names"
    elif "certificate" in problem.lower():
        mend = (
            "name the provider's authority in SSL_CERT_FILE for the service, or have its certificate renewed"
        )
    yield failure(what, problem, mend)


def _clock(settings: Settings, seconds: float) -> Iterator[Result]:
    """By the Date of its answer (RFC 9110, 6.6.1), which has whole seconds."""
    before = time.time()
    try:
        _, _, headers, _ = _get(address(str(settings.oauth_issuer_url)), seconds)
    except OSError:
        return  # told of already
    after = time.time()
    date = headers.get("Date")
    try:
        theirs = email.utils.parsedate_to_datetime(str(date)).timestamp()
    except (TypeError, ValueError):
        yield skipped("clock", "the provider does not say what time it is")
        return
    found = clock(theirs, before, after, "the identity provider", slack=1.0)
    if found.mend:
        allowed = f" (PROXY_CLOCK_SKEW allows {settings.clock_skew:g} s)"
        found = Result(found.what, found.outcome, found.seen + allowed, found.mend)
    yield found


def callback(settings: Settings) -> str:
    """The redirect URI that has to be registered at the provider."""
    if settings.public_url:
        return f"{settings.public_url.rstrip('/')}/oauth2/callback"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls else 'http'}://{host}:{settings.port}/oauth2/callback"


def _redirect(case: Case) -> Iterator[Result]:
    """Begin a sign-in at which nobody may be asked anything (prompt=none): a provider that knows the client
    and its redirect URI sends the browser back there with an error, and shows a page of its own otherwise."""
    settings = case.settings
    ours = callback(settings)
    register = f"register exactly {ours} as redirect URI of the client {settings.oauth_client_id}"

    async def begin() -> str:
        asked = Provider(settings, [b"0" * 32], lambda *_: None)
        try:
            return (await asked.authorization("/", ours)).url
        finally:
            await asked.aclose()

    try:
        url = asyncio.run(begin())
        status, place, _, page = _get(f"{url}&prompt=none", case.within(15))
    except (OSError, ProviderError) as error:
        yield failure(
            "redirect-uri",
            f"the authorization endpoint can't be asked ({getattr(error, 'reason', None) or error})",
            "look at what stands between this machine and the provider",
        )
        return
    if place.startswith(ours) and urlsplit(place).path == urlsplit(ours).path:
        said = {name: values[0] for name, values in parse_qs(urlsplit(place).query).items()}
        error_, words = said.get("error", ""), said.get("error_description", "")[:200]
        if not error_ or error_ in _NOBODY:
            yield ok("redirect-uri", f"{ours} is registered")
        elif error_ == "invalid_scope":
            yield failure(
                "scopes",
                f"the provider refuses the scopes: {words or error_}",
                "correct MLFLOW_UI_OAUTH_SCOPES",
            )
        else:
            yield failure(
                "redirect-uri",
                f"the provider refuses the sign-in: {error_} {words}".rstrip(),
                f"look at the client {settings.oauth_client_id} at the provider: code flow, PKCE, its users",
            )
    elif status >= 400 or "error" in urlsplit(place).query or "error" in urlsplit(place).path:
        words = f"{place} {page}"
        if _ABOUT_REDIRECT.search(words) or not _ABOUT_CLIENT.search(words):
            yield failure(
                "redirect-uri", f"the provider does not take {ours} (it answers {status})", register
            )
        else:
            yield failure(
                "client",
                f"the provider does not know the client {settings.oauth_client_id} (it answers {status})",
                "correct MLFLOW_UI_OAUTH_CLIENT_ID",
            )
    elif _ABOUT_REDIRECT.search(page) and place == "":
        yield failure(
            "redirect-uri", f"the provider's page speaks of a redirect URI, and {ours} was sent", register
        )
    else:
        yield skipped(
            "redirect-uri",
            f"the provider does not tell without a person whether {ours} is registered",
            "sign in once by hand",
        )


def _secret(settings: Settings) -> Result:
    """A code that is none: who knows the client complains about the code, and who does not, about the
    client."""

    async def exchange() -> tuple[str, str]:
        endpoints = Endpoints(settings)
        try:
            await endpoints.grant(
                "authorization_code",
                code="mlflow-proxy-doctor",
                redirect_uri=callback(settings),
                code_verifier="mlflow-proxy-doctor-mlflow-proxy-doctor-000",
            )
        except TokenError as error:
            return error.error, error.description
        except ProviderError as error:
            return "", error.check or error.message
        finally:
            await endpoints.aclose()
        return "", "it took a code that is none"

    error, words = asyncio.run(exchange())
    if error in ("invalid_client", "unauthorized_client") or "401" in words:
        return failure(
            "client-secret",
            f"the provider refuses the client {settings.oauth_client_id} ({words[:200] or error})",
            "put the client's present secret into MLFLOW_UI_OAUTH_CLIENT_SECRET: docs/rotation.md",
        )
    if error in ("invalid_grant", "invalid_request"):
        return ok("client-secret", "the provider takes it")
    return warning(
        "client-secret", f"it can't be told whether the provider takes it: {words or error}", "sign in once"
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, seconds: float) -> tuple[int, str, Any, str]:
    """Status, Location, headers and page; no redirect is followed. Raises OSError."""
    opener = urllib.request.build_opener(
        _NoRedirect, urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    request = urllib.request.Request(url, headers={"User-Agent": "mlflow-proxy-doctor", "Accept": "*/*"})  # noqa: S310 - as the settings have it
    try:
        answer = opener.open(request, timeout=seconds)
    except urllib.error.HTTPError as error:
        answer = error
    with contextlib.closing(answer):
        page = answer.read(_PAGE).decode("utf-8", "replace")
        return answer.status, answer.headers.get("Location") or "", answer.headers, page
