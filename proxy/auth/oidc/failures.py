"""What can go wrong with an identity provider: a closed set of reasons, and words for a person and the operator."""

from __future__ import annotations

REASONS = frozenset(
    {
        "unavailable",  # it can't be reached, is too slow, or says that it can't now
        "bad_answer",  # what it answers is not what the standard says, or too much
        "misconfigured",  # it and our settings don't fit: another issuer, a refused client, no common algorithm
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
