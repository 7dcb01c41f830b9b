"""Who gets in, and as what: by e-mail address and groups; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.auth.oidc.claims import Claims, address
from proxy.identity import Role
from proxy.settings.sign_in import public_provider

if TYPE_CHECKING:
    from proxy.settings import Settings


def admitted(claims: Claims, settings: Settings) -> str | None:
    """None where this person gets in, else why not, for the person.

    PROXY_ALLOWED_EMAILS and PROXY_ALLOWED_EMAIL_DOMAINS together say which addresses count; where
    PROXY_ALLOWED_GROUPS is set, a group has to match as well. An address that is not verified, or not of the
    plain kind, is none.
    """
    if not _anybody_named(settings) and public_provider(claims.issuer):
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
