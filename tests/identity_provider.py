"""The tests' real identity provider: npm oidc-provider in a Node process of its own, started and turned."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from programs import program
from service import clean_environment, free_port

ROOT = Path(__file__).parent.parent
CLIENT, SECRET = "mlflow-proxy", "a-secret-for-the-tests-of-sign-in"
PASSWORD = "any does"
VIEWER, EDITOR, ADMIN, STRANGER = "alice", "bob", "carol", "mallory"
USERS: dict[str, dict[str, Any]] = {
    VIEWER: {"groups": ["viewers", "everybody"]},
    EDITOR: {"groups": ["everybody", "editors"]},
    ADMIN: {"groups": ["admins"]},
    STRANGER: {"groups": []},
}


def installed() -> bool:
    """Whether `npm ci` has been run here; .ci/run does."""
    return program("node") is not None and (ROOT / "node_modules" / "oidc-provider").is_dir()


def issuer(port: int) -> str:
    """Another name than the service's 127.0.0.1: two sites, as it is everywhere but on one's own desk."""
    return f"http://localhost:{port}"


def settings(port: int) -> dict[str, str]:
    """The service's settings for signing in with the provider at that port."""
    return {
        "MLFLOW_UI_OAUTH_ISSUER_URL": issuer(port),
        "MLFLOW_UI_OAUTH_CLIENT_ID": CLIENT,
        "MLFLOW_UI_OAUTH_CLIENT_SECRET": SECRET,
        "PROXY_ROLE_VIEWER_GROUPS": "viewers",
        "PROXY_ROLE_EDITOR_GROUPS": "editors",
        "PROXY_ROLE_ADMIN_GROUPS": "admins",
    }


@dataclass
class OidcProvider:
    """A running provider."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def issuer(self) -> str:
        return issuer(self.port)

    def said(self, words: str, patience: float = 10) -> None:
        """Wait until its log has those words."""
        deadline = time.monotonic() + patience
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def set_user(self, name: str, **claims: Any) -> None:
        """From now on those claims hold, `gone=True` for an account that is no more."""
        requests.post(f"http://127.0.0.1:{self.port}/test/users/{name}", json=claims, timeout=10)

    def set_down(self, paths: str) -> None:
        """From now on it answers 503 to what begins like that: "/" to all, "" to nothing."""
        requests.post(f"http://127.0.0.1:{self.port}/test/down", json={"down": paths}, timeout=10)


@contextlib.contextmanager
def provider(
    folder: Path,
    *public_urls: str,
    port: int | None = None,
    ca: Path | None = None,
    public: bool = False,
    **config: Any,
) -> Iterator[OidcProvider]:
    """A provider for the service at those public URLs; the first gets the back-channel logouts.

    `ca` is whose certificates it trusts there, `public` a client without a secret; `config` goes to
    provider.mjs (ttl, idTokenClaims, users).
    """
    port = port or free_port()
    client: dict[str, Any] = {
        "client_id": CLIENT,
        "redirect_uris": [f"{url}/oauth2/callback" for url in public_urls],
        "post_logout_redirect_uris": [
            f"{url}{path}" for url in public_urls for path in ("/", "/oauth2/sign_in", "/oauth2/sign_out")
        ],
        "backchannel_logout_uri": f"{public_urls[0]}/oauth2/backchannel_logout",
        "backchannel_logout_session_required": True,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
    }
    if public:
        client["token_endpoint_auth_method"] = "none"
    else:
        client["client_secret"] = SECRET
    config = {"port": port, "clients": [client], "users": USERS, "idTokenClaims": True, **config}
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "oidc-provider.log"
    environment = clean_environment(**({"NODE_EXTRA_CA_CERTS": str(ca)} if ca else {}))
    script = Path(__file__).parent / "oidc_provider" / "provider.mjs"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["node", str(script), json.dumps(config)], stdout=out, stderr=out, env=environment
        )
    try:
        deadline = time.monotonic() + 30
        while "ready http" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield OidcProvider(process, port, log)
    finally:
        process.terminate()
        process.wait(10)
