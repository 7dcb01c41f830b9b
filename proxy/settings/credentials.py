"""What must fit together about programs' credentials: providers' tokens, the command's client, the audit."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.errors import UserError
from proxy.settings import jwt_issuers
from proxy.settings.fields import Settings
from proxy.settings.sources import Problems

SMALLEST_AUDIT_FILE = 64 * 1024
"""Bytes; less would be a new file every few minutes."""


def check_credential_texts(texts: Mapping[str, str], origin: Mapping[str, str], problems: Problems) -> None:
    """What can be seen without knowing every value; ``texts`` holds what is set, and nothing empty."""
    issuer = "MLFLOW_UI_OAUTH_ISSUER_URL"
    for name, what in (
        ("PROXY_JWT_AUDIENCE", "is about access tokens of the identity provider"),
        ("PROXY_CLI_CLIENT_ID", "is a client of the identity provider"),
    ):
        if name in texts and issuer not in texts:
            problems.add(name, origin[name], f"{what}, which has to be one with OpenID Connect: set {issuer}")


def check_credential_values(settings: Settings, origin: Mapping[str, str], problems: Problems) -> None:
    """What depends on values that are each good by themselves."""

    def add(name: str, what: str) -> None:
        problems.add(name, origin.get(name, "default"), what)

    for name, client in (
        ("MLFLOW_UI_OAUTH_CLIENT_ID", settings.oauth_client_id),
        ("PROXY_CLI_CLIENT_ID", settings.cli_client_id),
    ):
        if client is not None and client in settings.jwt_audience:
            add(
                "PROXY_JWT_AUDIENCE",
                f"has {name}, whose identity tokens would be taken for access tokens: register this API at "
                "the provider by a name of its own (docs/jwt.md)",
            )
    if settings.jwt_issuers_file is not None:
        try:
            jwt_issuers.read(settings.jwt_issuers_file, settings.oauth_issuer_url)
        except UserError as error:
            for line in str(error).splitlines():
                add("PROXY_JWT_ISSUERS_FILE", line)
    if settings.audit_max_size < SMALLEST_AUDIT_FILE:
        add("PROXY_AUDIT_MAX_SIZE", f"is less than {SMALLEST_AUDIT_FILE} bytes (64KiB): write more")
