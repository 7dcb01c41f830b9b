"""The settings of people who sign in: the identity provider, roles, sessions, and our pages."""

from __future__ import annotations

from typing import Annotated

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from proxy.identity import Role
from proxy.settings import sign_in_values, values
from proxy.settings.kinds import FilePath, Flag, Names, Text, Url, setting
from proxy.settings.values import read, read_secret


class PeopleFields(BaseSettings):
    """The part of Settings that those are."""

    oauth_issuer_url: Annotated[str | None, read(sign_in_values.issuer_url)] = setting(
        "MLFLOW_UI_OAUTH_ISSUER_URL",
        "Identity provider",
        None,
        "The OpenID Connect provider's issuer, exactly as its discovery document has it (a slash at its end "
        "counts). Together with the client's id it turns sign-in on.",
        example="https://login.example.com/realms/team",
    )
    oauth_client_id: Text | None = setting(
        "MLFLOW_UI_OAUTH_CLIENT_ID",
        "Identity provider",
        None,
        "The id that this service is registered under. Register the redirect URI as the public URL with "
        "/oauth2/callback after it.",
        example="mlflow",
    )
    oauth_client_secret: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "MLFLOW_UI_OAUTH_CLIENT_SECRET",
        "Identity provider",
        None,
        "The client's secret; empty for a public client, which PKCE alone protects.",
    )
    oauth_scopes: Annotated[str, read(sign_in_values.scopes)] = setting(
        "MLFLOW_UI_OAUTH_SCOPES",
        "Identity provider",
        "openid email profile",
        "What is asked of the provider, separated by spaces. Many give groups, or a refresh token "
        "(offline_access), only where that is asked for.",
    )
    oauth_authorize_url: Url | None = setting(
        "PROXY_OAUTH_AUTHORIZE_URL",
        "Identity provider",
        None,
        "For a plain OAuth2 provider without OpenID Connect, in place of the issuer: where people are sent.",
        example="https://github.com/login/oauth/authorize",
    )
    oauth_token_url: Url | None = setting(
        "PROXY_OAUTH_TOKEN_URL",
        "Identity provider",
        None,
        "Such a provider's token endpoint.",
        example="https://github.com/login/oauth/access_token",
    )
    oauth_userinfo_url: Url | None = setting(
        "PROXY_OAUTH_USERINFO_URL",
        "Identity provider",
        None,
        "Such a provider's endpoint that says who somebody is.",
        example="https://api.github.com/user",
    )
    oauth_user_claim: Text | None = setting(
        "PROXY_OAUTH_USER_CLAIM",
        "Identity provider",
        None,
        "The claim that is a person's user name here, in logs and in MLflow. It must be one that a person "
        "can't choose freely.",
        example="preferred_username",
        default_note="the verified e-mail address, else the subject",
    )
    allowed_email_domains: Annotated[tuple[str, ...], read(sign_in_values.email_domains), "list"] = setting(
        "PROXY_ALLOWED_EMAIL_DOMAINS",
        "Identity provider",
        (),
        "Who gets in: people whose verified e-mail address ends in one of these domains, each in full, "
        "separated by commas. With all three PROXY_ALLOWED_* empty everybody the provider knows gets in, "
        "which is refused at start for public providers.",
        example="example.com,example.org",
    )
    allowed_groups: Names = setting(
        "PROXY_ALLOWED_GROUPS",
        "Identity provider",
        (),
        "Who gets in: members of one of these groups, separated by commas. With addresses or domains named "
        "as well, both have to match.",
        example="ml-team,research",
    )
    allowed_emails: Annotated[tuple[str, ...], read(sign_in_values.emails), "list"] = setting(
        "PROXY_ALLOWED_EMAILS",
        "Identity provider",
        (),
        "Who gets in: people with one of these verified e-mail addresses, separated by commas.",
        example="ada@example.com",
    )
    clock_skew: Annotated[float, read(values.seconds_up_to(600))] = setting(
        "PROXY_CLOCK_SKEW",
        "Identity provider",
        60.0,
        "Seconds by which the provider's clock may differ from ours; at most 600.",
    )
    groups_claim: Text = setting(
        "PROXY_GROUPS_CLAIM",
        "Roles",
        "groups",
        "The claim that holds a person's groups, in the identity token or the user-info answer; a path with "
        "dots leads to one inside others. A claim whose whole name is that comes first.",
        example="resource_access.mlflow.roles",
    )
    viewer_groups: Names = setting(
        "PROXY_ROLE_VIEWER_GROUPS",
        "Roles",
        (),
        "Groups whose members are viewers, separated by commas. The highest role that matches counts.",
    )
    editor_groups: Names = setting(
        "PROXY_ROLE_EDITOR_GROUPS",
        "Roles",
        (),
        "Groups whose members are editors, separated by commas.",
    )
    admin_groups: Names = setting(
        "PROXY_ROLE_ADMIN_GROUPS",
        "Roles",
        (),
        "Groups whose members are admins, separated by commas.",
    )
    default_role: Annotated[Role, read(sign_in_values.any_role)] = setting(
        "PROXY_DEFAULT_ROLE",
        "Roles",
        Role.NONE,
        "The role of people in none of these groups who signed in with the identity provider: none, viewer, "
        "editor or admin.",
    )
    cookie_secret: Annotated[SecretStr | None, read_secret(sign_in_values.secret_list)] = setting(
        "PROXY_COOKIE_SECRET",
        "Sessions",
        None,
        "Signs the sessions' cookies and encrypts the provider's tokens. Several, separated by commas: the "
        "first is used, all are accepted, so put a new one first and drop the old one after "
        "PROXY_SESSION_LIFETIME. Each has at least 32 characters, as `openssl rand -hex 32` prints. Replicas "
        "need the same.",
        default_note="generated on first start and kept in the data directory",
    )
    session_idle: Annotated[float, read(values.seconds_up_to(90 * 86400))] = setting(
        "PROXY_SESSION_IDLE",
        "Sessions",
        8 * 3600.0,
        "Seconds without a request after which a session ends.",
    )
    session_lifetime: Annotated[float, read(values.seconds_up_to(90 * 86400))] = setting(
        "PROXY_SESSION_LIFETIME",
        "Sessions",
        7 * 86400.0,
        "Seconds after signing in when a session ends however much it is used.",
    )
    session_refresh: Annotated[float, read(values.seconds_up_to(86400))] = setting(
        "PROXY_SESSION_REFRESH",
        "Sessions",
        300.0,
        "Seconds for which a person's groups are believed before the provider is asked again: who loses a "
        "group there loses its role here within that time.",
    )
    session_grace: Annotated[float, read(values.seconds_up_to(86400))] = setting(
        "PROXY_SESSION_GRACE",
        "Sessions",
        900.0,
        "Seconds for which sessions in use go on while their database does not answer. All others get 503.",
    )
    database_url: Annotated[SecretStr | None, read_secret(values.text_value)] = setting(
        "PROXY_DATABASE_URL",
        "Sessions",
        None,
        "Where sessions are kept: sqlite:/// with a path, or postgresql:// with user, password, host and "
        "name, which several replicas need. It may be MLflow's own PostgreSQL: the tables have names of "
        "their own.",
        example="postgresql://mlflow:PASSWORD@db.example.com/mlflow",
        default_note="SQLite in the data directory (proxy.db)",
    )
    name: Annotated[str, read(sign_in_values.display_name)] = setting(
        "PROXY_NAME",
        "Pages",
        "MLflow",
        "What the sign-in page and the other pages of this service call it; at most 60 characters.",
    )
    logo_file: FilePath | None = setting(
        "PROXY_LOGO_FILE",
        "Pages",
        None,
        "A picture that those pages show: SVG, PNG, JPEG or WebP, at most 256 KiB.",
        example="/etc/mlflow-proxy/logo.svg",
    )
    compression: Flag = setting(
        "PROXY_COMPRESSION",
        "Pages",
        True,
        "Compress the files of MLflow's UI (once, in the background, kept in the data directory) and "
        "MLflow's larger JSON answers, for clients that take them so.",
    )
