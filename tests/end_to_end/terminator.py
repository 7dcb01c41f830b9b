"""Caddy of Debian's package as the terminator of TLS before a service, on loopback."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import time
from pathlib import Path

from databases import path
from service import free_port

# It believes no client's X-Forwarded-*, as Traefik; where Host leads is left to the service.
CADDYFILE = """
{{
    admin off
    auto_https off
}}
https://:{https} {{
    bind 127.0.0.1
    tls {certificate} {key}
    reverse_proxy 127.0.0.1:{behind}
}}
http://:{http} {{
    bind 127.0.0.1
    redir https://localhost:{https}{{uri}} 308
}}
"""


class Terminator:
    """`url` is where people go; it can be stopped and started again."""

    def __init__(self, folder: Path, certificates: Path, *, behind: int) -> None:
        """With what docker/make-env wrote into `certificates`; it leads to the port `behind`."""
        self.folder = folder
        self.https, self.http = free_port(), free_port()
        self.url = f"https://localhost:{self.https}"
        self.ca = certificates / "ca.pem"
        folder.mkdir()
        (folder / "Caddyfile").write_text(
            CADDYFILE.format(
                https=self.https,
                http=self.http,
                certificate=certificates / "tls.crt",
                key=certificates / "tls.key",
                behind=behind,
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        with (self.folder / "caddy.log").open("ab") as log:
            self.process = subprocess.Popen(
                [path("caddy"), "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
                cwd=self.folder, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.https), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "caddy.log").read_text()
                assert time.monotonic() < deadline, (self.folder / "caddy.log").read_text()
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def connection(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        """For requests as they are written, from that address."""
        return http.client.HTTPSConnection(
            "127.0.0.1",
            self.https,
            timeout=60,
            context=ssl.create_default_context(cafile=self.ca),
            source_address=(source, 0),
        )
