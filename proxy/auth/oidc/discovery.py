"""What a provider says of itself: its discovery document, read strictly; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proxy.auth.oidc.failures import ProviderUnavailable

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that are believed where the provider says that it makes them. A symmetric one never is: its key
would be the client's secret, or whatever public value a verifier takes for one (RFC 8725, 2.1)."""
_ODD = "The identity provider is not set up as this server expects."


@dataclass(frozen=True, slots=True)
class Metadata:
    """The endpoints and habits of one provider."""

    issuer: str
    authorization: str
    token: str
    keys: str | None = None
    """None where the provider signs nothing: plain OAuth2."""
    userinfo: str | None = None
    end_session: str | None = None
    algorithms: tuple[str, ...] = ()
    auth_methods: tuple[str, ...] = ("client_secret_basic",)
    names_itself: bool = False
    """It puts ``iss`` into its answers at the redirect URI (RFC 9207)."""


def address(issuer: str) -> str:
    """Where an issuer's document is (OpenID Connect Discovery, 4.1)."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def read(document: Any, issuer: str) -> Metadata:
    """Read a discovery document for the `issuer` in the settings. Raises ProviderUnavailable."""
    if not isinstance(document, dict):
        raise ProviderUnavailable("bad_answer", _ODD, check="Its discovery document is not a JSON object.")
    named = document.get("issuer")
    # Every character counts (Discovery, 4.3): an issuer that looks alike is another one.
    if named != issuer:
        raise ProviderUnavailable(
            "misconfigured",
            _ODD,
            check=f"MLFLOW_UI_OAUTH_ISSUER_URL is {issuer!r}, and the discovery document there names the "
            f"issuer {str(named)[:200]!r}. If that is the right provider, set exactly that.",
        )
    local = is_loopback(issuer)
    offered = _strings(document, "id_token_signing_alg_values_supported") or ("RS256",)
    algorithms = tuple(name for name in ALGORITHMS if name in offered)
    if not algorithms:
        raise ProviderUnavailable(
            "misconfigured",
            _ODD,
            check=f"It signs identity tokens with {', '.join(offered)[:200]} alone; one of "
            f"{', '.join(ALGORITHMS)} is needed.",
        )
    return Metadata(
        issuer=issuer,
        authorization=endpoint(document, "authorization_endpoint", local),
        token=endpoint(document, "token_endpoint", local),
        keys=endpoint(document, "jwks_uri", local),
        userinfo=_optional(document, "userinfo_endpoint", local),
        end_session=_optional(document, "end_session_endpoint", local),
        algorithms=algorithms,
        auth_methods=_strings(document, "token_endpoint_auth_methods_supported") or ("client_secret_basic",),
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def auth_method(metadata: Metadata, secret: bool) -> str:
    """How the client shows at the token endpoint who it is. Raises ProviderUnavailable."""
    if not secret:
        return "none"
    for method in ("client_secret_basic", "client_secret_post"):
        if method in metadata.auth_methods:
            return method
    raise ProviderUnavailable(
        "misconfigured",
        _ODD,
        check=f"It knows clients by {', '.join(metadata.auth_methods)[:200]} alone; client_secret_basic or "
        "client_secret_post is needed.",
    )


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _optional(document: Mapping[str, Any], name: str, local: bool) -> str | None:
    return None if document.get(name) in (None, "") else endpoint(document, name, local)


def endpoint(document: Mapping[str, Any], name: str, local: bool) -> str:
    """The https URL of that name in a document, or an http one on loopback where the issuer is `local` too.

    Raises ProviderUnavailable.
    """
    value = document.get(name)
    try:
        parts = (
            urlsplit(value) if isinstance(value, str) and value.isprintable() and " " not in value else None
        )
        good = parts is not None and bool(parts.hostname) and parts.username is None and not parts.fragment
        # Plain HTTP from one program of this machine to another, for trying things out, and no other.
        if parts is not None and good and parts.scheme != "https":
            good = parts.scheme == "http" and local and is_loopback(str(value))
    except ValueError:
        good = False
    if not good:
        raise ProviderUnavailable(
            "bad_answer", _ODD, check=f"Its discovery document has no https URL as {name}."
        )
    return str(value)


def _strings(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
