"""The client's address, whatever stands in X-Forwarded-For."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from proxy.addresses import client_address, is_trusted

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
CLIENT = "203.0.113.7"


@pytest.mark.parametrize(
    "forged", [b"127.0.0.1", b"10.0.0.1", b"::1", b"unknown", b"", b"10.0.0.1, 10.0.0.2"]
)
def test_what_an_untrusted_peer_says_is_not_read(forged: bytes) -> None:
    assert client_address(CLIENT, [forged], TRUSTED) == CLIENT
    assert client_address("10.0.0.1", [forged], ()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([b"203.0.113.7"], CLIENT),
        ([b"127.0.0.1, 203.0.113.7"], CLIENT),  # the client wrote the first
        ([b"127.0.0.1", b"203.0.113.7"], CLIENT),
        ([b"127.0.0.1, 203.0.113.7, 10.0.0.9"], CLIENT),
        ([b"127.0.0.1, 203.0.113.7", b"10.0.0.9, 10.1.1.1"], CLIENT),
        ([b"10.0.0.9"], "10.0.0.9"),  # proxies and nobody else: the farthest of them
        ([b"10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        ([b"203.0.113.7:4711"], CLIENT),
        ([b'"203.0.113.7:4711"'], CLIENT),
        ([b"[2001:db8::7]:4711"], "2001:db8::7"),
        ([b"[2001:db8::7]"], "2001:db8::7"),
        ([b"2001:db8::7"], "2001:db8::7"),
        ([b"::ffff:203.0.113.7"], CLIENT),
        ([b"203.0.113.7, ::ffff:10.0.0.9"], CLIENT),
        ([b"203.0.113.7, fd00::9"], CLIENT),
        ([], "10.0.0.1"),
        # What can't be read ends the search: who wrote it is the last that is known.
        ([b""], "10.0.0.1"),
        ([b"203.0.113.7, "], "10.0.0.1"),
        ([b"unknown"], "10.0.0.1"),
        ([b"203.0.113.7, _hidden, 10.0.0.9"], "10.0.0.9"),
        ([b"203.0.113.7\xff"], "10.0.0.1"),
        ([b"203.0.113.007"], "10.0.0.1"),
        ([b"3405803783"], "10.0.0.1"),
        ([b"0x7f.1"], "10.0.0.1"),
        ([b"for=203.0.113.7"], "10.0.0.1"),
        ([b"<script>"], "10.0.0.1"),
    ],
)
def test_behind_a_trusted_proxy_it_is_read_from_the_right(values: list[bytes], client: str) -> None:
    assert client_address("10.0.0.1", values, TRUSTED) == client


def test_a_zone_carries_no_text_of_an_attacker_s_into_the_log() -> None:
    assert client_address("10.0.0.1", [b'fe80::1%eth0" 200 "-"'], TRUSTED) == "fe80::1"


def test_a_trusted_peer_may_be_written_in_either_family() -> None:
    for peer in ("10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00::1%eth0"):
        assert is_trusted(peer, TRUSTED)
    for peer in (CLIENT, "::ffff:203.0.113.7", "::1", "", "unix", "10.0.0.1.example.com"):
        assert not is_trusted(peer, TRUSTED)


def test_thousands_of_hops_are_read_in_no_time() -> None:
    values = [b",".join([b"203.0.113.7"] * 2000), b",".join([b"10.0.0.9"] * 2000)]
    assert client_address("10.0.0.1", values, TRUSTED) == CLIENT
