"""Which Host values are served, and which origins are ours."""

from __future__ import annotations

import pytest

from proxy.hosts import LOOPBACK, Hosts
from proxy.settings.values import hosts as allowed_hosts


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:8443",
        b"localhost.",
        b"localhost.:8443",
        b"127.0.0.1:1",
        b"[::1]:8443",
        b"[::1]",
        b"mlflow.example.com",
        b"MLflow.Example.Com:443",
        b"a.lab.example.com",
        b"[2001:db8::7]:8443",
    ],
)
def test_our_names_are_served_however_they_are_written(host: bytes) -> None:
    hosts = Hosts((*LOOPBACK, "2001:db8::7", "*.lab.example.com"), "https://MLflow.example.com/x")
    assert hosts.served(host)
    assert hosts.served(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b".",
        b":8443",
        b"evil.example",
        b"localhost.evil.example",
        b"evil.example.localhost",
        b"127.0.0.1.evil.example",
        b"127.0.0.2",
        b"10.evil.com",
        b"2130706433",
        b"0x7f000001",
        b"localhost@evil.example",
        b"evil.example@localhost",
        b"localhost:8443@evil.example",
        b"localhost:8443:1",
        b"localhost:",
        b"localhost:x",
        b"localhost:999999",
        b"localhost/",
        b"localhost ",
        b"localhost, evil.example",
        b"localhost\x00",
        b"localhost..",
        b"[::1",
        b"::1",
        b"[::1].evil.example",
        b"[::ffff:127.0.0.1]",
        b"lab.example.com",
        b".lab.example.comx",
        b"evil-lab.example.com",
        b"xn--localhost",
        "ⓛocalhost".encode(),
        b"local\xadhost",
        b"*.lab.example.com",
    ],
)
def test_any_other_name_is_not(host: bytes) -> None:
    hosts = Hosts((*LOOPBACK, "*.lab.example.com"), "https://mlflow.example.com")
    assert not hosts.served(host)
    assert not hosts.served(host)


def test_an_allowed_host_with_a_port_is_served_at_that_port_alone() -> None:
    hosts = Hosts(allowed_hosts("mlflow.example.com:8443,[2001:db8::7]:8443,2001:db8::8"), None)
    for host in (b"mlflow.example.com:8443", b"[2001:db8::7]:8443", b"[2001:db8::8]:1"):
        assert hosts.served(host)
    for host in (b"mlflow.example.com", b"mlflow.example.com:8444", b"[2001:db8::7]"):
        assert not hosts.served(host)


def test_ten_thousand_forged_names_take_no_memory() -> None:
    hosts = Hosts(LOOPBACK, None)
    for number in range(10_000):
        assert not hosts.served(b"evil-%d.example" % number)
    assert not hosts.served(b"e" * 60_000)
    assert len(hosts._seen) <= 1000
    assert hosts.served(b"localhost")


def test_our_origin_has_the_scheme_of_the_public_url() -> None:
    behind = Hosts(LOOPBACK, "https://mlflow.example.com:8443/x")
    assert behind.origins("http", b"MLflow.Example.com:8443") == (
        b"https://mlflow.example.com:8443",
        b"https://mlflow.example.com:8443",
    )
    alone = Hosts(LOOPBACK, None)
    assert alone.origins("https", b"localhost:8443") == (b"https://localhost:8443",)
