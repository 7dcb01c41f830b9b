"""The files of MLflow's UI as they are served: codings, conditions, parts, and what is kept of them."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import brotli
import pytest
from ui_site import CODE, INDEX, PICTURE, SCRIPT, Answer, UiSite, files, serving, until

from proxy.app import _back_soon
from proxy.codings import zstd
from proxy.ui import conditions, pack
from proxy.ui.files import folder, scan

MAIN = f"/static-files/static/js/{SCRIPT}"
PLAIN = "/static-files/static/js/plain.js"
PNG = "/static-files/static/media/picture.0fd4a63680fba840a7b69fbf.png"
PAGE = INDEX.replace("</head>", "<script src=ours></script></head>").encode()
ALL = "gzip, deflate, br, zstd"
CODINGS = ("br", "gzip", "zstd")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UiSite]:
    """With everything compressed that is to be."""
    place = tmp_path_factory.mktemp("ui")
    with serving(UiSite(files(place / "build"), place / "data")) as site:
        until(site.coded, "they were compressed")
        yield site


def unpacked(answer: Answer) -> bytes:
    if answer.coding == "br":
        return bytes(brotli.decompress(answer.body))
    if answer.coding == "zstd":
        return zstd.decompress(answer.body)
    return gzip.decompress(answer.body) if answer.coding == "gzip" else answer.body


# Codings.


@pytest.mark.parametrize(
    ("path", "content"), [(MAIN, CODE.encode()), (PLAIN, CODE[:5000].encode()), ("/", PAGE)]
)
@pytest.mark.parametrize("coding", CODINGS)
def test_each_coding_is_the_same_file(site: UiSite, path: str, content: bytes, coding: str) -> None:
    answer = site.get(path, Accept_Encoding=coding)
    assert (answer.status, answer.coding, answer.headers["vary"]) == (200, coding, "Accept-Encoding")
    assert unpacked(answer) == content
    assert int(answer.headers["content-length"]) == len(answer.body) < len(content)
    assert "accept-ranges" not in answer.headers


@pytest.mark.parametrize("path", [MAIN, PLAIN, "/"])
def test_the_etags_of_the_codings_differ_and_are_strong(site: UiSite, path: str) -> None:
    tags = {site.get(path, Accept_Encoding=coding).etag for coding in (*CODINGS, "identity")}
    assert len(tags) == 4
    assert all(tag.startswith('"') for tag in tags)


def test_without_a_word_of_codings_a_file_comes_as_it_is(site: UiSite) -> None:
    answer = site.get(MAIN)
    assert (answer.coding, answer.headers["vary"], answer.body) == (None, "Accept-Encoding", CODE.encode())


def test_what_is_compressed_already_is_not_compressed_again(site: UiSite) -> None:
    answer = site.get(PNG, Accept_Encoding=ALL)
    assert (answer.coding, answer.body, answer.headers["content-type"]) == (None, PICTURE, "image/png")
    assert "vary" not in answer.headers


def test_an_empty_file_is_empty(site: UiSite) -> None:
    answer = site.get("/static-files/static/media/empty.0fd4a63680fba840a7b69fbf.txt", Accept_Encoding=ALL)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


# What caches are told.


def test_a_name_with_a_hash_is_never_asked_for_again(site: UiSite) -> None:
    for path in (MAIN, PNG):
        assert site.get(path).headers["cache-control"] == "public, max-age=31536000, immutable"
    for path in (PLAIN, "/static-files/manifest.json"):
        assert site.get(path).headers["cache-control"] == "public, max-age=86400"
    for path in ("/", "/static-files/index.html", "/static-files/lib/notebook-trace-renderer/index.html"):
        assert site.get(path).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", [MAIN, "/"])
@pytest.mark.parametrize("coding", [*CODINGS, "identity"])
def test_who_knows_it_is_told_so_and_nothing_more(site: UiSite, path: str, coding: str) -> None:
    tag = site.get(path, Accept_Encoding=coding).etag
    for known in (tag, f"W/{tag}", f'"other", W/{tag}', "*"):
        answer = site.get(path, Accept_Encoding=coding, If_None_Match=known)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.etag == tag
        assert {"cache-control", "vary"} <= set(answer.headers)
        assert "content-length" not in answer.headers
    assert site.get(path, Accept_Encoding=coding, If_None_Match='"other"').status == 200


def test_who_knows_another_coding_gets_the_one_that_it_asks_for(site: UiSite) -> None:
    tag = site.get(MAIN, Accept_Encoding="gzip").etag
    assert site.get(MAIN, Accept_Encoding="br", If_None_Match=tag).status == 200


def test_what_is_asked_for_on_condition_that_it_is_another_is_refused(site: UiSite) -> None:
    assert site.get(MAIN, If_Match='"other"').status == 412
    assert site.get(MAIN, If_Match=f"W/{site.get(MAIN).etag}").status == 412
    assert site.get(MAIN, If_Match=site.get(MAIN).etag).status == 200


@pytest.mark.parametrize("path", [MAIN, PNG, "/", PLAIN])
@pytest.mark.parametrize("coding", [*CODINGS, "identity"])
def test_head_says_what_get_says(site: UiSite, path: str, coding: str) -> None:
    got, told = site.get(path, Accept_Encoding=coding), site.ask("HEAD", path, Accept_Encoding=coding)
    assert (told.status, told.body) == (200, b"")
    assert {**told.headers, "date": ""} == {**got.headers, "date": ""}


# Parts.


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=100-", 100, len(CODE) - 1), ("bytes=-7", len(CODE) - 7, len(CODE) - 1),
     ("Bytes = 5-99999999", 5, len(CODE) - 1), ("bytes=-99999999", 0, len(CODE) - 1), ("bytes=4-4", 4, 4),
     ("bytes=70000-200000", 70000, 200000)],
)  # fmt: skip
def test_a_part_is_of_the_file_as_it_is(site: UiSite, asked: str, first: int, last: int) -> None:
    answer = site.get(MAIN, Accept_Encoding=ALL, Range=asked)
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CODE)}"
    assert answer.body == CODE.encode()[first : last + 1]
    assert (answer.coding, answer.etag) == (None, site.get(MAIN).etag)


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "lines=0-9", "bytes=9-4", "bytes=x", "bytes=", "bytes=-", ""]
)
def test_a_part_that_cannot_be_given_is_the_whole(site: UiSite, asked: str) -> None:
    answer = site.get(MAIN, Range=asked)
    assert (answer.status, answer.body) == (200, CODE.encode())


@pytest.mark.parametrize("asked", [f"bytes={len(CODE)}-", "bytes=-0"])
def test_a_part_beyond_the_end_is_refused(site: UiSite, asked: str) -> None:
    answer = site.get(MAIN, Range=asked)
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(CODE)}")


def test_a_part_of_what_has_changed_is_the_whole_new_thing(site: UiSite) -> None:
    tag = site.get(MAIN).etag
    assert site.get(MAIN, Range="bytes=0-9", If_Range=tag).status == 206
    for other in (
        f"W/{tag}",
        '"other"',
        "Mon, 01 Jan 2035 00:00:00 GMT",
        site.get(MAIN, Accept_Encoding="br").etag,
    ):
        assert site.get(MAIN, Range="bytes=0-9", If_Range=other).body == CODE.encode()


@pytest.mark.parametrize("path", [MAIN, "/"])
def test_who_takes_nothing_as_it_is_gets_no_part(site: UiSite, path: str) -> None:
    answer = site.get(path, Accept_Encoding="br, identity;q=0", Range="bytes=0-9")
    assert (answer.status, answer.coding) == (200, "br")


def test_head_of_a_part_is_of_the_whole(site: UiSite) -> None:
    answer = site.ask("HEAD", MAIN, Range="bytes=0-9")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(CODE)))


# Which files, and what is said of them.


def test_both_of_mlflows_places_lead_to_them(site: UiSite) -> None:
    assert site.get(f"/build/static/js/{SCRIPT}").body == CODE.encode()
    assert site.get("/static-files/index.html").body == INDEX.encode()


@pytest.mark.parametrize(
    "path",
    ["/static-files/", "/static-files/static", "/static-files/static/js", "/static-files/none.js", "/build/",
     "/static-files/../build/index.html", "/static-files/static/../index.html", "/static-files//index.html",
     "/static-files/%2e%2e/secret", "/static-files/..%2fsecret", "/static-filesindex.html", "/index.html",
     "/static-files/INDEX.html", "/static-files/index.html/"],
)  # fmt: skip
def test_what_is_no_file_of_them_is_not_looked_for(site: UiSite, path: str) -> None:
    assert site.get(path).body == b"MLflow was asked"


def test_a_link_is_no_file_of_them(tmp_path: Path) -> None:
    root = files(tmp_path / "build")
    (tmp_path / "secret.js").write_text("secret")
    (root / "static/link.js").symlink_to(tmp_path / "secret.js")
    (root / "static/out").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(root / "static/pipe.js")
    found = scan(root).by_name
    assert f"static/js/{SCRIPT}" in found
    assert not [
        name for name in found if "link" in name or "out" in name or "pipe" in name or "secret" in name
    ]


def test_a_file_that_has_become_another_is_left_to_mlflow(tmp_path: Path) -> None:
    root = files(tmp_path / "build")
    with serving(UiSite(root, tmp_path / "data", compress=False)) as site:
        assert site.get(PLAIN).status == 200
        (root / "static/js/plain.js").write_text("changed")
        (root / f"static/js/{SCRIPT}").unlink()
        (root / f"static/js/{SCRIPT}").symlink_to("/etc/passwd")
        (root / "manifest.json").unlink()
        for path in (PLAIN, MAIN, "/static-files/manifest.json"):
            assert site.get(path).body == b"MLflow was asked"


def test_frames_are_as_mlflow_has_them(site: UiSite) -> None:
    notebook = "/static-files/lib/notebook-trace-renderer/index.html"
    for path in (MAIN, "/", PLAIN):
        assert site.get(path).headers["x-frame-options"] == "SAMEORIGIN"
        assert site.get(path).headers["x-content-type-options"] == "nosniff"
    assert "x-frame-options" not in site.get(notebook).headers
    try:
        site.frames = "deny"
        assert site.get("/").headers["x-frame-options"] == "DENY"
        site.frames = "none"
        assert "x-frame-options" not in site.get("/").headers
    finally:
        site.frames = "SAMEORIGIN"


def test_the_page_is_mlflows_where_it_is_said_to_be(site: UiSite) -> None:
    site.away = True
    try:
        assert site.get("/").body == b"MLflow was asked"
        assert site.get(MAIN).status == 200
    finally:
        site.away = False


# What is kept.


def names(data: Path) -> list[str]:
    return sorted(path.name for path in data.iterdir())


def test_the_best_takes_the_quick_ones_place_and_is_there_at_the_next_start(tmp_path: Path) -> None:
    root, data = files(tmp_path / "build"), tmp_path / "data"
    with serving(UiSite(root, data, best_after=0)) as site:
        until(lambda: [name.rpartition(".")[2] for name in names(data)] == ["best"], "the best was made")
        best = site.get(MAIN, Accept_Encoding="br")
        assert unpacked(best) == CODE.encode()
    before = (data / names(data)[0]).stat().st_mtime_ns
    with serving(UiSite(root, data, best_after=0)) as site:
        until(site.coded, "it was taken up")
        assert site.get(MAIN, Accept_Encoding="br").etag == best.etag
        assert (data / names(data)[0]).stat().st_mtime_ns == before


@pytest.mark.parametrize("harm", ["shorter", "changed", "empty"])
def test_what_is_not_whole_is_made_anew(tmp_path: Path, harm: str) -> None:
    root, data = files(tmp_path / "build"), tmp_path / "data"
    with serving(UiSite(root, data)) as site:
        until(site.coded, "they were compressed")
    kept = data / names(data)[0]
    content = kept.read_bytes()
    middle = len(content) // 2
    kept.write_bytes(
        {"shorter": content[:-1], "changed": content[:middle] + b"?" + content[middle + 1 :], "empty": b""}[
            harm
        ]
    )
    with serving(UiSite(root, data)) as site:
        until(site.coded, "they were compressed again")
        assert unpacked(site.get(MAIN, Accept_Encoding="zstd")) == CODE.encode()
        assert kept.read_bytes() == content


def test_what_was_made_of_other_files_or_never_finished_is_removed(tmp_path: Path) -> None:
    root, data = files(tmp_path / "build"), tmp_path / "data"
    data.mkdir()
    for name in ("3.1.0-0123456789abcdef.best", f"3.17.2-0123456789abcdef.quick.77{pack.UNFINISHED}"):
        (data / name).write_bytes(b"old")
    (data / "notes").write_text("a person's")
    with serving(UiSite(root, data)) as site:
        until(site.coded, "they were compressed")
    assert [name.rpartition(".")[2] for name in names(data)] == ["quick", "notes"]


def test_a_pack_of_other_files_is_not_served(tmp_path: Path) -> None:
    pack.write(tmp_path / "some", "a", [("index.html", "br", b"x" * 10)])
    assert pack.Pack(tmp_path / "some", "a").bodies["index.html"]["br"].size == 10
    with pytest.raises(pack.Unusable):
        pack.Pack(tmp_path / "some", "b")


def test_where_nothing_can_be_kept_it_is_said_once_and_they_are_served_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    with caplog.at_level(logging.WARNING, "proxy.ui"):
        with serving(UiSite(files(tmp_path / "build"), tmp_path / "file" / "data", best_after=0)) as site:
            until(lambda: caplog.records, "it was said")
            answer = site.get(MAIN, Accept_Encoding=ALL)
            assert (answer.coding, answer.body) == (None, CODE.encode())
        assert len(caplog.records) == 1
        assert "uncompressed" in caplog.text


def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, data = files(tmp_path / "build"), tmp_path / "data"
    with serving(UiSite(root, data)) as site:
        until(site.coded, "they were compressed")
    taken = data / names(data)[0]
    taken.unlink()
    taken.mkdir()
    (taken / "in the way").touch()
    with caplog.at_level(logging.WARNING, "proxy.ui"), serving(UiSite(root, data)) as site:
        until(lambda: "served uncompressed" in caplog.text, "it was said")
        assert site.get(MAIN, Accept_Encoding=ALL).body == CODE.encode()
    assert names(data) == [taken.name]


def test_switched_off_nothing_is_compressed_or_kept(tmp_path: Path) -> None:
    with serving(UiSite(files(tmp_path / "build"), tmp_path / "data", compress=False, best_after=0)) as site:
        for path in ("/", MAIN):
            answer = site.get(path, Accept_Encoding=ALL)
            assert (answer.coding, "vary" in answer.headers) == (None, False)
    assert not (tmp_path / "data").exists()


def test_a_pack_that_is_taken_away_under_way_is_no_crash(tmp_path: Path) -> None:
    with serving(UiSite(files(tmp_path / "build"), tmp_path / "data")) as site:
        until(site.coded, "they were compressed")
        os.truncate(tmp_path / "data" / names(tmp_path / "data")[0], 0)
        assert site.get(MAIN, Accept_Encoding="br").body in (b"MLflow was asked",)
        assert site.get(MAIN).body == CODE.encode()


# A client that goes.


def test_a_client_that_leaves_in_the_middle_ends_its_answer(site: UiSite) -> None:
    with socket.socket() as wire:
        wire.settimeout(20)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", site.port))
        wire.sendall(f"GET {MAIN} HTTP/1.1\r\nHost: x\r\nX-Who: leaver\r\n\r\n".encode())
        assert wire.recv(100)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: any(exchange.error == "client_gone" for exchange in site.exchanges), "it was noticed")


# By itself.


@pytest.mark.parametrize(
    ("tags", "etag", "strong", "weak"),
    [(b'"a"', b'"a"', True, True), (b'W/"a"', b'"a"', False, True), (b"*", b'"a"', True, True),
     (b'"b", "a"', b'"a"', True, True), (b'"b,a"', b'"a"', False, False), (b"a", b'"a"', False, False),
     (b"", b'"a"', False, False), (b'"a', b'"a"', False, False)],
)  # fmt: skip
def test_tags_are_compared_as_they_are_written(tags: bytes, etag: bytes, strong: bool, weak: bool) -> None:
    assert conditions.matches(tags, etag, weakly=False) is strong
    assert conditions.matches(tags, etag, weakly=True) is weak


@pytest.mark.parametrize(
    ("up", "away_for", "given"),
    [
        (True, None, True),
        (True, 1000.0, True),
        (False, 1.0, True),
        (False, 61.0, False),
        (False, None, False),
    ],
)
def test_the_page_is_given_while_what_it_calls_will_be_held_until_mlflow_is_back(
    up: bool, away_for: float | None, given: bool
) -> None:
    """Else a page that waits is, which needs nothing of MLflow."""

    class Mlflow:
        def __init__(self) -> None:
            self.up = up
            self.away_since = None if away_for is None else time.monotonic() - away_for

    assert _back_soon(Mlflow(), 60.0) is given  # type: ignore[arg-type]


def test_the_installed_mlflows_files_are_found_and_nearly_all_last() -> None:
    root = folder()
    assert root is not None
    found = scan(root).by_name
    lasting = {name for name, file in found.items() if file.lasting}
    assert {"index.html", "manifest.json", "favicon.ico"} <= set(found) - lasting
    assert len(set(found) - lasting) < 10
    assert all(file.content_type != b"application/octet-stream" for file in found.values())
