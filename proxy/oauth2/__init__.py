"""The pages under /oauth2, by the paths that oauth2-proxy's users know: signing in and out."""

from proxy.oauth2.asking import asking
from proxy.oauth2.redirects import safe_rd
from proxy.oauth2.routes import routes

__all__ = ["asking", "routes", "safe_rd"]
