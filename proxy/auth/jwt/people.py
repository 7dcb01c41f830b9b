"""Who bears an access token of the identity provider, and as what: a person, or a client itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from proxy.auth import admission
from proxy.auth.jwt import reading
from proxy.auth.oidc import claims as claims_of
from proxy.auth.oidc.claims import MISSING, Claims
from proxy.auth.verified import reserved_name
from proxy.identity import Role
from proxy.settings.sign_in import public_provider

if TYPE_CHECKING:
    from proxy.settings import Settings

CLIENT_PREFIX = "client:"
"""What the user names of clients begin with (RFC 6749, 4.4), and nobody else's."""


class Bearer(NamedTuple):
    """Whose token it is."""

    user: str
    role: Role
    subject: str
    credential: str = ""
    """What the credential is called: the client that the token was given to."""
    asked: bool = False
    """Whether something was taken from the person's last sign-in, which may change."""
    whole: Claims | None = None
    """What the token says of a person, where that is all that a sign-in would."""


class NotAdmitted(Exception):
    """Somebody whom the issuer knows, and who may do nothing here; the text is for the caller."""


class People:
    """Reads the provider's tokens as the settings say.

    `last` gives what the provider said of a person at the last sign-in here, and None where there was none,
    or none that still counts.
    """

    def __init__(
        self,
        settings: Settings,
        issuer: str,
        last: Callable[[str, str], Awaitable[Claims | None]],
        also_reserved: tuple[str, ...],
    ) -> None:
        self._settings = settings
        self._issuer = issuer
        self._last = last
        self._reserved = also_reserved
        groups_count = (
            settings.allowed_groups,
            settings.viewer_groups,
            settings.editor_groups,
            settings.admin_groups,
        )
        self._wanted = {settings.oauth_user_claim or "email"}
        if any(groups_count):
            self._wanted.add(settings.groups_claim)
        if settings.allowed_emails or settings.allowed_email_domains:
            self._wanted.add("email")
        if "email" in self._wanted:
            self._wanted.add("email_verified")

    async def bearer(self, raw: Mapping[str, Any]) -> Bearer:
        """Of verified claims. Raises NotAdmitted, and what `last` raises."""
        subject, client = claims_of.text(raw.get("sub")), reading.client_of(raw)
        if subject is None:
            raise NotAdmitted("The token has no subject (sub) that can be used.")
        if client is not None and reading.clients_own(raw, client):
            return self._client(raw, subject, client)
        asked = any(claims_of.at(raw, name) is MISSING for name in self._wanted)
        if asked and (last := await self._last(self._issuer, subject)) is not None:
            raw = self._completed(raw, last)
        try:
            claims = claims_of.claims_of(
                raw,
                issuer=self._issuer,
                subject=subject,
                groups_claim=self._settings.groups_claim,
                user_claim=self._settings.oauth_user_claim,
            )
        except ValueError:
            raise NotAdmitted(
                f"The token does not say your user name ({self._settings.oauth_user_claim}), and you have "
                "not signed in here with a browser lately: do that once, or have the provider put it into "
                "access tokens."
            ) from None
        if reserved_name(claims.user) or claims.user.startswith(self._reserved):
            raise NotAdmitted(f"The user name {claims.user!r} begins as those of programs do.")
        why = admission.admitted(claims, self._settings)
        role = admission.role_of(claims.groups, self._settings)
        if why is None and not role:
            why = admission.no_role(claims)
        if why is not None:
            if asked:
                why += (
                    " The access token does not say everything that this depends on; what it lacks is taken "
                    "from your last sign-in here with a browser."
                )
            raise NotAdmitted(why)
        # A sign-in asks for the address whatever the settings (oidc/identity.py).
        whole = None if asked or claims.email is None else claims
        return Bearer(claims.user, role, subject, client or "", asked, whole)

    def _client(self, raw: Mapping[str, Any], subject: str, client: str) -> Bearer:
        """A client has no address, so the rules about those can't let it in: a group has to, or there are
        none."""
        settings, user = self._settings, f"{CLIENT_PREFIX}{client}"
        groups = set(claims_of.groups_of(claims_of.at(raw, settings.groups_claim)))
        by_group = groups.intersection(
            settings.viewer_groups + settings.editor_groups + settings.admin_groups
        )
        if settings.allowed_groups:
            admitted = bool(groups.intersection(settings.allowed_groups))
        elif settings.allowed_emails or settings.allowed_email_domains:
            admitted = bool(by_group)
        else:
            admitted = not public_provider(self._issuer)
        role = admission.role_of(tuple(groups), settings) if admitted else Role.NONE
        if not role:
            raise NotAdmitted(
                f"The token is {client}'s own, and no group of it (claim {settings.groups_claim}) gives it a "
                "role here. The administrator of this server can name one (PROXY_ROLE_VIEWER_GROUPS, "
                "PROXY_ROLE_EDITOR_GROUPS, PROXY_ROLE_ADMIN_GROUPS, PROXY_ALLOWED_GROUPS)."
            )
        return Bearer(user, role, subject, client)

    def _completed(self, raw: Mapping[str, Any], last: Claims) -> dict[str, Any]:
        """The token's claims, and what they lack of those that count."""
        known: dict[str, Any] = {"email": last.email, "email_verified": last.email_verified}
        more: dict[str, Any] = {self._settings.groups_claim: list(last.groups)}
        if self._settings.oauth_user_claim is not None:
            more[self._settings.oauth_user_claim] = last.user
        for name, value in more.items():
            # A path with dots is a claim of that whole name here, so it may not hide the token's own.
            if claims_of.at(raw, name) is MISSING:
                known[name] = value
        return claims_of.merged(raw, known)
