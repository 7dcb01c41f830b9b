"""Signing in with a browser on another machine: the device authorization grant (RFC 8628)."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlflow_proxy_client.addresses import is_safe
from mlflow_proxy_client.errors import Away, Problem, plain
from mlflow_proxy_client.http import ask, provider_trust
from mlflow_proxy_client.oauth import Client, Tokens, request_tokens, said, tokens_of

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER = 5.0
"""Seconds that slow_down adds to the interval (section 3.5)."""


def sign_in(client: Client, say: Callable[[str], None]) -> Tokens:
    """Show a code with `say` and wait until somebody has entered it. Raises Problem."""
    if not client.device_endpoint:
        raise Problem(
            f"{plain(client.issuer)} has no device authorization grant; use --browser where there is one"
        )
    form = {"client_id": client.client_id, "scope": client.scopes, **client.target()}
    begun = ask("POST", client.device_endpoint, provider_trust(), form=form)
    code, user_code = begun.text("device_code"), begun.text("user_code")
    page = begun.text("verification_uri") or begun.text("verification_url")
    if begun.status != 200 or code is None or user_code is None or page is None:
        raise Problem(
            f"the provider does not let {plain(client.client_id)} in from another machine: {said(begun)}"
        )
    whole = begun.text("verification_uri_complete") or page
    if not (is_safe(page) and is_safe(whole)):
        raise Problem(f"the provider's page {plain(page)} is not encrypted")
    say(f"Open {plain(page)} in a browser, on any machine, and enter the code {plain(user_code)}")
    if whole != page:
        say(f"or open {plain(whole)}")
    deadline = time.monotonic() + _seconds(begun.data.get("expires_in"), 600.0, 3600.0)
    interval = _seconds(begun.data.get("interval"), 5.0, 60.0)
    while time.monotonic() < deadline:
        time.sleep(interval)
        try:
            answer, asked = request_tokens(client, {"grant_type": GRANT, "device_code": code})
        except Away:
            interval = min(interval * 2, 60.0)  # section 3.5: back off where no answer comes
            continue
        error = answer.text("error")
        if answer.status == 200:
            return tokens_of(answer, asked)
        if error == "slow_down":
            interval += _SLOWER
        elif error == "expired_token":
            break
        elif error == "access_denied":
            raise Problem("the sign-in was refused in the browser")
        elif answer.status < 500 and error != "authorization_pending":
            raise Problem(f"the provider refuses the sign-in: {said(answer)}")
    raise Problem("nobody entered the code in time; run the command again")


def _seconds(value: object, otherwise: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        return otherwise
    return min(float(value), most)
