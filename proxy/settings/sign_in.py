"""What must fit together about signing in: the provider, who gets in, sessions and their database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from proxy.settings.fields import Settings
from proxy.settings.sign_in_values import loopback
from proxy.settings.sources import Problems

ENDPOINTS = ("PROXY_OAUTH_AUTHORIZE_URL", "PROXY_OAUTH_TOKEN_URL", "PROXY_OAUTH_USERINFO_URL")

PUBLIC_HOSTS = frozenset(
    {
        "access.line.me",
        "accounts.google.com",
        "accounts.kakao.com",
        "api.login.yahoo.com",
        "appleid.apple.com",
        "auth.atlassian.com",
        "bitbucket.org",
        "discord.com",
        "facebook.com",
        "github.com",
        "gitlab.com",
        "huggingface.co",
        "id.twitch.tv",
        "kauth.kakao.com",
        "limited.facebook.com",
        "linkedin.com",
        "login.live.com",
        "login.salesforce.com",
        "orcid.org",
        "slack.com",
        "twitter.com",
        "x.com",
        "www.facebook.com",
        "www.googleapis.com",
        "www.linkedin.com",
        "www.paypal.com",
        "www.reddit.com",
    }
)
"""Hosts of providers where anybody can have an account."""
_MICROSOFT = frozenset({"login.microsoftonline.com", "login.windows.net", "sts.windows.net"})
# The last is the tenant that all personal accounts are in.
_ANY_TENANT = frozenset({"common", "organizations", "consumers", "9188040d-6c67-4c5b-b112-36a304b66dad"})


def public_provider(url: str) -> bool:
    """Whether ``url`` is a provider's with which anybody can sign in, as far as is known."""
    parts = urlsplit(url)
    name = (parts.hostname or "").lower().removesuffix(".")
    if name in _MICROSOFT:
        return parts.path.strip("/").split("/")[0].lower() in _ANY_TENANT
    return name in PUBLIC_HOSTS


def check_sign_in_texts(texts: Mapping[str, str], origin: Mapping[str, str], problems: Problems) -> None:
    """What can be seen without knowing every value; ``texts`` holds what is set, and nothing empty."""
    issuer, client = "MLFLOW_UI_OAUTH_ISSUER_URL", "MLFLOW_UI_OAUTH_CLIENT_ID"
    set_endpoints = [name for name in ENDPOINTS if name in texts]
    if issuer in texts and set_endpoints:
        problems.add(
            set_endpoints[0],
            origin[set_endpoints[0]],
            f"is for a provider without OpenID Connect, and {issuer} is set: unset one of the two",
        )
    elif set_endpoints:
        for name in ENDPOINTS:
            if name not in texts:
                first = set_endpoints[0]
                problems.add(first, origin[first], f"one does not do without the others: set {name}")
    if client in texts:
        if issuer not in texts and not set_endpoints:
            problems.add(
                client,
                origin[client],
                f"a client needs its provider: set {issuer}, or {', '.join(ENDPOINTS)} for plain OAuth2",
            )
    else:
        for name in (issuer, *set_endpoints[:1], "MLFLOW_UI_OAUTH_CLIENT_SECRET"):
            if name in texts:
                problems.add(name, origin[name], f"sign-in needs the client's id: set {client}")
    database = texts.get("PROXY_DATABASE_URL", "").partition("://")[0].lower().partition("+")[0]
    if database and database not in ("sqlite", "postgresql", "postgres"):
        problems.add(
            "PROXY_DATABASE_URL",
            origin["PROXY_DATABASE_URL"],
            "sessions are kept in SQLite or PostgreSQL: write sqlite:////absolute/path/proxy.db or "
            "postgresql://user:password@host/name",
        )


def check_sign_in_values(settings: Settings, origin: Mapping[str, str], problems: Problems) -> None:
    """What depends on values that are each good by themselves."""

    def add(name: str, what: str) -> None:
        problems.add(name, origin.get(name, "default"), what)

    provider = settings.oauth_issuer_url or settings.oauth_authorize_url
    which = "MLFLOW_UI_OAUTH_ISSUER_URL" if settings.oauth_issuer_url else "PROXY_OAUTH_AUTHORIZE_URL"
    if provider is None:
        if not settings.basic_auth:
            add(
                "PROXY_BASIC_AUTH",
                "is off and no identity provider is set, so nobody could sign in: turn it on, or set "
                "MLFLOW_UI_OAUTH_ISSUER_URL",
            )
    else:
        if settings.public_url is None and not loopback(settings.host):
            add(
                which,
                "signing in needs one URL that the provider sends people back to: set PROXY_PUBLIC_URL, "
                "such as https://mlflow.example.com",
            )
        anybody = not (settings.allowed_email_domains or settings.allowed_groups or settings.allowed_emails)
        if anybody and public_provider(provider):
            add(
                which,
                "anybody can have an account there: say who gets in with PROXY_ALLOWED_EMAIL_DOMAINS, "
                "PROXY_ALLOWED_GROUPS or PROXY_ALLOWED_EMAILS",
            )
        if settings.oauth_issuer_url and "openid" not in settings.oauth_scopes.split():
            add("MLFLOW_UI_OAUTH_SCOPES", "lacks openid, which OpenID Connect needs: put it first")
    for name, value, longest_name, longest in (
        ("PROXY_SESSION_IDLE", settings.session_idle, "PROXY_SESSION_LIFETIME", settings.session_lifetime),
        ("PROXY_SESSION_REFRESH", settings.session_refresh, "PROXY_SESSION_IDLE", settings.session_idle),
    ):
        if value > longest:
            set_one = name if name in origin or longest_name not in origin else longest_name
            add(set_one, f"{name} may be at most {longest_name}: change one of the two")


def sign_in_warnings(settings: Settings) -> list[tuple[str, str]]:
    """What is no error and yet not likely meant: the setting and what is to be said."""
    found = []
    if settings.oauth_issuer_url or settings.oauth_authorize_url:
        if not settings.default_role and not (
            settings.viewer_groups or settings.editor_groups or settings.admin_groups
        ):
            found.append(
                (
                    "PROXY_DEFAULT_ROLE",
                    "is none and no group has a role, so whoever signs in with the identity provider may do "
                    "nothing: set PROXY_ROLE_VIEWER_GROUPS, PROXY_ROLE_EDITOR_GROUPS, "
                    "PROXY_ROLE_ADMIN_GROUPS or PROXY_DEFAULT_ROLE",
                )
            )
        if (settings.public_url or "").startswith("http://"):
            name = urlsplit(settings.public_url or "").hostname or ""
            if not loopback(name):
                found.append(
                    ("PROXY_PUBLIC_URL", "is http://, so whoever is on the way can take over sessions")
                )
    else:
        for name, value in (
            ("PROXY_ALLOWED_EMAIL_DOMAINS", settings.allowed_email_domains),
            ("PROXY_ALLOWED_EMAILS", settings.allowed_emails),
            ("PROXY_ALLOWED_GROUPS", settings.allowed_groups),
            ("PROXY_ROLE_VIEWER_GROUPS", settings.viewer_groups),
            ("PROXY_ROLE_EDITOR_GROUPS", settings.editor_groups),
            ("PROXY_ROLE_ADMIN_GROUPS", settings.admin_groups),
            ("PROXY_DEFAULT_ROLE", settings.default_role),
        ):
            if value:
                found.append(
                    (
                        name,
                        "has no effect: it is about people who sign in with an identity provider, and none "
                        "is set (MLFLOW_UI_OAUTH_ISSUER_URL)",
                    )
                )
    if settings.database_url is not None and settings.cookie_secret is None:
        url = settings.database_url.get_secret_value()
        if not re.match(r"sqlite\b", url, re.IGNORECASE):
            found.append(
                (
                    "PROXY_COOKIE_SECRET",
                    "is not set: several replicas on one PROXY_DATABASE_URL need the same",
                )
            )
    return found
