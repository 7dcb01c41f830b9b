"""What can go wrong with an identity provider: a closed set of reasons, worded for people and operators."""

from __future__ import annotations

REASONS = frozenset(
    {
        "unavailable",  # it can't be reached, is too slow, or says that it can't now
        "bad_answer",  # what it answers is not what the standard says, or too much
        "misconfigured",  # it and our settings don't fit: another issuer, a refused client
        "bad_state",  # the sign-in was not begun here, by this browser, lately; or it ended already
        "bad_token",  # an identity or logout token that is not valid for us
        "denied",  # the provider refuses the person, or the person did
        "not_admitted",  # PROXY_ALLOWED_* does not let this person in
        "no_role",  # no group gives a role, and there is no default one
        "loop",  # signed in again and again without being let through
    }
)
RESULTS = REASONS | {"success", "refreshed", "logout"}
"""What ``observe("oidc", result)`` is called with."""


class ProviderError(Exception):
    """A sign-in or a refresh that failed; `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str, *, check: str = "", said: str = "") -> None:
        super().__init__(f"{message} {check}".strip())
        self.reason = reason
        self.message = message
        """What happened, for the person in front of it."""
        self.check = check
        """What the operator can look at; it names settings, never a secret."""
        self.said = said
        """The provider's own words: text of a stranger, to be shown as text alone."""


class ProviderUnavailable(ProviderError):
    """The provider gave no usable answer: it says nothing about the person, whose session goes on."""


class ProviderRefused(ProviderError):
    """The provider no longer vouches for the person: the session ends."""


# RFC 6749, 5.2 and OpenID Connect Core, 3.1.2.6: about the person, not about us or the provider's state.
ABOUT_THE_PERSON = frozenset(
    {
        "invalid_grant",
        "access_denied",
        "interaction_required",
        "login_required",
        "consent_required",
        "account_selection_required",
    }
)
_OUT_OF_ORDER = frozenset({"server_error", "temporarily_unavailable"})
_ABOUT_US = frozenset({"invalid_client", "unauthorized_client"})


def bad_answer(check: str) -> ProviderUnavailable:
    return ProviderUnavailable("bad_answer", "The identity provider's answer can't be used.", check=check)


def bad_state(check: str) -> ProviderError:
    return ProviderError("bad_state", "This sign-in can't be completed. Begin it again.", check=check)


def mixed_up(check: str) -> ProviderError:
    return ProviderError(
        "bad_token", "The answer is not the identity provider's that you signed in with.", check=check
    )


def out_of_order(said: str) -> ProviderUnavailable:
    return ProviderUnavailable("unavailable", "The identity provider is out of order.", said=said)


def at_redirect(error: str, description: str) -> ProviderError:
    """What an error in the answer at the redirect URI is called (RFC 6749, 4.1.2.1)."""
    said = description or error
    if error in _OUT_OF_ORDER:
        return out_of_order(said)
    if error in ABOUT_THE_PERSON:
        return ProviderError("denied", "The identity provider did not let you in.", said=said)
    return ProviderError(
        "misconfigured",
        "The identity provider refused the sign-in.",
        check=f"It answered {error[:100]!r}. Look at the client, its redirect URI and its scopes "
        "(MLFLOW_UI_OAUTH_SCOPES).",
        said=said,
    )


def at_code(error: str, description: str) -> ProviderError:
    """What the token endpoint's error is called where a code was to be exchanged."""
    if error in _ABOUT_US or error in _OUT_OF_ORDER:
        return _at_token(error, description)
    return ProviderError(
        "denied",
        "The identity provider did not complete the sign-in.",
        check=f"Its token endpoint answered {error[:100]!r}. Look at the redirect URI and the client that "
        "are registered there.",
        said=description,
    )


def at_refresh(error: str, description: str) -> ProviderError:
    """The same where a session was to be refreshed: what is not about the person does not end it."""
    if error in ABOUT_THE_PERSON:
        return ProviderRefused(
            "denied",
            "The identity provider has ended your session.",
            check=f"Its answer to a refresh was {error}.",
            said=description,
        )
    return _at_token(error, description)


def _at_token(error: str, description: str) -> ProviderUnavailable:
    if error in _OUT_OF_ORDER:
        return out_of_order(description)
    return ProviderUnavailable(
        "misconfigured",
        "The identity provider does not know this server.",
        check=f"Its token endpoint answered {error[:100]!r}. Look at MLFLOW_UI_OAUTH_CLIENT_ID and "
        "MLFLOW_UI_OAUTH_CLIENT_SECRET.",
        said=description,
    )
