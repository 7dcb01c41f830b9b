"""Which requests another site's page may make a browser send here."""

from __future__ import annotations

import pytest

from proxy import cross_origin

OURS = (b"https://mlflow.example.com",)


def refused(
    method: str, *, reads: bool = False, site: bytes | None = None, origin: bytes | None = None
) -> str | None:
    return cross_origin.refused(method, reads=reads, fetch_site=site, origin=origin, own_origins=OURS)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("reads", [True, False])
def test_a_program_sends_neither_and_passes(method: str, reads: bool) -> None:
    assert refused(method, reads=reads) is None


@pytest.mark.parametrize(
    "site", [b"cross-site", b"same-site", b"", b"Same-Origin", b"same-origin, none", b"x"]
)
def test_a_write_from_another_site_is_refused_whatever_its_origin_says(site: bytes) -> None:
    for origin in (None, *OURS, b"null"):
        assert refused("POST", site=site, origin=origin) is not None
        assert refused("POST", reads=True, site=site, origin=origin) is not None
        assert refused("GET", site=site, origin=origin) is not None


def test_a_read_by_get_passes_from_anywhere() -> None:
    for method in ("GET", "HEAD"):
        assert refused(method, reads=True, site=b"cross-site", origin=b"https://evil.example") is None


@pytest.mark.parametrize("site", [b"same-origin", b"none"])
def test_our_own_page_and_a_person_s_own_request_pass(site: bytes) -> None:
    assert refused("POST", site=site, origin=b"https://mlflow.example.com") is None


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"https://evil.example",
        b"http://mlflow.example.com",
        b"https://mlflow.example.com:8443",
        b"https://mlflow.example.com.evil.example",
        b"https://evil-mlflow.example.com",
        b"https://mlflow.example.com@evil.example",
        b"https://mlflow.example.com/",
        b"https://mlflow.example.com https://evil.example",
        b"https://mlflow.example.com\x00",
        b"https://example.com",
    ],
)
def test_an_older_browser_is_told_by_its_origin(origin: bytes) -> None:
    assert refused("POST", origin=origin) is not None
    assert refused("GET", origin=origin) is not None
    assert refused("POST", origin=b"HTTPS://MLflow.example.com") is None


def test_the_reason_shows_what_was_sent_and_not_much_of_it() -> None:
    why = refused("POST", origin=b"https://evil.example\xff" + b"x" * 5000)
    assert why is not None
    assert "https://evil.example" in why
    assert len(why) < 250
