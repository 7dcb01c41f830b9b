"""Who gets in, and as what: by e-mail address and groups; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.auth.oidc.claims import Claims, address
from proxy.identity import Role

if TYPE_CHECKING:
    from proxy.settings import Settings

PUBLIC_ISSUERS = frozenset(
    {
        "accounts.google.com",
        "account.apple.com",
        "appleid.apple.com",
        "auth.openai.com",
        "bitbucket.org",
        "discord.com",
        "github.com",
        "gitlab.com",
        "id.twitch.tv",
        "login.live.com",
        "login.salesforce.com",
        "login.yahoo.com",
        "oauth.telegram.org",
        "orcid.org",
        "sandbox.orcid.org",
        "slack.com",
        "token.actions.githubusercontent.com",
        "www.facebook.com",
        "www.linkedin.com",
        "www.paypal.com",
    }
)
"""Hosts of providers at which anybody can have an account."""
# Entra ID's endpoints for every tenant and for private accounts, in place of a tenant's id.
_EVERY_TENANT = frozenset({"common", "organizations", "consumers", "9188040d-6c67-4c5b-b112-36a304b66dad"})


def is_public(issuer: str) -> bool:
    """Whether anybody at all can have an account at that issuer, as far as is known."""
    parts = urlsplit(issuer.lower())
    host = (parts.hostname or "").rstrip(".")
    if host == "login.microsoftonline.com":
        return parts.path.strip("/").partition("/")[0] in _EVERY_TENANT
    return host in PUBLIC_ISSUERS


def problems(settings: Settings) -> list[str]:
    """What of the settings for sign-in would let in whom nobody meant; one line each, for a UserError."""
    found = []
    issuer = settings.oauth_issuer_url or settings.oauth_authorize_url
    if issuer and is_public(issuer) and not _anybody_named(settings):
        found.append(
            f"{'MLFLOW_UI_OAUTH_ISSUER_URL' if settings.oauth_issuer_url else 'PROXY_OAUTH_AUTHORIZE_URL'}: "
            f"anybody can have an account at {urlsplit(issuer).hostname}, so say who gets in: "
            "PROXY_ALLOWED_EMAIL_DOMAINS, PROXY_ALLOWED_EMAILS or PROXY_ALLOWED_GROUPS"
        )
    return found


def admitted(claims: Claims, settings: Settings) -> str | None:
    """None where this person gets in, else why not, for the person.

    PROXY_ALLOWED_EMAILS and PROXY_ALLOWED_EMAIL_DOMAINS together say which addresses count; where
    PROXY_ALLOWED_GROUPS is set, a group has to match as well. An address that is not verified, or not of the
    plain kind, is none.
    """
    if not _anybody_named(settings) and is_public(claims.issuer):
        return "Nobody is named who gets in here, and anybody can have an account at that provider."
    emails, domains = settings.allowed_emails, settings.allowed_email_domains
    if emails or domains:
        email = address(claims.email)
        if email is None:
            return "The identity provider gave no e-mail address of yours, and who gets in here goes by that."
        if not claims.email_verified:
            return (
                f"The identity provider has not verified the address {email}, and who gets in here goes by "
                "that."
            )
        email = email.lower()
        domain = email.rpartition("@")[2]
        if email not in map(str.lower, emails) and domain not in map(str.lower, domains):
            return f"{email} is not among those who get in here."
    if settings.allowed_groups and not set(claims.groups).intersection(settings.allowed_groups):
        return f"{_shown(claims)} is in none of the groups that get in here."
    return None


def role_of(groups: tuple[str, ...], settings: Settings) -> Role:
    """The highest role that a group gives, else the default one. Names are compared exactly."""
    for role, names in (
        (Role.ADMIN, settings.admin_groups),
        (Role.EDITOR, settings.editor_groups),
        (Role.VIEWER, settings.viewer_groups),
    ):
        if not set(groups).isdisjoint(names):
            return max(role, settings.default_role)
    return settings.default_role


def role(claims: Claims, settings: Settings) -> Role | None:
    """The role of a person who gets in; None for one who does not, or has none."""
    return None if admitted(claims, settings) is not None else role_of(claims.groups, settings) or None


def no_role(claims: Claims) -> str:
    """What a person is told who gets in and may do nothing."""
    return (
        f"You are signed in as {_shown(claims)}, and none of your groups gives you a role here. The "
        "administrator of this server can add one (PROXY_ROLE_VIEWER_GROUPS, PROXY_ROLE_EDITOR_GROUPS, "
        "PROXY_ROLE_ADMIN_GROUPS, PROXY_DEFAULT_ROLE)."
    )


def _anybody_named(settings: Settings) -> bool:
    return bool(settings.allowed_emails or settings.allowed_email_domains or settings.allowed_groups)


def _shown(claims: Claims) -> str:
    return claims.user or claims.subject
