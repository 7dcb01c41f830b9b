"""Sign-in with an identity provider: OpenID Connect, and plain OAuth2 with a user-info answer."""

from proxy.auth.oidc.claims import Claims, Tokens
from proxy.auth.oidc.failures import RESULTS, ProviderError, ProviderRefused, ProviderUnavailable

__all__ = [
    "RESULTS",
    "Claims",
    "ProviderError",
    "ProviderRefused",
    "ProviderUnavailable",
    "Tokens",
]
