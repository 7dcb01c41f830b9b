"""The settings of programs' credentials: our tokens, providers' tokens, names on runs, the audit log."""

from __future__ import annotations

from typing import Annotated

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from proxy.settings import sign_in_values, values
from proxy.settings.kinds import FilePath, Flag, Names, Size, setting
from proxy.settings.values import read, read_secret

_DAY = 86400.0


class CredentialFields(BaseSettings):
    """The part of Settings that those are."""

    token_max_lifetime: Annotated[float, read(values.seconds_up_to(10 * 366 * 86400))] = setting(
        "PROXY_TOKEN_MAX_LIFETIME",
        "Tokens",
        365 * _DAY,
        "The longest time in seconds for which a personal access token or a service account's token may be "
        "made. Tokens that are there already keep theirs.",
    )
    token_overlap: Annotated[float, read(values.seconds_up_to(90 * 86400))] = setting(
        "PROXY_TOKEN_OVERLAP",
        "Tokens",
        _DAY,
        "Seconds for which an old token goes on beside the new one when it is renewed, unless said otherwise "
        "then.",
    )
    token_sign_in_within: Annotated[float, read(values.seconds_up_to(10 * 366 * 86400))] = setting(
        "PROXY_TOKEN_SIGN_IN_WITHIN",
        "Tokens",
        90 * _DAY,
        "Seconds after a person was last vouched for by the identity provider (at a sign-in, or when a "
        "session was refreshed) when the person's tokens stop counting, until the next sign-in. The provider "
        "can't be asked about somebody who is not signed in.",
    )
    jwt_audience: Names = setting(
        "PROXY_JWT_AUDIENCE",
        "Tokens",
        (),
        "Audiences (aud), separated by commas, whose JWT access tokens of the identity provider "
        "(MLFLOW_UI_OAUTH_ISSUER_URL) are accepted as bearer tokens. Empty: none is. It is the name of this "
        "API at the provider, and never the client id.",
        example="https://mlflow.example.com",
    )
    jwt_issuers_file: FilePath | None = setting(
        "PROXY_JWT_ISSUERS_FILE",
        "Tokens",
        None,
        "A YAML file of further issuers whose JWTs are accepted, each with its own audience, claims and "
        "roles: CI systems, Kubernetes service accounts, a second provider. docs/jwt.md explains it.",
        example="/etc/mlflow-proxy/jwt-issuers.yaml",
    )
    cli_client_id: Annotated[str | None, read(values.text_value)] = setting(
        "PROXY_CLI_CLIENT_ID",
        "Tokens",
        None,
        "The public client (no secret) at the identity provider that `mlflow-proxy login` uses: allow it the "
        "device authorization grant, or the redirect URI http://127.0.0.1/callback with any port. Without "
        "it, `mlflow-proxy login` asks for a user name and password, or takes a token.",
        example="mlflow-cli",
    )
    cli_scopes: Annotated[str, read(sign_in_values.scopes)] = setting(
        "PROXY_CLI_SCOPES",
        "Tokens",
        "openid email profile offline_access",
        "What `mlflow-proxy login` asks of the provider, separated by spaces.",
    )
    verified_names: Flag = setting(
        "PROXY_VERIFIED_NAMES",
        "Tokens",
        True,
        "Write the verified user on runs and logged models (mlflow.user, user_id) in place of what the "
        "client claims, with the credential's name beside it, and let no client change either.",
    )
    audit: Flag = setting(
        "PROXY_AUDIT_LOG",
        "Audit",
        True,
        "Write the audit log: who signed in, was refused, made or revoked a token, deleted something.",
    )
    audit_file: FilePath | None = setting(
        "PROXY_AUDIT_FILE",
        "Audit",
        None,
        "The audit log's file, JSON lines.",
        default_note="audit/audit.jsonl in the data directory",
    )
    audit_max_size: Size = setting(
        "PROXY_AUDIT_MAX_SIZE",
        "Audit",
        100 * 2**20,
        "The size at which the audit log goes on in a new file; the old one is kept beside it. A size: "
        "104857600, 100MiB.",
    )
    audit_key: Annotated[SecretStr | None, read_secret(sign_in_values.secret_list)] = setting(
        "PROXY_AUDIT_KEY",
        "Audit",
        None,
        "The secret that the audit log's lines are authenticated with (HMAC), at least 32 characters, as "
        "`openssl rand -hex 32` prints. Several are separated by commas: the first is used, all verify.",
        default_note="generated on first start and kept in the data directory",
    )
