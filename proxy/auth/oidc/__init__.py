"""Sign-in with an identity provider: OpenID Connect, and plain OAuth2 with a user-info answer."""

from proxy.auth.oidc.claims import Claims, Tokens
from proxy.auth.oidc.failures import RESULTS, ProviderError, ProviderRefused, ProviderUnavailable
from proxy.auth.oidc.provider import Authorization, Provider, SignedIn
from proxy.auth.oidc.state import LIFE, Seal
from proxy.auth.oidc.tokens import LOGOUT_AGE, Logout

__all__ = [
    "LIFE",
    "LOGOUT_AGE",
    "RESULTS",
    "Authorization",
    "Claims",
    "Logout",
    "Provider",
    "ProviderError",
    "ProviderRefused",
    "ProviderUnavailable",
    "Seal",
    "SignedIn",
    "Tokens",
]
