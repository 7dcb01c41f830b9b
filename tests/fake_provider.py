"""An identity provider of ours, a process of its own on loopback, that misbehaves on command.

`python fake_provider.py PATH` serves an issuer with that path and prints its port. It is strict where a real
one is (redirect URI, client, PKCE, each code once), and its habits can be changed while it runs:
`Provider.habits(...)`. What it was asked is in `Provider.seen()`.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import hmac
import json
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

CLIENT_ID = "mlflow"
CLIENT_SECRET = "fake provider's +secret/%"
SUBJECT = "pairwise|9f27/x=="

# What can be changed: a value in place of the usual one.
HABITS: dict[str, Any] = {
    "claims": {},  # of the identity token; null leaves one out
    "header": {},  # of the identity token; null leaves one out
    "sign": "RS256",  # how it is signed: RS256, ES256, unsigned, hmac-public-pem, hmac-public-der,
    # hmac-public-jwk, hmac-empty, foreign, hmac-secret, truncated, other-payload
    "id_token": None,  # this very text in its place
    "leave_out_id_token": False,
    "userinfo": {"email": "ada@example.com", "email_verified": True, "groups": ["ml", "staff"]},
    "discovery": {},  # of the discovery document; null leaves one out
    "jwks": None,  # the key set in place of the usual one
    "answers": {},  # endpoint -> status, body, headers, size, wait, drip, unsaid, gzip: another answer
    "refresh_token": True,  # give one at sign-in
    "new_refresh_token": True,  # and a new one at each refresh, the old one being spent
    "refresh_id_token": True,
    "refresh_error": None,
    "name_issuer": False,  # RFC 9207
    "answer_issuer": None,  # what it calls itself there
    "error": None,  # at the authorization endpoint
    "error_description": "",
    "emails": None,  # the list at GitHub's kind's /user/emails
    "token_extra": {},  # of the token answer
    "codes_forever": False,  # a code may be used again
    "expires_in": 3600,
    "clock": 0,  # seconds by which its clock is ahead, as the Date of its answers shows
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int | None = None) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Signer:
    """The provider's keys, and every wrong way to sign."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.foreign = rsa.generate_private_key(65537, 2048)
        self.serial = 1

    def rotate(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.serial += 1

    def jwks(self) -> dict[str, Any]:
        return {"keys": [self.rsa_jwk(), self.ec_jwk(), {"kty": "AKP", "kid": "new", "alg": "ML-DSA-44"}]}

    def rsa_jwk(self, key: rsa.RSAPrivateKey | None = None) -> dict[str, Any]:
        numbers = (key or self.rsa).public_key().public_numbers()
        return {
            "kty": "RSA",
            "use": "sig",
            "kid": f"rsa-{self.serial}",
            "n": number(numbers.n),
            "e": number(numbers.e),
        }

    def ec_jwk(self) -> dict[str, Any]:
        numbers = self.ec.public_key().public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "kid": "ec",
            "x": number(numbers.x, 32),
            "y": number(numbers.y, 32),
        }

    def token(self, claims: dict[str, Any], how: str, header: dict[str, Any], typ: str = "JWT") -> str:
        algorithm = "ES256" if how == "ES256" else "HS256" if how.startswith("hmac") else "RS256"
        kid = "ec" if how == "ES256" else f"rsa-{self.serial}"
        full = {"alg": algorithm, "typ": typ, "kid": kid} | header
        full = {name: value for name, value in full.items() if value is not None}
        signed = f"{b64(json.dumps(full).encode())}.{b64(json.dumps(claims).encode())}"
        signature = self._signature(signed.encode(), how)
        if how == "truncated":
            signature = signature[:-1]
        if how == "other-payload":
            other = claims | {"sub": "somebody else"}
            signed = f"{b64(json.dumps(full).encode())}.{b64(json.dumps(other).encode())}"
        return f"{signed}.{b64(signature)}"

    def _signature(self, data: bytes, how: str) -> bytes:
        public = self.rsa.public_key()
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        if how == "unsigned":
            return b""
        if how == "ES256":
            r, s = decode_dss_signature(self.ec.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if how.startswith("hmac"):
            key = {
                "hmac-public-pem": public.public_bytes(serialization.Encoding.PEM, spki),
                "hmac-public-der": public.public_bytes(serialization.Encoding.DER, spki),
                "hmac-public-jwk": json.dumps(self.rsa_jwk()).encode(),
                "hmac-empty": b"",
                "hmac-secret": CLIENT_SECRET.encode(),
            }[how]
            return hmac.digest(key, data, "sha256")
        key = self.foreign if how == "foreign" else self.rsa
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


class State:
    def __init__(self, path: str) -> None:
        self.path = path
        self.issuer = ""
        self.signer = Signer()
        self.habits = dict(HABITS)
        self.codes: dict[str, dict[str, str]] = {}
        self.refresh: dict[str, str] = {}
        self.seen: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def discovery(self) -> dict[str, Any]:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize?tenant=1",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/logout",
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": self.habits["name_issuer"],
        } | self.habits["discovery"]
        return {name: value for name, value in document.items() if value is not None}

    def id_token(self, access_token: str, nonce: str | None) -> str:
        if self.habits["id_token"] is not None:
            return str(self.habits["id_token"])
        now = int(time.time())
        digest = hashlib.sha256(access_token.encode()).digest()
        claims = {
            "iss": self.issuer,
            "sub": SUBJECT,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "sid": "provider-session-1",
            "at_hash": b64(digest[:16]),
        } | self.habits["claims"]
        claims = {name: value for name, value in claims.items() if value is not None}
        return self.signer.token(claims, self.habits["sign"], self.habits["header"])

    def tokens(self, nonce: str | None, first: bool) -> dict[str, Any]:
        access = secrets.token_urlsafe(16)
        answer: dict[str, Any] = {"access_token": access, "token_type": "Bearer"}
        if self.habits["expires_in"]:
            answer["expires_in"] = self.habits["expires_in"]
        if not self.habits["leave_out_id_token"] and (first or self.habits["refresh_id_token"]):
            answer["id_token"] = self.id_token(access, nonce)
        if self.habits["refresh_token"] if first else self.habits["new_refresh_token"]:
            answer["refresh_token"] = secrets.token_urlsafe(16)
            self.refresh[answer["refresh_token"]] = access
        return answer | self.habits["token_extra"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: object) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.state.habits["clock"])

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        if self.path == "/_habits":
            self.state.habits = dict(HABITS) | json.loads(body)
            self._json({})
        elif self.path == "/_rotate":
            self.state.signer.rotate()
            self._json({})
        elif self.path == "/_sign":
            asked = json.loads(body)
            self._json(self.state.signer.token(asked["claims"], asked["how"], asked["header"], asked["typ"]))
        else:
            self._serve(dict(parse_qsl(body, keep_blank_values=True)))

    def _serve(self, form: dict[str, str]) -> None:
        state, parts = self.state, urlsplit(self.path)
        if parts.path == "/_seen":
            self._json(state.seen)
            return
        if not parts.path.startswith(state.path):
            self._json({"error": "not here"}, 404)
            return
        name = parts.path[len(state.path) :].strip("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        entry = {"endpoint": name, "query": query, "form": form, "headers": dict(self.headers.items())}
        state.seen.append(entry)
        if (special := state.habits["answers"].get(name)) is not None:
            self._special(special)
            return
        with state.lock:
            if name == ".well-known/openid-configuration":
                self._json(state.discovery())
            elif name == "keys":
                self._json(state.habits["jwks"] or state.signer.jwks())
            elif name == "authorize":
                self._authorize(query)
            elif name == "token":
                self._token(form)
            elif name in ("userinfo", "user"):
                self._json(
                    {"sub": SUBJECT, **state.habits["userinfo"]}
                    if name == "userinfo"
                    else state.habits["userinfo"]
                )
            elif name == "user/emails" and state.habits["emails"] is not None:
                self._json(state.habits["emails"])
            else:
                self._json({"error": "not here"}, 404)

    def _authorize(self, query: dict[str, str]) -> None:
        state, habits = self.state, self.state.habits
        answer = {"state": query.get("state", "")}
        if habits["error"] is not None:
            answer |= {"error": habits["error"], "error_description": habits["error_description"]}
        elif query.get("code_challenge_method") != "S256" or len(query.get("code_challenge", "")) != 43:
            answer |= {"error": "invalid_request", "error_description": "PKCE with S256 is required"}
        else:
            code = secrets.token_urlsafe(16)
            state.codes[code] = query
            answer["code"] = code
        if habits["name_issuer"] or habits["answer_issuer"]:
            answer["iss"] = habits["answer_issuer"] or state.issuer
        self._redirect(f"{query['redirect_uri']}?{urlencode(answer)}")

    def _token(self, form: dict[str, str]) -> None:
        state, habits = self.state, self.state.habits
        client, secret = form.get("client_id"), form.get("client_secret")
        if (given := self.headers.get("authorization", "")).startswith("Basic "):
            pair = base64.b64decode(given[6:]).decode().split(":", 1)
            client, secret = (unquote_plus(part) for part in pair)
        if client == "public" and secret is None:
            pass
        elif (client, secret) != (CLIENT_ID, CLIENT_SECRET):
            self._json({"error": "invalid_client"}, 401)
            return
        if form.get("grant_type") == "refresh_token":
            if habits["refresh_error"] is not None:
                self._json({"error": habits["refresh_error"]}, 400)
                return
            if form.get("refresh_token") not in state.refresh:
                self._json({"error": "invalid_grant", "error_description": "spent"}, 400)
                return
            if habits["new_refresh_token"]:
                del state.refresh[form["refresh_token"]]
            self._json(state.tokens(None, first=False))
            return
        begun = state.codes.get(form.get("code", ""))
        if begun is not None and not habits["codes_forever"]:
            del state.codes[form["code"]]
        challenge = b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if begun is None or begun["redirect_uri"] != form.get("redirect_uri"):
            self._json({"error": "invalid_grant", "error_description": "no such code"}, 400)
        elif begun["code_challenge"] != challenge:
            self._json({"error": "invalid_grant", "error_description": "PKCE"}, 400)
        else:
            self._json(state.tokens(begun.get("nonce"), first=True))

    def _special(self, how: dict[str, Any]) -> None:
        time.sleep(how.get("wait", 0))
        body = how.get("body", "").encode() or b" " * how.get("size", 0)
        if how.get("gzip"):
            body = gzip.compress(b" " * how["gzip"] + b"{}")
        self.send_response(how.get("status", 200))
        for name, value in {"Content-Type": "application/json", **how.get("headers", {})}.items():
            self.send_header(name, value)
        if how.get("unsaid"):  # a body whose length is not said before
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if how.get("drip"):
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(how["drip"])
            else:
                self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, url: str) -> None:
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Provider:
    """The process, from a test's side."""

    def __init__(self, process: subprocess.Popen[str], port: int, path: str) -> None:
        self.process = process
        self.port = port
        self.path = path
        self.origin = f"http://127.0.0.1:{port}"
        self.issuer = f"{self.origin}{path}"

    def habits(self, **changed: Any) -> None:
        """Those are different from now on, all others as usual."""
        assert not set(changed) - set(HABITS), changed
        self._post("/_habits", changed)

    def rotate(self) -> None:
        """A new key in place of the old one."""
        self._post("/_rotate", {})

    def sign(
        self,
        claims: dict[str, Any],
        how: str = "RS256",
        header: dict[str, Any] | None = None,
        typ: str = "JWT",
    ) -> str:
        signed: str = self._post("/_sign", {"claims": claims, "how": how, "header": header or {}, "typ": typ})
        return signed

    def seen(self, endpoint: str) -> list[dict[str, Any]]:
        """The requests to an endpoint, since the start."""
        with urllib.request.urlopen(f"{self.origin}/_seen", timeout=10) as answer:
            return [entry for entry in json.load(answer) if entry["endpoint"] == endpoint]

    def _post(self, path: str, value: Any) -> Any:
        request = urllib.request.Request(f"{self.origin}{path}", json.dumps(value).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running(path: str = "/realms/team") -> Iterator[Provider]:
    process = subprocess.Popen([sys.executable, str(Path(__file__)), path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Provider(process, int(process.stdout.readline()), path)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.state = State(sys.argv[1])
    Handler.state.issuer = f"http://127.0.0.1:{server.server_port}{sys.argv[1]}"
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
