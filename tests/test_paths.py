"""One path has one spelling here: what is authorized is what MLflow gets."""

from __future__ import annotations

import random

import pytest

from proxy.paths import BadPath, canonical

ARTIFACT = b"/api/2.0/mlflow-artifacts/artifacts/"
SEARCH = b"/api/2.0/mlflow/experiments/search"


@pytest.mark.parametrize(
    ("raw", "decoded", "encoded"),
    [
        (b"/", "/", b"/"),
        (SEARCH, SEARCH.decode(), SEARCH),
        # An alias that means the same is one path: authorized and forwarded in its plain form.
        (b"/%61pi/2.0/mlflow/experiments/search", SEARCH.decode(), SEARCH),
        (b"/api/2%2E0/mlflow/experiments/search", SEARCH.decode(), SEARCH),
        (b"/api/2.0/mlflow/experiments/search/", SEARCH.decode() + "/", SEARCH + b"/"),
        (ARTIFACT + b"0/a%20b", "/api/2.0/mlflow-artifacts/artifacts/0/a b", ARTIFACT + b"0/a%20b"),
        (ARTIFACT + b"0%2fa", "/api/2.0/mlflow-artifacts/artifacts/0/a", ARTIFACT + b"0/a"),
        (ARTIFACT + b"%C3%A9", "/api/2.0/mlflow-artifacts/artifacts/é", ARTIFACT + b"%C3%A9"),
        (ARTIFACT + b"50%25", "/api/2.0/mlflow-artifacts/artifacts/50%", ARTIFACT + b"50%25"),
        (ARTIFACT + b"a%3Fb%23c", "/api/2.0/mlflow-artifacts/artifacts/a?b#c", ARTIFACT + b"a%3Fb%23c"),
        (
            b"/ajax-api/3.0/mlflow/mcp-servers/space%2Fname",
            "/ajax-api/3.0/mlflow/mcp-servers/space/name",
            b"/ajax-api/3.0/mlflow/mcp-servers/space/name",
        ),
        (b"/a;b=c/d,e", "/a;b=c/d,e", b"/a;b=c/d,e"),
    ],
)
def test_one_spelling(raw: bytes, decoded: str, encoded: bytes) -> None:
    assert canonical(raw) == (decoded, encoded)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"api/2.0",
        b"*",
        b"//api/2.0/mlflow/experiments/search",
        b"///",
        b"/api//2.0/mlflow/experiments/search",
        b"/api/2.0/mlflow//experiments/search",
        b"//evil.example/api/2.0",
        b"/./api/2.0",
        b"/api/./2.0",
        b"/api/2.0/.",
        b"/x/../api/2.0",
        b"/..",
        b"/api/..;/2.0/..",
        b"/%2e/api/2.0",
        b"/x/%2e%2E/api/2.0",
        b"/x/.%2e/api/2.0",
        b"/api%2F2.0/mlflow/experiments/search",
        b"/api%2f2.0/mlflow/experiments/search",
        b"/%2Fapi/2.0",
        b"/api/2.0/mlflow%2Fexperiments/search",
        b"/api/2.0/mlflow-artifacts%2Fartifacts/0/x",
        b"/api/2.0/mlflow-artifacts/artifacts%2F0/x",
        b"/%2561pi/2.0",
        b"/api%252F2.0",
        b"/api%25252F2.0",
        ARTIFACT + b"0/a%252Fb",
        ARTIFACT + b"0/a%25%32%46b",
        ARTIFACT + b"0/%252e%252e/x",
        ARTIFACT + b"..%2F..%2Fetc/passwd",
        ARTIFACT + b"0/%2e%2e/1/x",
        ARTIFACT + b"0%2F%2F1",
        ARTIFACT + b"0//x",
        ARTIFACT + b"%2F",
        ARTIFACT + b"%2Fetc/passwd",
        b"/api\\2.0",
        b"/api%5c2.0",
        b"/api%5C..%5C2.0",
        ARTIFACT + b"a%5cb",
        b"/api%00",
        b"/api\x00",
        b"/api%0a",
        b"/api%0d%0aX:y",
        b"/api%09",
        b"/api%7f",
        b"/api%c0%af2.0",
        b"/%c1%a1pi",
        b"/api%e0%80%af2.0",
        b"/api%f0%80%80%af2.0",
        b"/api%ed%a0%80",
        b"/api%ff",
        b"/api\xff",
        b"/api%",
        b"/api%2",
        b"/api%2g",
        b"/api%u002f",
        b"/api% 2f",
    ],
)
def test_what_could_be_read_in_a_second_way_is_refused(raw: bytes) -> None:
    with pytest.raises(BadPath):
        canonical(raw)
    with pytest.raises(BadPath):
        canonical(b"/ml" + raw if raw.startswith(b"/") else raw, "/ml")


def test_below_a_prefix_and_nowhere_else() -> None:
    assert canonical(b"/ml/api", "/ml") == ("/api", b"/api")
    assert canonical(b"/%6dl/api", "/ml") == ("/api", b"/api")
    assert canonical(b"/ml/", "/ml") == ("/", b"/")
    assert canonical(b"/ml/a%20b", "/ml") == ("/a b", b"/a%20b")
    assert canonical(b"/ml" + ARTIFACT + b"a%2Fb", "/ml") == (ARTIFACT.decode() + "a/b", ARTIFACT + b"a/b")
    for outside in (b"/", b"/ml", b"/mlx/api", b"/api", b"/ML/api", b"/x/ml/api"):
        assert canonical(outside, "/ml") is None
    with pytest.raises(BadPath):
        canonical(b"/ml%2Fapi", "/ml")
    with pytest.raises(BadPath):
        canonical(ARTIFACT + b"a%2Fb", "/ml")  # the prefix counts for where a name begins


def test_no_spelling_of_a_path_has_two_readings() -> None:
    """What is let through is the same when it is forwarded and read again; decoding twice adds nothing."""
    letters = [
        b"/",
        b"a",
        b"pi",
        b".",
        b"..",
        b"%",
        b"%2F",
        b"%2e",
        b"%25",
        b"%61",
        b"%C3%A9",
        b";",
        b"\\",
        b"%5c",
    ]
    letters += [b"%00", b"2", b"5", b"F", b"+", b"%20", b"%2B", ARTIFACT[1:], b"%EF%BC%8F", b"%E2%80%A8"]
    chance = random.Random(1)
    through = 0
    for _ in range(40_000):
        raw = b"/" + b"".join(chance.choices(letters, k=chance.randint(1, 7)))
        try:
            path = canonical(raw)
        except BadPath:
            continue
        through += 1
        assert path is not None
        assert canonical(path.encoded) == path
        assert path.encoded.isascii()
        assert b"%2F" not in path.encoded.upper()
        segments = path.decoded.split("/")
        assert not {".", ".."} & set(segments)
        assert "" not in segments[1:-1]
        assert "\\" not in path.decoded
    assert through > 1000
