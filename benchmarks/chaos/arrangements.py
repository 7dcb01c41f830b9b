"""The ways to run MLflow that are compared: behind mlflow-proxy, bare, and with nginx or Caddy in front."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path

from database import program
from processes import descendants, free_port, kill

USER, PASSWORD = "chaos", "a password for one benchmark 7"
PROXY = str(Path(sys.executable).with_name("mlflow-proxy"))
MLFLOW = str(Path(sys.executable).with_name("mlflow"))
KILLS = ("parent", "worker", "group")
RESTART_AFTER = 0.1  # seconds: systemd's RestartSec
END_WITHIN = 30  # seconds that MLflow gets to end in good order

# The job runner costs 1.3 GB and 27 CPU seconds a start; nothing here submits a job.
_MLFLOW = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


class NotReady(Exception):
    """An arrangement does not serve, or not any more; the text says where its log is."""


class Refused(Exception):
    """An arrangement did not do what it was told to; what was there before goes on."""


class Arrangement(ABC):
    """A server of MLflow's API at `url`, on the database at `uri`, with its files in `folder`."""

    name: str

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.port = free_port()
        self.artifacts = folder / "artifacts"
        folder.mkdir(parents=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def start(self) -> None:
        """Returns at once; `ready` says when it serves."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def ready(self) -> bool:
        """Whether MLflow reaches its database, asked of whoever knows; NotReady where it never will."""

    @abstractmethod
    def mlflow(self) -> dict[int, str]:
        """The processes that are MLflow, and what looks after it apart from the arrangement's own."""

    @abstractmethod
    def restart(self) -> None:
        """Put a new MLflow in the place of the running one, as an operator would; returns when it is.

        Raises NotReady or Refused where it is not.
        """

    @abstractmethod
    def move(self, uri: str) -> None:
        """The same, onto that database; afterwards `uri` names the one it runs on."""

    def kill(self, which: str) -> None:
        """SIGKILL to `mlflow server` (parent), its web server (worker), or all of it at once (group)."""
        found = self.mlflow()
        workers = {pid for pid, command in found.items() if "uvicorn" in command and "fastapi_app" in command}
        if which == "parent":
            kill(pid for pid, text in found.items() if " server" in text and pid not in workers)
        else:
            kill(workers if which == "worker" else found)

    def wait_ready(self, patience: float = 180) -> None:
        deadline = time.monotonic() + patience
        while not self.ready():
            if time.monotonic() > deadline:
                raise NotReady(f"{self.name} is not ready after {patience:.0f} s: see {self.folder}")
            time.sleep(0.2)


class Proxy(Arrangement):
    """mlflow-proxy as its users run it, with TLS off, since the others have none."""

    name = "mlflow-proxy"
    process: subprocess.Popen[bytes]

    def start(self) -> None:
        self.artifacts = self.folder / "data" / "artifacts"
        self._set(self.uri)
        with (self.folder / "access.log").open("wb") as access, (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, env=self.environment, stdout=access, stderr=log
            )

    def command(self) -> list[str]:
        return [PROXY, "serve"]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "MLFLOW_PORT": str(self.port),
            "PROXY_TLS": "off",
            "PROXY_DATA_DIR": str(self.folder / "data"),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            **_MLFLOW,
        }

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def ready(self) -> bool:
        if self.process.poll() is not None:
            raise NotReady((self.folder / "log").read_text()[-3000:])
        return _answers(f"{self.url}/readyz")

    def mlflow(self) -> dict[int, str]:
        return descendants(self.process.pid)

    def restart(self) -> None:
        self._reload("--roll")

    def move(self, uri: str) -> None:
        before = self.uri
        self._set(uri)
        try:
            self._reload()
        except Refused:
            self._set(before)
            raise

    def _set(self, uri: str) -> None:
        self.uri = uri
        (self.folder / "mlflow.env").write_text(f"MLFLOW_BACKEND_STORE_URI={uri}\n")

    def _reload(self, *options: str) -> None:
        done = subprocess.run(
            [PROXY, "reload", *options],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        with (self.folder / "reloads").open("a") as log:
            log.write(f"{time.time():.1f} exit code {done.returncode}\n{done.stdout}{done.stderr}")
        if done.returncode:
            raise Refused(f"reload failed: {done.stdout}{done.stderr}")


class Bare(Arrangement):
    """`mlflow server` in a loop that starts it again whenever it ends, as systemd with Restart=always."""

    name = "mlflow server"

    def __init__(self, folder: Path, uri: str) -> None:
        super().__init__(folder, uri)
        self.inside = self.port
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False
        self._loop = threading.Thread(target=self._restarting)

    def start(self) -> None:
        self._loop.start()

    def _restarting(self) -> None:
        with (self.folder / "log").open("ab") as log:
            while not self._ending:
                self._process = subprocess.Popen(
                    [
                        *(MLFLOW, "server", "--host", "127.0.0.1", "--port", str(self.inside)),
                        *("--workers", "1", "--artifacts-destination", str(self.artifacts)),
                    ],
                    cwd=self.folder,
                    env={
                        "PATH": os.environ["PATH"],
                        "HOME": str(self.folder),
                        "MLFLOW_BACKEND_STORE_URI": self.uri,
                        **_MLFLOW,
                    },
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                self._process.wait()
                # What is left of its control group is killed, too.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                time.sleep(RESTART_AFTER)

    def stop(self) -> None:
        self._ending = True
        self._end()
        self._loop.join(60)

    def _end(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_WITHIN
        while process.poll() is None:  # the loop's thread reaps it
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)

    def ready(self) -> bool:
        return _answers(f"http://127.0.0.1:{self.inside}/api/2.0/mlflow/experiments/get?experiment_id=0")

    def mlflow(self) -> dict[int, str]:
        if self._process is None:
            return {}
        return {self._process.pid: "mlflow server", **descendants(self._process.pid)}

    def restart(self) -> None:
        self._end()
        time.sleep(1)
        self.wait_ready()

    def move(self, uri: str) -> None:
        self.uri = uri
        self.restart()


class _Behind(Bare):
    """The same, with another server in front."""

    front: subprocess.Popen[bytes]

    def start(self) -> None:
        super().start()
        self.port = free_port()
        with (self.folder / "front.log").open("wb") as log:
            self.front = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                stdout=log,
                stderr=log,
            )

    @abstractmethod
    def command(self) -> list[str]:
        """With its configuration written."""

    def ready(self) -> bool:
        if self.front.poll() is not None:
            raise NotReady((self.folder / "front.log").read_text()[-3000:])
        return super().ready()

    def stop(self) -> None:
        super().stop()
        self.front.send_signal(signal.SIGTERM)
        self.front.wait(60)


class Nginx(_Behind):
    """nginx as its manuals set up a reverse proxy, with none of its limits in the way."""

    name = "nginx"

    def command(self) -> list[str]:
        paths = "".join(
            f"    {kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"{user}daemon off;\npid {self.folder}/nginx.pid;\nworker_processes 1;\n"
            "events { worker_connections 512; }\n"
            f"http {{\n{paths}"
            "    access_log off;\n    client_max_body_size 0;\n"
            f"    upstream mlflow {{ server 127.0.0.1:{self.inside} max_fails=0; keepalive 16; }}\n"
            f"    server {{\n        listen 127.0.0.1:{self.port};\n"
            "        location / {\n            proxy_pass http://mlflow;\n"
            "            proxy_http_version 1.1;\n"
            '            proxy_set_header Connection "";\n            proxy_set_header Host $http_host;\n'
            "            proxy_read_timeout 300s;\n        }\n    }\n}\n"
        )
        return [
            program("nginx"),
            "-p",
            str(self.folder),
            "-c",
            str(self.folder / "nginx.conf"),
            "-e",
            "stderr",
        ]


class Caddy(_Behind):
    """Caddy, told to try for as long as mlflow-proxy holds requests."""

    name = "Caddy"

    def command(self) -> list[str]:
        (self.folder / "Caddyfile").write_text(
            "{\n\tadmin off\n\tauto_https off\n}\n"
            f"http://127.0.0.1:{self.port} {{\n\treverse_proxy 127.0.0.1:{self.inside} {{\n"
            "\t\tlb_try_duration 60s\n\t\tlb_try_interval 250ms\n\t}\n}\n"
        )
        return [program("caddy"), "run", "--config", str(self.folder / "Caddyfile"), "--adapter", "caddyfile"]


ALL: dict[str, type[Arrangement]] = {"proxy": Proxy, "bare": Bare, "nginx": Nginx, "caddy": Caddy}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
