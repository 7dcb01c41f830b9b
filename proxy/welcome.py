"""What a person is told once MLflow is ready: where it is, and the lines to paste."""

from __future__ import annotations

import shlex
from pathlib import Path

from proxy.settings import Settings


def welcome(
    settings: Settings, url: str, user: str | None, generated_password: str | None, authority: Path | None
) -> str:
    """The text. A password that a person has set is not repeated; `authority` is our own CA's certificate.

    `user` is None where only those of the users file can sign in.
    """
    password = "<your password>" if generated_password is None else generated_password
    exports = {"MLFLOW_TRACKING_URI": url}
    if user is not None:
        exports["MLFLOW_TRACKING_USERNAME"] = user
        exports["MLFLOW_TRACKING_PASSWORD"] = password
    if authority is not None:
        exports["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(authority.absolute())
    lines = ["", f"MLflow is ready at {url}", ""]
    if user is not None:
        kept = f"   (kept in {settings.data_dir / 'password'})" if generated_password else ""
        shown = generated_password or "the one in MLFLOW_TRACKING_PASSWORD"
        lines += [f"    user      {user}", f"    password  {shown}{kept}"]
    elif settings.basic_auth:
        lines += [f"    users     those of {settings.users_file}"]
    if provider := settings.oauth_issuer_url or settings.oauth_authorize_url:
        lines += [f"    sign in   with {provider}"]
    lines += ["", "For MLflow's client, paste:", ""]
    lines += [f"    export {name}={shlex.quote(value)}" for name, value in exports.items()]
    lines += ["", f"Better than a password: a token for each program, made at {url}/-/account."]
    if authority is not None:
        lines += ["", f"A browser warns until it trusts {authority.absolute()}."]
    return "\n".join([*lines, ""])
