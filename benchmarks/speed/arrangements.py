"""What is compared: each a server on loopback in front of the same fast upstream, doing the same work."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import bcrypt
import packs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from processes import end, free_port, program, with_children

USER, PASSWORD = "bench", "a password for one benchmark 7"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
METRICS_TOKEN = "a-token-for-the-scraper"
ROUNDS_OF_BCRYPT = 10
"""The work factor, a power of two: OWASP's least."""
PEERS = Path(__file__).parents[1] / "peers"
FAKE = Path(__file__).with_name("fake")
STREAMS = Path(__file__).with_name("streams.py")
PROXY = str(Path(sys.executable).with_name("mlflow-proxy"))
TARGET = "/api/2.0/mlflow/runs/get?run_id=0123456789abcdef0123456789abcdef"
"""What small requests ask for: an operation as any other, with a role that it wants."""
START_WITHIN = 120
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE


def answer(size: int = 1024) -> str:
    """JSON of that many bytes."""
    text = '{"run":{"info":{"run_id":"0123456789abcdef0123456789abcdef"},"data":"%s"}}'
    return text % ("x" * (size - len(text) + 2))


def hashed() -> str:
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(ROUNDS_OF_BCRYPT)).decode()


class Arrangement(ABC):
    """A server at `url`. `folder` is its own, and made for it."""

    name: str
    package: str | None = None
    """Debian's, where it is a program that may be missing."""
    program: str | None = None
    authorization: str | None = BASIC
    scheme = "http"
    ready_at = TARGET

    def __init__(self, folder: Path, upstream: Path, upstream_port: int = 0) -> None:
        self.folder, self.upstream, self.upstream_port = folder, upstream, upstream_port
        self.port = free_port()
        folder.mkdir(parents=True)

    @classmethod
    def missing(cls) -> str | None:
        """Which program, or None."""
        return None if cls.program is None or program(cls.program) else cls.program

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What is run, with its configuration written."""

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Started, and asked until it answers with 200; ended with the body."""
        with (self.folder / "out").open("wb") as out, (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, env=self.environment, stdout=out, stderr=log
            )
        try:
            self._wait_ready()
            yield
        finally:
            end(self.process)

    def _wait_ready(self) -> None:
        headers = {} if self.authorization is None else {"Authorization": self.authorization}
        asked = urllib.request.Request(self.url + self.ready_at, headers=headers)
        deadline, why = time.monotonic() + START_WITHIN, "no answer"
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(asked, timeout=30, context=UNVERIFIED):
                    return
            except (urllib.error.URLError, OSError) as error:
                why = str(error)
            time.sleep(0.1)
        sys.exit(f"{self.name} is not ready ({why}):\n{(self.folder / 'log').read_text()[-3000:]}")

    def pids(self) -> list[int]:
        """The processes whose CPU and memory count."""
        return with_children(self.process.pid)

    def written(self, name: str, **more: str) -> Path:
        """A configuration of benchmarks/peers with our values filled in, as a file."""
        return write(
            PEERS / name,
            self.folder / name,
            FOLDER=str(self.folder),
            LISTEN=f"127.0.0.1:{self.port}",
            **more,
        )


def write(template: Path, to: Path, **values: str) -> Path:
    text = template.read_text()
    for key, value in {"RUN_AS": "user root;" if os.geteuid() == 0 else "", **values}.items():
        text = text.replace(f"@{key}@", value)
    to.write_text(text)
    return to


class Direct(Arrangement):
    """The upstream itself, on a port."""

    name, package, program = "direct", "nginx", "nginx"
    authorization = None

    def command(self) -> Sequence[str]:
        return nginx(self.folder, self.written("upstream.conf", BODY=answer()))


class Upstream(Direct):
    """The upstream of those that don't start one, on a socket, and on a port for who knows no sockets."""

    def command(self) -> Sequence[str]:
        conf = write(
            PEERS / "upstream.conf",
            self.folder / "upstream.conf",
            FOLDER=str(self.folder),
            LISTEN=f"unix:{self.upstream}; listen 127.0.0.1:{self.port}",
            BODY=answer(),
        )
        return nginx(self.folder, conf)

    def _wait_ready(self) -> None:
        wait_for(self.upstream)


class DirectStreams(Arrangement):
    """The upstream of large bodies, on a port."""

    name = "direct"
    authorization = None

    def command(self) -> Sequence[str]:
        return [sys.executable, str(STREAMS), str(self.port)]


class UpstreamStreams(DirectStreams):
    """The same, on a socket."""

    def command(self) -> Sequence[str]:
        return [sys.executable, str(STREAMS), str(self.upstream)]

    def _wait_ready(self) -> None:
        wait_for(self.upstream)


class Nginx(Arrangement):
    name, package, program = "nginx", "nginx", "nginx"
    tls = ""

    def account(self) -> str:
        return f"{USER}:{{PLAIN}}{PASSWORD}"

    def command(self) -> Sequence[str]:
        (self.folder / "htpasswd").write_text(self.account() + "\n")
        (self.folder / "htpasswd").chmod(0o644)
        return nginx(self.folder, self.written("nginx.conf", UPSTREAM=f"unix:{self.upstream}", TLS=self.tls))


class NginxBcrypt(Nginx):
    """nginx, which computes the hash for every request."""

    name = "nginx, bcrypt"

    def account(self) -> str:
        return f"{USER}:{hashed()}"


class NginxTls(Nginx):
    name = "nginx, TLS"
    scheme = "https"

    @property
    def tls(self) -> str:  # type: ignore[override]
        certificate, key = own_certificate(self.folder)
        return f"ssl; ssl_certificate {certificate}; ssl_certificate_key {key}"


class Caddy(Arrangement):
    name, package, program = "Caddy", "caddy", "caddy"
    hash_cache = True

    def command(self) -> Sequence[str]:
        caddy = program("caddy") or "caddy"
        account = base64.b64encode(hashed().encode()).decode()
        conf = self.written("Caddyfile", UPSTREAM=f"unix/{self.upstream}", USER=USER, HASH=account)
        adapted = subprocess.run(
            [caddy, "adapt", "--config", str(conf), "--adapter", "caddyfile"],
            capture_output=True,
            text=True,
            check=True,
            env=self.environment,
        ).stdout
        if not self.hash_cache:
            adapted = adapted.replace(',"hash_cache":{}', "")
            assert "hash_cache" not in adapted
        (self.folder / "caddy.json").write_text(adapted)
        return [caddy, "run", "--config", str(self.folder / "caddy.json")]


class CaddyBcrypt(Caddy):
    """Caddy without its memory for verified passwords."""

    name = "Caddy, bcrypt"
    hash_cache = False


class Traefik(Arrangement):
    """Taken where it is on PATH; Debian has no package of it. Its hash is SHA-1's, which costs nothing."""

    name, program = "Traefik", "traefik"

    def command(self) -> Sequence[str]:
        self.written("traefik-routes.yaml", ACCOUNT=sha1_account(), PORT=str(self.upstream_port))
        return [program("traefik") or "traefik", f"--configFile={self.written('traefik.yaml')}"]


class OAuth2Proxy(Arrangement):
    """Taken where it is on PATH, as Traefik is."""

    name, program = "oauth2-proxy", "oauth2-proxy"

    def command(self) -> Sequence[str]:
        (self.folder / "htpasswd").write_text(sha1_account() + "\n")
        conf = self.written("oauth2-proxy.cfg", PORT=str(self.upstream_port))
        return [program("oauth2-proxy") or "oauth2-proxy", f"--config={conf}"]


def sha1_account() -> str:
    return f"{USER}:{{SHA}}{base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()}"


class Ours(Arrangement):
    """mlflow-proxy with its defaults, TLS off, and one user in a users file; its child is the upstream."""

    name = "mlflow-proxy"
    package = program = "nginx"  # its upstream
    settings: ClassVar[dict[str, str]] = {}
    upstream_command: Sequence[str] | None = None
    """nginx, unless this says otherwise."""

    def command(self) -> Sequence[str]:
        (self.folder / "users").write_text(f"{USER}:{hashed()}:editor\n")
        (self.folder / "mlflow").mkdir()
        packs.put_into(self.folder / "data")
        return [PROXY, "serve"]

    @property
    def environment(self) -> dict[str, str]:
        conf = write(
            PEERS / "upstream.conf",
            self.folder / "upstream.conf",
            FOLDER=str(self.folder / "mlflow"),
            LISTEN="unix:@SOCKET@",
            BODY=answer(),
        )
        upstream = self.upstream_command or nginx(self.folder / "mlflow", conf)
        return super().environment | {
            "MLFLOW_PORT": str(self.port),
            "PROXY_TLS": "off",
            "PROXY_DATA_DIR": str(self.folder / "data"),
            "PROXY_USERS_FILE": str(self.folder / "users"),
            "PROXY_METRICS_TOKEN": METRICS_TOKEN,
            "PYTHONPATH": str(FAKE),
            "BENCH_UPSTREAM": json.dumps(list(upstream)),
            "BENCH_CONFIGURATION": str(conf),
            **self.settings,
        }

    def pids(self) -> list[int]:
        """Without the upstream, which is below it."""
        return [self.process.pid]


class OursStreams(Ours):
    """The same in front of large bodies."""

    package = program = None
    upstream_command = (sys.executable, str(STREAMS), "@SOCKET@")


class OursTls(OursStreams):
    name = "mlflow-proxy, TLS"
    scheme = "https"

    @property
    def environment(self) -> dict[str, str]:
        certificate, key = own_certificate(self.folder)
        return super().environment | {
            "PROXY_TLS": "on",
            "PROXY_TLS_CERT_FILE": str(certificate),
            "PROXY_TLS_KEY_FILE": str(key),
        }


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, of the kind that mlflow-proxy makes (P-256)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    files[1].chmod(0o600)
    return files


def nginx(folder: Path, conf: Path) -> list[str]:
    return [program("nginx") or "nginx", "-p", str(folder), "-c", str(conf), "-e", "stderr"]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + START_WITHIN
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"nothing listens at {path}")
        time.sleep(0.05)
