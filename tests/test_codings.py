"""Accept-Encoding as RFC 9110 reads it (section 12.5.3), and that what is compressed comes out again."""

from __future__ import annotations

import gzip

import brotli
import pytest

from proxy.codings import IDENTITY, choose, compressed, compressor, takes_identity, zstd

SIZES = {"gzip": 300, "zstd": 200, "br": 100}
TEXT = b"What the run has to say, it says again and again. " * 2000


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (None, IDENTITY),
        (b"", IDENTITY),
        (b"gzip", "gzip"),
        (b"GZIP", "gzip"),
        (b"x-gzip", "gzip"),
        (b"gzip, deflate, br, zstd", "br"),
        (b"gzip, deflate, zstd", "zstd"),
        (b"deflate", IDENTITY),
        (b"br;q=0.5, gzip;q=0.8", "gzip"),
        (b"br;q=0.5,gzip ;\tQ=0.500", "br"),
        (b"br;q=0, gzip;q=0, zstd;q=0.001", "zstd"),
        (b"gzip;q=0", IDENTITY),
        (b"identity, gzip;q=0.5", IDENTITY),
        (b"identity;q=0.5, gzip;q=0.6", "gzip"),
        (b"identity;q=0", IDENTITY),
        (b"*", "br"),
        (b"*;q=0", IDENTITY),
        (b"*;q=0, gzip", "gzip"),
        (b"*;q=0.5, br;q=0", "zstd"),
        (b"gzip;q=2, br;q=-1, zstd;q=0.1234", IDENTITY),
        (b"gzip;q=1.000, br;q=1.001", "gzip"),
        (b"gzip;level=9", IDENTITY),
        (b"\xff\xfe, gzip", "gzip"),
        (b", ,gzip,,", "gzip"),
    ],
)
def test_the_client_gets_what_it_prefers_and_else_the_smallest(header: bytes | None, chosen: str) -> None:
    assert choose(header, SIZES) == chosen


def test_what_there_is_not_is_not_chosen() -> None:
    assert choose(b"br, gzip;q=0.1", {"gzip": 1}) == "gzip"
    assert choose(b"br", {}) == IDENTITY
    assert choose(b"*;q=0, br", {}) == IDENTITY


@pytest.mark.parametrize(
    ("header", "takes"),
    [(None, True), (b"", True), (b"gzip", True), (b"identity;q=0", False), (b"*;q=0", False),
     (b"*;q=0, identity;q=0.1", True), (b"br, *;q=0", False)],
)  # fmt: skip
def test_whether_a_client_takes_a_body_as_it_is(header: bytes | None, takes: bool) -> None:
    assert takes_identity(header) is takes


def unpacked(coding: str, data: bytes) -> bytes:
    if coding == "br":
        return bytes(brotli.decompress(data))
    return zstd.decompress(data) if coding == "zstd" else gzip.decompress(data)


@pytest.mark.parametrize(("coding", "level"), [("gzip", 9), ("zstd", 19), ("br", 11)])
@pytest.mark.parametrize("data", [b"", b"x", TEXT])
def test_what_was_compressed_comes_out_again(coding: str, level: int, data: bytes) -> None:
    assert unpacked(coding, compressed(data, coding, level)) == data


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_body_in_pieces_is_one_body(coding: str) -> None:
    packer = compressor(coding, 1)
    parts = [packer.compress(TEXT[at : at + 777]) for at in range(0, len(TEXT), 777)]
    assert unpacked(coding, b"".join(parts) + packer.flush()) == TEXT
    assert sum(map(len, parts)) < len(TEXT) / 10


def test_no_browser_is_asked_for_more_than_eight_mebibytes_of_window() -> None:
    # RFC 9659 forbids it for this coding, and browsers refuse such an answer.
    data = bytes(range(256)) * 65536
    assert zstd.get_frame_info(compressed(data, "zstd", 19)).decompressed_size == len(data)
    unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 23})
    assert unpacker.decompress(compressed(data, "zstd", 19)) == data
