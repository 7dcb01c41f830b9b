"""The tests' real identity provider: npm oidc-provider in a Node process of its own, started and turned."""

from __future__ import annotations

import contextlib
import html
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from programs import program
from service import clean_environment, free_port

ROOT = Path(__file__).parent.parent
CLIENT, SECRET = "mlflow-proxy", "a-secret-for-the-tests-of-sign-in"
# The public client of `mlflow-proxy login`, and a program that has a client of its own at the provider.
NATIVE = "mlflow-cli"
MACHINE, MACHINE_SECRET = "nightly-training", "a-secret-for-the-tests-of-programs"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
AUDIENCE = "https://mlflow.example.com"
OTHER_AUDIENCE = "https://payroll.example.com"
PASSWORD = "any does"
VIEWER, EDITOR, ADMIN, STRANGER = "alice", "bob", "carol", "mallory"
USERS: dict[str, dict[str, Any]] = {
    VIEWER: {"groups": ["viewers", "everybody"]},
    EDITOR: {"groups": ["everybody", "editors"]},
    ADMIN: {"groups": ["admins"]},
    STRANGER: {"groups": []},
    MACHINE: {"groups": ["editors"]},
}


def installed() -> bool:
    """Whether `npm ci` has been run here; .ci/run does."""
    return program("node") is not None and (ROOT / "node_modules" / "oidc-provider").is_dir()


def issuer(port: int) -> str:
    """Another name than the service's 127.0.0.1: two sites, as it is everywhere but on one's own desk."""
    return f"http://localhost:{port}"


def settings(port: int) -> dict[str, str]:
    """The service's settings for signing in with the provider at that port; see also token_settings."""
    return {
        "MLFLOW_UI_OAUTH_ISSUER_URL": issuer(port),
        "MLFLOW_UI_OAUTH_CLIENT_ID": CLIENT,
        "MLFLOW_UI_OAUTH_CLIENT_SECRET": SECRET,
        "PROXY_ROLE_VIEWER_GROUPS": "viewers",
        "PROXY_ROLE_EDITOR_GROUPS": "editors",
        "PROXY_ROLE_ADMIN_GROUPS": "admins",
    }


def token_settings(port: int) -> dict[str, str]:
    """The same, and for taking the provider's access tokens and `mlflow-proxy login`."""
    return settings(port) | {"PROXY_JWT_AUDIENCE": AUDIENCE, "PROXY_CLI_CLIENT_ID": NATIVE}


@dataclass
class OidcProvider:
    """A running provider."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def issuer(self) -> str:
        return issuer(self.port)

    def said(self, words: str, patience: float = 30) -> None:
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

    def rotate_keys(self, *, keep: bool = True) -> None:
        """From now on it signs with a new key; the old ones stay published where `keep`."""
        requests.post(f"http://127.0.0.1:{self.port}/test/keys", json={"keep": keep}, timeout=10)

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A JWT of just those claims, signed with the provider's newest key."""
        asked = {"claims": claims, "header": header}
        return requests.post(f"http://127.0.0.1:{self.port}/test/sign", json=asked, timeout=10).text

    def machine_token(self, audience: str = AUDIENCE) -> str:
        """An access token of the program's own client (client credentials)."""
        answer = requests.post(
            f"{self.issuer}/token",
            data={"grant_type": "client_credentials", "resource": audience, "scope": "mlflow"},
            auth=(MACHINE, MACHINE_SECRET),
            timeout=10,
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def device_tokens(self, user: str, *, audience: str = AUDIENCE) -> dict[str, Any]:
        """The token endpoint's answer where that person lets the public client in by the device grant."""
        fields = {"client_id": NATIVE, "scope": "openid email offline_access", "resource": audience}
        begun = requests.post(f"{self.issuer}/device/auth", data=fields, timeout=10).json()
        approve(begun["verification_uri_complete"], user)
        answer = requests.post(
            f"{self.issuer}/token",
            data={
                "grant_type": DEVICE_GRANT,
                "client_id": NATIVE,
                "device_code": begun["device_code"],
            },
            timeout=10,
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def token_requests(self, client: str = NATIVE) -> dict[str, int]:
        """How many token requests of that client succeeded, by grant type."""
        found = re.findall(rf"^tokens: (\S+) for {re.escape(client)}$", self.log.read_text(), re.MULTILINE)
        return dict(Counter(found))


def approve(url: str, user: str, *, abort: bool = False) -> str:
    """Play the browser at the device grant's page (`verification_uri_complete`): sign in and say yes, or
    `abort`; the text of the last page."""
    with requests.Session() as browser:
        # The page's own script sends the code in the URL.
        answer = _submit(browser, browser.get(url, timeout=10))
        if abort:
            return _submit(browser, answer, abort="yes").text
        while "<form" in answer.text:
            answer = _submit(browser, answer, login=user, password=PASSWORD)
        assert answer.status_code == 200, answer.text
        return answer.text


def authorize(url: str, user: str) -> str:
    """Play the browser at the authorization endpoint's `url`: sign in and say yes; where it is sent in the
    end, with the code."""
    with requests.Session() as browser:
        answer = browser.get(url, timeout=10, allow_redirects=False)
        while answer.is_redirect or "<form" in answer.text:
            if not answer.is_redirect:
                answer = _submit(browser, answer, follow=False, login=user, password=PASSWORD)
                continue
            address = urljoin(answer.url, answer.headers["location"])
            if urlsplit(address).netloc != urlsplit(url).netloc:
                return address
            answer = browser.get(address, timeout=10, allow_redirects=False)
        raise AssertionError(f"{answer.status_code} {answer.text}")


def _submit(
    browser: requests.Session, page: requests.Response, *, follow: bool = True, **fields: str
) -> requests.Response:
    """Send the page's form: its hidden fields, and those."""
    form = re.search(r'<form[^>]* action="([^"]+)"', page.text)
    assert form is not None, page.text
    inputs = [dict(re.findall(r'(\w+)="([^"]*)"', field)) for field in re.findall(r"<input[^>]*>", page.text)]
    hidden = {field["name"]: html.unescape(field["value"]) for field in inputs if field.get("value")}
    address = urljoin(page.url, html.unescape(form[1]))
    return browser.post(address, data=hidden | fields, timeout=10, allow_redirects=follow)


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
    provider.mjs (ttl, idTokenClaims, accessTokenClaims, users).
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
    native = {
        "client_id": NATIVE,
        "application_type": "native",
        "token_endpoint_auth_method": "none",
        "redirect_uris": ["http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token", DEVICE_GRANT],
        "response_types": ["code"],
    }
    machine = {
        "client_id": MACHINE,
        "client_secret": MACHINE_SECRET,
        "redirect_uris": [],
        "grant_types": ["client_credentials"],
        "response_types": [],
    }
    config = {
        "port": port,
        "clients": [client, native, machine],
        "users": USERS,
        "idTokenClaims": True,
        "audiences": [AUDIENCE, OTHER_AUDIENCE],
        "accessTokenClaims": ["groups", "email", "email_verified"],
        **config,
    }
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
