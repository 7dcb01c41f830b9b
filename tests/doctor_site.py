"""`mlflow-proxy doctor` as a person runs it, and what it may find: services, nginx, odd certificates."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from programs import program
from service import COMMAND, NO_JOBS, PASSWORD, USER, Service, address_of, clean_environment, free_port

FAKE_MLFLOW = Path(__file__).parent / "fake_mlflow"


@dataclass
class Told:
    """What the doctor said."""

    code: int
    report: dict[str, Any]
    text: str

    def result(self, check: str, what: str) -> dict[str, Any]:
        """The one result of that name; the worst, where there are several."""
        found = [result for result in self.results(check) if result["what"] == what]
        assert found, f"nothing about {check}, {what}:\n{self.text}"
        order = ["failure", "warning", "skipped", "ok"]
        return min(found, key=lambda result: order.index(result["outcome"]))

    def results(self, check: str) -> list[dict[str, Any]]:
        return [result for one in self.report["checks"] if one["check"] == check for result in one["results"]]

    def wrong(self) -> set[tuple[str, str]]:
        """All that fails or is warned of."""
        return {
            (one["check"], result["what"])
            for one in self.report["checks"]
            for result in one["results"]
            if result["outcome"] in ("failure", "warning")
        }

    def says(self, check: str, what: str, outcome: str, *words: str) -> dict[str, Any]:
        """That result, which has that outcome and those words in what it saw or in how to mend it."""
        result = self.result(check, what)
        assert result["outcome"] == outcome, self.text
        for word in words:
            assert word in f"{result['seen']} -> {result['mend']}", self.text
        assert (result["mend"] is not None) == (outcome in ("failure", "warning")) or outcome == "skipped"
        return result


def doctor(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    before: tuple[str, ...] = (),
) -> Told:
    """Run it with a clean environment and those settings; `before` is a command that runs it."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "proxy", "doctor", "--json", *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(**(environment or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"{done.returncode}\n{done.stdout}\n{done.stderr}") from None
    assert report["exit_code"] == done.returncode
    return Told(done.returncode, report, done.stdout + done.stderr)


def plan(folder: Path, **how: Any) -> None:
    """What the stand-in for MLflow does from now on (fake_mlflow)."""
    (folder / "plan.new").write_text(json.dumps(how))
    (folder / "plan.new").rename(folder / "plan")


@contextlib.contextmanager
def fake_service(
    folder: Path,
    *,
    until: Literal["ready", "alive", "listening"] = "ready",
    how: Mapping[str, Any] | None = None,
    **settings: str,
) -> Iterator[Service]:
    """A real service over the stand-in for MLflow. Its settings are its environment's, and the doctor is not
    told them."""
    folder.mkdir(parents=True, exist_ok=True)
    plan(folder, **(how or {}))
    environment = clean_environment(
        **NO_JOBS,
        **{
            "PYTHONPATH": str(FAKE_MLFLOW),
            "FAKE_PLAN": str(folder / "plan"),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "MLFLOW_PORT": str(free_port()),
            "PROXY_TLS": "off",
            "PROXY_GRACE_SECONDS": "3",
            "PROXY_PROBE_INTERVAL": "0",
            "PROXY_PROBE_STORAGE_INTERVAL": "0",
            **settings,
        },
    )
    with (folder / "access.log").open("ab") as access, (folder / "application.log").open("ab") as log:
        process = subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=access, stderr=log)
    service = Service(process, folder, "", USER, PASSWORD, environment)
    try:
        service.url = address_of(service.data / "lock", process)
        if until == "ready":
            service.wait_ready()
        elif until == "alive":
            service.wait_alive()
        yield service
    finally:
        service.end()


@contextlib.contextmanager
def nginx(folder: Path, *servers: str) -> Iterator[None]:
    """nginx with those server blocks, whose ports are the caller's."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Its workers are somebody else's otherwise, who may not enter pytest's directories.
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n" + "\n".join(servers) + "\n}\n"
    )
    path = program("nginx")
    assert path is not None
    process = subprocess.Popen([path, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")])
    try:
        deadline = time.monotonic() + 30
        while not (folder / "nginx.pid").exists():
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(20)


@dataclass
class Issued:
    """A certificate and its key, in files; `chain` has its authorities after it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: Path
    key_file: Path


def issue(
    folder: Path,
    name: str,
    by: Issued | None = None,
    *,
    authority: bool = False,
    days: tuple[int, int] = (-2, 90),
) -> Issued:
    """A certificate for that host name, valid from and until so many days from now; `by` None: by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signer = key if by is None else by.key
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(_usage(authority), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name.replace(" ", "-"))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name.replace(' ', '-')}.pem"
    pem = made.public_bytes(serialization.Encoding.PEM)
    above = b"" if by is None or by.certificate.issuer == by.certificate.subject else by.chain.read_bytes()
    file.write_bytes(pem + above)
    key_file = file.with_suffix(".key")
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Issued(made, key, file, key_file)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
