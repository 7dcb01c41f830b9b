"""JWT access tokens as bearer credentials: the identity provider's, and those of further issuers."""

from proxy.auth.jwt.jwts import Jwts

__all__ = ["Jwts"]
