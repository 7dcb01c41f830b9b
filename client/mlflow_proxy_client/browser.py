"""Signing in with a browser on this machine; the code comes back to loopback (RFC 8252, RFC 7636)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import queue
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlencode, urlsplit

from mlflow_proxy_client.errors import Problem, plain
from mlflow_proxy_client.oauth import Client, Tokens, request_tokens, tokens_of
from mlflow_proxy_client.oauth import said as words_of

PATH = "/callback"
WAIT = 300.0
"""Seconds for a person to sign in."""
_PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>mlflow-proxy login</title>
<body style="font-family: sans-serif; margin: 4em auto; max-width: 36em"><p>{}</p></body></html>
"""


def available() -> bool:
    """Whether a browser of this machine would be seen by the person who asks."""
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def sign_in(client: Client, say: Callable[[str], None], *, open_it: bool, port: int = 0) -> Tokens:
    """Send the browser to the provider and wait for what it comes back with. Raises Problem.

    `open_it` False shows the address alone. `port` is for a provider that knows only a whole redirect URI.
    """
    if not client.authorization_endpoint:
        raise Problem(f"{plain(client.issuer)} names no authorization endpoint; use --device")
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with _Listener(port, state) as listener:
        redirect = f"http://127.0.0.1:{listener.server_port}{PATH}"
        query = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": redirect,
            "scope": client.scopes,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **client.target(),
        }
        mark = "&" if urlsplit(client.authorization_endpoint).query else "?"
        url = f"{client.authorization_endpoint}{mark}{urlencode(query)}"
        say(f"Sign in with the browser of this machine: {url}")
        if open_it:
            webbrowser.open(url)
        fields = listener.wait(WAIT)
    if "error" in fields:
        raise Problem(
            f"the provider refuses the sign-in: {plain(fields.get('error_description') or fields['error'])}"
        )
    issuer = fields.get("iss")
    if (issuer is not None or client.names_itself) and issuer != client.issuer:
        raise Problem(f"the answer is from another provider ({plain(issuer)}) than the one that was asked")
    answer, asked = request_tokens(
        client,
        {
            "grant_type": "authorization_code",
            "code": fields["code"],
            "redirect_uri": redirect,
            "code_verifier": verifier,
        },
    )
    if answer.status != 200:
        raise Problem(f"the provider gave no token: {words_of(answer)}")
    return tokens_of(answer, asked)


class _Listener(ThreadingHTTPServer):
    """Takes the one request that carries our state; whatever else comes to the port changes nothing."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, state: str) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise Problem(f"port {port} of 127.0.0.1 can't be used: {plain(error)}") from None
        self.state = state
        self.came: queue.Queue[dict[str, str]] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> _Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def wait(self, seconds: float) -> dict[str, str]:
        try:
            return self.came.get(timeout=seconds)
        except queue.Empty:
            raise Problem(
                f"nobody signed in within {seconds:g} s; run the command again, or with --device"
            ) from None


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    timeout = 10.0
    """Seconds for a request to come."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        fields = dict(parse_qsl(parts.query, keep_blank_values=True))
        ours = hmac.compare_digest(fields.get("state", "").encode(), self.server.state.encode())
        if parts.path != PATH or not ours or not ("code" in fields or "error" in fields):
            self._answer(404, "This is not the answer that mlflow-proxy login waits for.")
            return
        self._answer(
            200,
            "You are signed in. This window can be closed; the terminal says the rest."
            if "code" in fields
            else "The sign-in was refused. The terminal says more.",
        )
        if not self.server.came.full():
            self.server.came.put(fields)

    def _answer(self, status: int, words: str) -> None:
        body = _PAGE.format(words).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
            # The address holds the code: no page may learn it from a link.
            ("Referrer-Policy", "no-referrer"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the request line holds the code."""
