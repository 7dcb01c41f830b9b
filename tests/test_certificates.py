"""TLS as clients meet it: real handshakes, a real renewal under open connections, damaged files."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from proxy.certificates import TlsContext, ensure, names_for, prepare, read_pair
from proxy.errors import UserError
from proxy.settings import Settings

NAMES = ("localhost", "127.0.0.1", "::1")


def days(count: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=count)


def write_pair(folder: Path, name: str, *, kind: str = "ec", ends: float = 90) -> tuple[Path, Path]:
    """A self-signed certificate for localhost in NAME.pem and NAME-key.pem, as from somewhere else."""
    key = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ec"
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(days(-100))
        .not_valid_after(days(ends))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}.pem", folder / f"{name}-key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_path, key_path


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    writer.close()


@contextlib.contextmanager
def serving(
    tls: TlsContext, runner: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
) -> Iterator[int]:
    """A real server on a loop of its own, watching its files; yields the port."""
    ports: list[int] = []
    up = threading.Event()
    end: Callable[[], None] = lambda: None  # noqa: E731

    async def main() -> None:
        nonlocal end
        ended = asyncio.Event()
        end = lambda: loop.call_soon_threadsafe(ended.set)  # noqa: E731
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls.context)
        watcher = asyncio.create_task(tls.watch())
        ports.append(server.sockets[0].getsockname()[1])
        up.set()
        await ended.wait()
        watcher.cancel()
        server.close()

    thread = threading.Thread(target=runner, args=(main(),))
    thread.start()
    assert up.wait(10)
    try:
        yield ports[0]
    finally:
        end()
        thread.join(10)


def strict(ca: Path) -> ssl.SSLContext:
    """What Python 3.13's create_default_context() does, in any version."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def connect(port: int, context: ssl.SSLContext, name: str = "localhost") -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname=name)


def anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def served(port: int, context: ssl.SSLContext | None = None) -> x509.Certificate:
    with connect(port, context or anybody()) as connection:
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


def certificate_in(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(connection: ssl.SSLSocket) -> bytes:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    text = b""
    while not text.endswith(b"hello"):
        piece = connection.recv(1000)
        assert piece
        text += piece
    return text


# A certificate of our own


def test_the_certificate_of_a_first_start_is_accepted_by_clients_that_check_strictly(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    with serving(TlsContext(paths.cert, paths.key)) as port:
        for name in NAMES:
            with connect(port, strict(paths.ca), name) as connection:
                assert ask(connection).startswith(b"HTTP/1.1 200")
        assert requests.get(f"https://127.0.0.1:{port}/", verify=str(paths.ca), timeout=10).text == "hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(port, strict(paths.ca), "elsewhere.example.com")
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(port, ssl.create_default_context())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_agrees_with_the_chain(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
    done = subprocess.run(
        [*command, "-CAfile", paths.ca, paths.cert], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_keys_are_for_their_owner_alone_and_put_right_where_they_are_not(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    keys = [paths.key, paths.key.with_name("ca-key.pem")]
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600, 0o600]
    assert paths.key.parent.stat().st_mode & 0o777 == 0o700
    for key in keys:
        key.chmod(0o644)
    ensure(tmp_path, NAMES)
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600, 0o600]


def test_starting_again_changes_nothing(tmp_path: Path) -> None:
    ensure(tmp_path, NAMES)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    ensure(tmp_path, NAMES)
    assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before
    assert sorted(before) == ["ca-key.pem", "ca.pem", "cert.pem", "key.pem"]


def test_a_certificate_is_renewed_in_its_last_30_days_by_the_same_authority(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    authority, first = paths.ca.read_bytes(), certificate_in(paths.cert)
    assert first.not_valid_after_utc - first.not_valid_before_utc <= datetime.timedelta(days=397)
    ensure(tmp_path, NAMES, now=days(396 - 31))
    assert certificate_in(paths.cert) == first
    ensure(tmp_path, NAMES, now=days(396 - 29))
    second = certificate_in(paths.cert)
    assert second != first
    assert second.not_valid_after_utc > days(700)
    assert paths.ca.read_bytes() == authority
    second.verify_directly_issued_by(certificate_in(paths.ca))
    assert read_pair(paths.cert, paths.key).names == NAMES


def test_other_names_get_another_certificate_by_the_same_authority(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    authority = paths.ca.read_bytes()
    ensure(tmp_path, (*NAMES, "mlflow.example.com"))
    assert "mlflow.example.com" in read_pair(paths.cert, paths.key).names
    assert paths.ca.read_bytes() == authority


def test_a_renewal_that_was_interrupted_is_put_right(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    authority = paths.ca.read_bytes()
    _, other_key = write_pair(tmp_path, "other")
    other_key.replace(paths.key)  # the key is written first
    ensure(tmp_path, NAMES)
    read_pair(paths.cert, paths.key)
    paths.cert.unlink()
    ensure(tmp_path, NAMES)
    read_pair(paths.cert, paths.key)
    assert paths.ca.read_bytes() == authority


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_a_damaged_file_is_named_and_nothing_is_replaced(tmp_path: Path, name: str) -> None:
    ensure(tmp_path, NAMES)
    folder = tmp_path / "tls"
    (folder / name).write_text("-----BEGIN nothing")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=rf"{name} holds no .* in PEM form.* remove "):
        ensure(tmp_path, NAMES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_authority_is_never_replaced_by_another(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    kept = paths.ca.read_bytes()
    paths.ca.unlink()
    with pytest.raises(UserError, match=r"ca\.pem .*missing.*restore it from a backup"):
        ensure(tmp_path, NAMES)
    paths.ca.write_bytes(kept)
    key = tmp_path / "tls" / "ca-key.pem"
    key.unlink()
    ensure(tmp_path, NAMES)  # the key may be kept elsewhere while no certificate has to be made
    with pytest.raises(UserError, match=r"ca-key\.pem .*missing, and a certificate has to be made"):
        ensure(tmp_path, (*NAMES, "another.example.com"))
    other_cert, other_key = write_pair(tmp_path, "other")
    shutil.copy(other_key, key)
    with pytest.raises(UserError, match=r"ca-key\.pem is not the key of .*ca\.pem"):
        ensure(tmp_path, (*NAMES, "another.example.com"))
    with pytest.raises(UserError, match=r"ca\.pem .*has expired"):
        ensure(tmp_path, NAMES, now=days(3651))
    shutil.copy(other_cert, paths.cert)
    shutil.copy(other_key, paths.key)
    with pytest.raises(UserError, match=r"cert\.pem was not issued by .*PROXY_TLS_CERT_FILE"):
        ensure(tmp_path, NAMES)
    assert paths.ca.read_bytes() == kept
    assert paths.cert.read_bytes() == other_cert.read_bytes()


def test_the_names_are_loopback_this_machine_and_those_of_the_settings() -> None:
    settings = Settings(
        host="192.0.2.7",
        public_url="https://MLflow.example.com:8443/ml",
        allowed_hosts="mlflow.internal:9000,[2001:db8::1]:8443",
    )
    names = names_for(settings)
    assert names[:3] == NAMES
    assert {"192.0.2.7", "mlflow.example.com", "mlflow.internal", "2001:db8::1"} <= set(names)
    assert socket.gethostname().lower() in names
    assert not {"0.0.0.0", "::"} & set(names_for(Settings(host="0.0.0.0")))
    assert len(names_for(Settings(host="localhost"))) == len(set(names_for(Settings(host="localhost"))))


# A certificate from elsewhere


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("kinds", [("ec", "ec"), ("rsa", "ec"), ("ec", "rsa")], ids="-to-".join)
def test_a_renewed_file_is_taken_up_without_dropping_a_connection(
    tmp_path: Path, runner: Callable[[Coroutine[Any, Any, None]], None], kinds: tuple[str, str]
) -> None:
    cert, key = write_pair(tmp_path, "served", kind=kinds[0])
    new_cert, new_key = write_pair(tmp_path, "new", kind=kinds[1], ends=200)
    tls = TlsContext(cert, key, interval=0.1)
    context = tls.context
    with serving(tls, runner) as port, connect(port, anybody()) as open_connection:
        ask(open_connection)
        first = served(port)
        new_key.replace(key)
        new_cert.replace(cert)
        wait_until(lambda: served(port) != first)
        # Every kind of client is given the new one: none is left with the old one of another kind of key.
        for ciphers in ("ECDHE+AESGCM", "aRSA+ECDHE+AESGCM", "aECDSA+ECDHE+AESGCM"):
            client = anybody()
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(ciphers)
            with contextlib.suppress(ssl.SSLError):  # the old kind is not there any more
                assert served(port, client) == certificate_in(cert)
        assert ask(open_connection).endswith(b"hello")
    assert tls.context is context
    assert tls.names == ("localhost",)
    assert tls.not_after == certificate_in(cert).not_valid_after_utc.timestamp()


def test_a_secret_that_kubernetes_exchanges_by_a_link_is_taken_up(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        for path, name in zip(write_pair(tmp_path, "pair"), ("tls.crt", "tls.key"), strict=True):
            path.replace(tmp_path / f"..{number}" / name)
    (tmp_path / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    tls = TlsContext(tmp_path / "tls.crt", tmp_path / "tls.key", interval=0.1)
    with serving(tls) as port:
        first = served(port)
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        wait_until(lambda: served(port) != first)


def test_a_bad_renewal_keeps_the_old_certificate_and_the_next_good_one_is_taken_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = write_pair(tmp_path, "served")
    tls = TlsContext(cert, key)
    kept = tls.not_after
    new_cert, new_key = write_pair(tmp_path, "new", ends=200)
    old_cert, _ = write_pair(tmp_path, "old", ends=-1)
    with serving(tls) as port:
        first = served(port)
        for break_it, said in (
            (lambda: shutil.copy(new_cert, cert), "is not the key of"),
            (lambda: cert.write_text("half a fi"), "holds no certificate"),
            (cert.unlink, "can't be read"),
            (
                lambda: (shutil.copy(old_cert, cert), shutil.copy(tmp_path / "old-key.pem", key)),
                "has expired",
            ),
        ):
            break_it()
            caplog.clear()
            assert tls.reload() is False
            assert said in caplog.text
            assert served(port) == first
        assert tls.not_after == kept
        shutil.copy(new_key, key)
        shutil.copy(new_cert, cert)
        assert tls.reload() is True
        assert served(port) == certificate_in(new_cert)


def test_what_cannot_be_served_is_refused_at_start_with_the_file_named(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, "served")
    other, other_key = write_pair(tmp_path, "other")
    with pytest.raises(UserError, match=r"other-key\.pem is not the key of .*served\.pem"):
        TlsContext(cert, other_key)
    with pytest.raises(UserError, match=r"gone\.pem can't be read: No such file"):
        TlsContext(tmp_path / "gone.pem", key)
    with pytest.raises(UserError, match=r"served\.pem holds no private key"):
        TlsContext(cert, cert)
    wrong_order = tmp_path / "order.pem"
    wrong_order.write_bytes(other.read_bytes() + cert.read_bytes())
    with pytest.raises(UserError, match=r"order\.pem: the server's own certificate has to be the first"):
        TlsContext(wrong_order, key)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UserError, match=r"encrypted\.pem is encrypted: decrypt it with openssl pkey"):
        TlsContext(cert, encrypted)


def test_an_expired_certificate_is_served_and_complained_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = write_pair(tmp_path, "served", ends=-1)
    with caplog.at_level(logging.ERROR), serving(TlsContext(cert, key)) as port:
        assert served(port) == certificate_in(cert)
    assert "has expired" in caplog.text


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    paths = ensure(tmp_path, NAMES)
    with serving(TlsContext(paths.cert, paths.key)) as port:
        old = anybody()
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            served(port, old)
        for weak in ("AES256-GCM-SHA384:@SECLEVEL=0", "ECDHE-ECDSA-AES256-SHA384"):
            client = anybody()
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(weak)
            with pytest.raises(ssl.SSLError):
                served(port, client)
        modern = anybody()
        modern.set_alpn_protocols(["h2", "http/1.1"])
        with connect(port, modern) as connection:
            assert connection.version() == "TLSv1.3"
            assert connection.selected_alpn_protocol() == "http/1.1"


def test_prepare_follows_the_settings(tmp_path: Path) -> None:
    assert prepare(Settings(tls=False, data_dir=tmp_path)) == (None, None)
    tls, ca = prepare(Settings(data_dir=tmp_path))
    assert tls is not None
    assert ca == tmp_path / "tls" / "ca.pem"
    assert "localhost" in tls.names
    cert, key = write_pair(tmp_path, "mine")
    tls, ca = prepare(Settings(tls_cert_file=cert, tls_key_file=key, data_dir=tmp_path / "unused"))
    assert tls is not None
    assert ca is None
    assert not (tmp_path / "unused").exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(UserError, match=r"tls can't be read or written: File exists"):
        ensure(tmp_path, NAMES)
