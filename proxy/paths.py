"""The one path of a request: decoded to be authorized, encoded again to be forwarded, or refused."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

# RFC 3986, section 3.3: what a path segment may hold unencoded (pchar), and the slash between segments.
_SAFE = "/:@!$&'()*+,;=~-._"
_PLAIN = re.compile(rb"[A-Za-z0-9/:@!$&'()*+,;=~._-]*\Z")
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPED_SLASH = re.compile(rb"%2[Ff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
# Only below these a name may hold an encoded slash: an artifact's, or an MCP server's `namespace/slug`, which
# MLflow's client always sends encoded (mlflow/store/tracking/mcp_server_registry/rest_mixin.py).
_WITH_NAMES = (
    "2.0/mlflow-artifacts/artifacts/",
    "2.0/mlflow-artifacts/presigned/",
    "2.0/mlflow-artifacts/mpu/create/",
    "2.0/mlflow-artifacts/mpu/complete/",
    "2.0/mlflow-artifacts/mpu/abort/",
    "3.0/mlflow/mcp-servers/",
)
NAME_PREFIXES = tuple(f"/{api}/{below}" for api in ("api", "ajax-api") for below in _WITH_NAMES)


class BadPath(ValueError):
    """A path that has no canonical form here; the text says why."""


class CanonicalPath(NamedTuple):
    """One path in two spellings that mean the same to MLflow."""

    decoded: str
    """What is authorized and matched with MLflow's routes."""
    encoded: bytes
    """What is forwarded: RFC 3986, section 6.2.2, normal form of `decoded`."""


def canonical(raw: bytes, prefix: str = "") -> CanonicalPath | None:
    """The canonical form of a request's path, `prefix` (the public URL's path) taken off.

    None where the path is not below the prefix. Raises BadPath for a path that MLflow, or something
    between, could read in a second way: MLflow 3.17.2 serves ``//api``, ``/%61pi`` and ``/api%2F2.0`` as
    ``/api/2.0`` and decodes artifact names twice (mlflow/utils/uri.py, validate_path_is_safe).
    """
    if not raw.startswith(b"/"):
        raise BadPath("it does not begin with a slash")
    if _PLAIN.match(raw):
        decoded, encoded = raw.decode("ascii"), raw
    else:
        decoded = _decoded(raw, prefix)
        encoded = quote(decoded, safe=_SAFE).encode("ascii")
    segments = decoded.split("/")
    if "" in segments[1:-1]:
        raise BadPath("it has an empty segment ('//')")
    if "." in segments or ".." in segments:
        raise BadPath("it has a dot segment ('.' or '..')")
    if not prefix:
        return CanonicalPath(decoded, encoded)
    if not decoded.startswith(prefix + "/"):
        return None
    return CanonicalPath(decoded[len(prefix) :], encoded[len(quote(prefix, safe=_SAFE)) :])


def _decoded(raw: bytes, prefix: str) -> str:
    if _BAD_ESCAPE.search(raw):
        raise BadPath("a '%' is not followed by two hexadecimal digits")
    once = unquote_to_bytes(raw)
    if _ESCAPE.search(once):
        raise BadPath("it is percent-encoded twice, which MLflow would decode twice")
    try:
        decoded = once.decode("utf-8")
    except UnicodeDecodeError:
        raise BadPath("it is not UTF-8") from None
    if found := _CONTROL.search(decoded):
        what = "a backslash" if found[0] == "\\" else "a control character"
        raise BadPath(f"it has {what}")
    if _ESCAPED_SLASH.search(raw):
        # The part before the first encoded slash decides: an alias of a route must not gain one by it.
        before = unquote_to_bytes(_ESCAPED_SLASH.split(raw, maxsplit=1)[0]).decode("utf-8", "replace")
        if not before.startswith(tuple(prefix + below for below in NAME_PREFIXES)):
            raise BadPath("it has an encoded slash outside a name that may have one")
    return decoded
