"""What a request's body says, read as MLflow's handlers read it: one JSON object, and the things it names."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import orjson

from proxy.operations import ROUTES, Operation, resource_of

LIMIT = 8 * 2**20
"""Bytes of a body that is read here. It takes the event loop 4 ms a MiB of metrics, and 30 ms and tens of
times the memory where somebody means harm, so what is far above anything that MLflow's clients send is not
read."""
_LARGE = 2**18


class BadBody(ValueError):
    """A body that is not one JSON object; the text says what is wrong with it."""


class Body(NamedTuple):
    """A body as it was read."""

    found: dict[str, Any]
    strict: bool
    """Whether it is JSON as RFC 8259 has it; else it holds what Python's json reads beyond that."""


def read_object(body: bytes) -> Body:
    """The JSON object that MLflow reads from that body. Raises BadBody.

    As mlflow/server/handlers.py, _get_normalized_request_json: ``json.loads`` of the bytes (Flask's
    get_json; UTF-8, UTF-16 or UTF-32, with or without a byte order mark; NaN and Infinity; of a name that
    stands twice the last), once more where that is a string. Where MLflow takes an empty, unreadable or
    ``null`` body for an empty object, this raises.
    """
    # The collector, woken by every seven hundredth list or object, would take six times as long as reading.
    pause = len(body) > _LARGE and gc.isenabled()
    if pause:
        gc.disable()
    try:
        found, strict = _read(body)
    finally:
        if pause:
            gc.enable()
    if not isinstance(found, dict):
        raise BadBody(f"it is {_KINDS.get(type(found), 'not an object')}")
    return Body(found, strict)


def written(found: dict[str, Any], strict: bool) -> bytes:
    """That object as JSON, each name once: there is one way to read it. `strict` as it was read."""
    if strict:
        return orjson.dumps(found)
    # orjson would write NaN as null, and not write half a surrogate pair or a number beyond 64 bits.
    return json.dumps(found, separators=(",", ":")).encode("ascii")


def printable(text: str, longest: int) -> str:
    """The beginning of a text, as a database, a log and a terminal take it: no NUL, no half surrogate pair,
    no control character."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:longest]
    )


_KINDS = {list: "an array", str: "a string in a string", bool: "true or false", type(None): "null"}


def _read(body: bytes) -> tuple[Any, bool]:
    try:
        found: Any = orjson.loads(body)  # reads less than json, and in a third of the time
    except orjson.JSONDecodeError:
        found, strict = _lenient(body), False
    else:
        strict = True
    return (_lenient(found), False) if isinstance(found, str) else (found, strict)


def _lenient(text: bytes | str) -> Any:
    if not text.strip():
        raise BadBody("it is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else "no JSON"
        raise BadBody(f"it is {what}") from None


# What an audit line may tell of a body or a path: names and ids, no values. Spelled as in MLflow's protos;
# its handlers take camelCase as well.
_TOLD = {
    "experiment_id": "experiment_id",
    "experiment_ids": "experiment_id",
    "run_id": "run_id",
    "run_uuid": "run_id",
    "model_id": "model_id",
    "trace_id": "trace_id",
    "request_id": "trace_id",
    "request_ids": "trace_id",
    "max_timestamp_millis": "max_timestamp_millis",
    "name": "name",
    "new_name": "new_name",
    "version": "version",
    "alias": "alias",
    "stage": "stage",
    "key": "key",
    "tag_key": "key",
    "assessment_id": "assessment_id",
    "artifact_path": "path",
    "dataset_id": "dataset_id",
    "dataset_record_ids": "record_id",
    "job_id": "job_id",
    "job_name": "job",
    "issue_id": "issue_id",
    "schema_id": "schema_id",
    "queue_id": "queue_id",
    "webhook_id": "webhook_id",
    "workspace_name": "workspace",
    "endpoint_id": "endpoint_id",
    "endpoint_name": "endpoint",
    "secret_id": "secret_id",
    "secret_name": "secret",
    "model_definition_id": "model_definition_id",
    "resource_type": "resource_type",
    "resource_id": "resource_id",
    "budget_policy_id": "budget_policy_id",
    "guardrail_id": "guardrail_id",
    "scorer_id": "scorer_id",
    "session_id": "session_id",
}
# What the bare `name` of these is.
_NAMED = {"registered-model": "model", "model-version": "model", "workspace": "workspace", "scorer": "scorer"}
_LONGEST = 256
_MOST = 10
# protobuf's second spelling of each field: a word less its underscore, its next letter a capital.
_FIELDS = _TOLD.keys() | {re.sub(r"_([a-z])", lambda found: found[1].upper(), field) for field in _TOLD}
_CAPITAL = re.compile(r"([a-z])([A-Z])")
_PLACE = re.compile(r"\{(\w+?)(:path)?\}")


def target_of(operation: Operation, path: str, query: bytes, body: bytes) -> dict[str, str]:
    """What a request is about, by its path, its query and its body, for the audit log; never raises.

    ``experiment_id``, ``run_id``, ``model``, ``version`` and the like: ids and names alone, each value at
    most 256 characters, of a list its first ten and how many more. `path` is canonical and decoded. A body
    that is not one JSON object tells nothing; of one that is larger than LIMIT, that is said.
    """
    found: dict[str, str] = {}
    if len(body) > LIMIT:
        found["body"] = "too large to be read"
    elif body:
        try:
            named = read_object(body).found
        except BadBody:
            named = {}
        found = _told(operation, ((field, named[field]) for field in sorted(_FIELDS & named.keys())))
    # MLflow's handlers take what the path names from there alone.
    return found | _told(operation, _places(operation.name, path)) | resource_of(operation, path, query)


def _told(operation: Operation, fields: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """What fields tell. Where two tell of the same, both are told: a handler reads one, and not each the
    same one."""
    values: dict[str, list[list[Any]]] = {}
    for field, value in fields:
        told = _TOLD.get(_CAPITAL.sub(r"\1_\2", field).lower())
        if told == "name":
            told = next((what for of, what in _NAMED.items() if of in operation.name), told)
        if told is not None:
            values.setdefault(told, []).append(value if isinstance(value, list) else [value])
    return {told: text for told, among in values.items() if (text := _together(among))}


def _together(among: list[list[Any]]) -> str:
    # Each field has its share, or one that the handler does not read would crowd out the one that it does.
    share = (_LONGEST + 1) // len(among) - 1
    return ",".join(dict.fromkeys(text for values in among if (text := _listed(values, share))))


def _listed(values: list[Any], longest: int) -> str:
    texts = [_text(one) for one in dict.fromkeys(one for one in values if isinstance(one, str | int))]
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ",".join(text for text in texts[:_MOST] if text)[:longest] + more


def _text(value: str | int) -> str:
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a large number"  # of more digits Python may refuse to print them (sys.set_int_max_str_digits)
    return printable(str(value), _LONGEST)


def _places(operation: str, path: str) -> Iterator[tuple[str, str]]:
    for pattern in _patterns(operation):
        if match := pattern.match(path):
            yield from match.groupdict().items()
            return


@cache
def _patterns(operation: str) -> tuple[re.Pattern[str], ...]:
    """The paths of an operation that name something; a closed set, since operations are."""
    paths = dict.fromkeys(route.path for route in ROUTES if route.operation.name == operation)
    return tuple(_pattern(path) for path in paths if _PLACE.search(path.replace("{api}", "")))


def _pattern(path: str) -> re.Pattern[str]:
    text = re.escape(path).replace(r"\{", "{").replace(r"\}", "}").replace("{api}", "(?:ajax-)?api")
    text = _PLACE.sub(lambda place: f"(?P<{place[1]}>{'.+?' if place[2] else '[^/]+'})", text)
    return re.compile(rf"{text}\Z", re.DOTALL)
