"""The probes: each at its own pace, each telling what is wrong, and none in another's way."""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import service
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from service import Service

from proxy.certificates import remote
from proxy.probes import looks
from proxy.probes.ages import written
from proxy.probes.looks import Failed, NotNow
from proxy.probes.probes import Look, Probes

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def running(**looks: Look) -> AsyncIterator[Probes]:
    probes = Probes(looks)
    task = asyncio.create_task(probes.run())
    try:
        yield probes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not happened():  # noqa: ASYNC110 - of anything
            await asyncio.sleep(0.005)


def sometimes(*ways: Exception | None) -> Callable[[], Awaitable[None]]:
    """A look that ends in those ways, one after the other, the last for ever."""
    left = list(ways)

    async def look() -> None:
        way = left.pop(0) if len(left) > 1 else left[0]
        if way is not None:
            raise way

    return look


async def test_what_is_wrong_is_told_and_that_it_is_well_again() -> None:
    look = sometimes(None, Failed("it is away"), Failed("it is away"), None)
    async with running(thing=Look(look, lambda: 0.02)) as probes:
        assert probes.checks() == {}
        target = probes.targets["thing"]
        await until(lambda: target.looked is not None)
        assert probes.checks() == {"probe-thing": None}
        first = target.last_success
        await until(lambda: probes.checks() == {"probe-thing": "it is away"})
        assert target.last_success == first
        await until(lambda: probes.checks() == {"probe-thing": None})
        assert target.last_success is not None
        assert first is not None
        assert target.last_success > first


async def test_it_is_told_how_long_a_look_took_and_since_when_it_is_not_well() -> None:
    away = True

    async def look() -> None:
        if away:
            raise Failed("it is away")

    async with running(thing=Look(look, lambda: 0.02)) as probes:
        assert probes.notes() == {}

        def told(pattern: str) -> bool:
            return re.fullmatch(pattern, probes.notes().get("probe-thing", "")) is not None

        took = r"took \d\S* s, 0 s ago"
        await until(lambda: told(f"{took}; never well yet"))
        away = False
        await until(lambda: told(took))
        away = True
        await until(lambda: told(rf"{took}; last well \d+ s ago"))


async def test_what_can_not_be_told_changes_nothing() -> None:
    counted = 0

    async def look() -> None:
        nonlocal counted
        counted += 1
        if counted > 1:
            raise NotNow
        raise Failed("it is away")

    async with running(thing=Look(look, lambda: 0.01)) as probes:
        await until(lambda: counted > 3)  # it is asked again soon, whatever the interval
        assert probes.checks() == {"probe-thing": "it is away"}


async def test_one_that_hangs_or_has_a_defect_is_in_nobody_elses_way() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    well = sometimes(None)
    async with running(
        hangs=Look(hang, lambda: 0.01),
        breaks=Look(sometimes(ValueError("unthought of")), lambda: 0.01),
        well=Look(well, lambda: 0.01),
    ) as probes:
        await until(lambda: len(probes.checks()) == 2)
        assert probes.checks()["probe-well"] is None
        assert "ValueError" in str(probes.checks()["probe-breaks"])


async def test_none_is_looked_at_more_often_than_set_or_where_that_is_never() -> None:
    counts = {"often": 0, "seldom": 0, "never": 0}

    def counting(name: str) -> Callable[[], Awaitable[None]]:
        async def look() -> None:
            counts[name] += 1

        return look

    paces = {"often": 0.01, "seldom": 3600.0, "never": 0.0}
    looks = {name: Look(counting(name), lambda pace=pace: pace) for name, pace in paces.items()}  # type: ignore[misc]
    async with running(**looks):
        await until(lambda: counts["often"] > 20)
    assert counts["seldom"] == 1
    assert counts["never"] == 0


def test_no_request_looks_or_waits_for_a_look(tmp_path: Path) -> None:
    """One look hangs: at a server that takes a connection and gives no certificate."""
    # A MLflow that ends at once: what becomes of it is no matter here.
    fake = {"PYTHONPATH": str(Path(__file__).with_name("fake_mlflow")), "PROXY_TLS": "off"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            service.running(
                tmp_path, ready=False, PROXY_PROBE_INTERVAL="3600", PROXY_PROBE_CERTIFICATES=target, **fake
            ) as made,
            listener.accept()[0],
        ):
            until_seen(made, "probe-disk ok")
            space = made.metric("mlflow_proxy_disk_free_bytes")
            assert space > 0
            (tmp_path / "something").write_bytes(bytes(1 << 20))
            for _ in range(5):
                for path in ("/readyz?verbose", "/metrics", "/-/admin"):
                    answer = made.session().get(made.url + path, timeout=60)
                    assert answer.status_code in (200, 503)
            assert made.metric("mlflow_proxy_disk_free_bytes") == space
            assert "took" in until_seen(made, "probe-certificate failed")
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def until_seen(made: Service, text: str) -> str:
    """What /readyz?verbose says as soon as that is in it."""
    deadline = time.monotonic() + 60
    while text not in (said := made.anonymous().get(f"{made.url}/readyz?verbose", timeout=60).text):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    return said


async def test_a_look_that_blocks_is_not_begun_again_meanwhile() -> None:
    goes_on = threading.Event()
    begun = []

    def block() -> None:
        begun.append(1)
        goes_on.wait(30)

    look = looks.InThread(block)
    first = asyncio.create_task(look())
    await until(lambda: bool(begun))
    with pytest.raises(Failed, match="no answer yet"):
        await look()
    assert len(begun) == 1
    goes_on.set()
    await first
    await look()
    assert len(begun) == 2


class Storage:
    """What MLflow's artifact routes do, on a Unix socket, and how they fail when told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, bytes] = {}
        self.refused = ""
        self.forgets = False

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        length = int(head.lower().partition("content-length: ")[2].partition("\r")[0] or 0)
        body = await reader.readexactly(length)
        status, said = 200, b""
        if method == self.refused:
            status = 500
        elif method == "PUT":
            self.held[target] = b"something else" if self.forgets else body
        elif method == "GET":
            said = self.held[target]
        else:
            del self.held[target]
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(said), said))
        await writer.drain()
        writer.close()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    made = Storage(tmp_path / "s")
    server = await asyncio.start_unix_server(made.answer, made.path)
    async with server:
        yield made


async def test_a_small_file_goes_into_the_storage_and_out_again(storage: Storage) -> None:
    look = looks.storage(lambda: storage.path, 10)
    await look()
    assert storage.held == {}
    for method, what in (("PUT", "written"), ("GET", "read"), ("DELETE", "removed")):
        storage.refused = method
        with pytest.raises(Failed, match=f"can't be {what} .MLflow answers 500"):
            await look()
    storage.refused, storage.forgets = "", True
    with pytest.raises(Failed, match="not what was written"):
        await look()


async def test_an_absent_mlflow_says_nothing_of_the_storage(tmp_path: Path) -> None:
    for path in (None, tmp_path / "nobody"):
        with pytest.raises(NotNow):
            await looks.storage(lambda path=path: path, 10)()  # type: ignore[misc]


def certificate(folder: Path, ends: float) -> ssl.SSLContext:
    """A server's side with a certificate that ends then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "elsewhere")])
    end = datetime.datetime.fromtimestamp(ends, datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=90))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    path = folder / "pair.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("days", [30, -1])
async def test_the_end_of_another_servers_certificate_is_told(tmp_path: Path, days: int) -> None:
    ends = float(int(time.time()) + days * 86400)

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(nothing, "127.0.0.1", 0, ssl=certificate(tmp_path, ends))
    async with server:
        port = server.sockets[0].getsockname()[1]
        found: dict[str, float] = {"left over:443": 1.0}
        look = looks.certificates(
            lambda: time.time() + 60, lambda: (("127.0.0.1", port),), remote.ends, found, 10, time.time
        )
        if days > 0:
            await look()
        else:
            with pytest.raises(Failed, match=rf"that of 127\.0\.0\.1:{port} has expired"):
                await look()
        assert found.keys() == {looks.OWN, f"127.0.0.1:{port}"}
        assert found[f"127.0.0.1:{port}"] == ends
    with pytest.raises(Failed, match="gave no certificate"):
        await look()


async def test_our_own_certificate_is_looked_at_too() -> None:
    look = looks.certificates(lambda: time.time() - 1, tuple, remote.ends, {}, 10, time.time)
    with pytest.raises(Failed, match="that of our own has expired"):
        await look()


def test_a_disk_without_room_is_told(tmp_path: Path) -> None:
    free, total = looks.space(tmp_path)
    assert 0 < free <= total
    looks.enough(51, 1000)
    with pytest.raises(Failed, match="0 MiB are free"):
        looks.enough(50, 1000)
    looks.enough(2 * 2**30 + 1, 2**50)
    with pytest.raises(Failed, match="2048 MiB are free"):
        looks.enough(2 * 2**30, 2**50)
    with pytest.raises(Failed, match="MiB are free"):
        looks.enough(*looks.space(Path("/proc")))  # a disk of 0 bytes is full
    with pytest.raises(Failed, match="can't be looked at"):
        looks.space(tmp_path / "nothing")


def test_the_age_of_a_secret_is_that_of_its_file(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("password", "cookie", "client", "key")}
    for days, path in enumerate(files.values(), 1):
        path.write_text("secret")
        os.utime(path, (0, 1_000_000 - days * 86400))
    origins = {
        "MLFLOW_TRACKING_PASSWORD": "default",
        "PROXY_COOKIE_SECRET": "environment",
        "MLFLOW_UI_OAUTH_CLIENT_SECRET": f"file {files['client']} (MLFLOW_UI_OAUTH_CLIENT_SECRET_FILE)",
        "PROXY_METRICS_TOKEN": f"file {tmp_path / 'gone'} (PROXY_METRICS_TOKEN_FILE)",
        "PROXY_USERS_FILE": "mlflow.env",
    }
    generated = {
        "MLFLOW_TRACKING_PASSWORD": files["password"],
        "PROXY_COOKIE_SECRET": files["cookie"],
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": files["key"],
    }
    assert written(origins, generated) == {
        "MLFLOW_TRACKING_PASSWORD": 1_000_000 - 86400.0,
        "MLFLOW_UI_OAUTH_CLIENT_SECRET": 1_000_000 - 3 * 86400.0,
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": 1_000_000 - 4 * 86400.0,
    }
