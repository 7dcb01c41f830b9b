"""Who made a run or a logged model, as verified here and not as the client claims; pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from proxy import bodies
from proxy.exchange import Refused
from proxy.identity import Identity
from proxy.operations import Operation

USER_TAG = "mlflow.user"
"""MLflow's tag for who made a run (mlflow/utils/mlflow_tags.py); its UI shows it as "Created by"."""
OWN_TAGS = "mlflow_proxy."
"""What our own tags begin with."""
CREDENTIAL_TAG = "mlflow_proxy.credential"
"""The name of the credential that the run was made with, where there is one."""
CLAIMED_TAG = "mlflow_proxy.claimed_user"
"""Who the client said had made it, where that is somebody else."""

# runs.user_id is String(256) (mlflow/store/tracking/dbmodels/models.py); what is longer is an error of the
# database's, which MLflow's client would repeat for minutes.
_LONGEST = 256
# A run's keys have 250 characters at most, a logged model's 255.
_LONGEST_KEY = 256
# MLflow takes 100 in a batch (mlflow/utils/validation.py), and any number on creating. Looking at one of the
# costliest takes 25 µs.
_MOST_TAGS = 5000


def checked(operation: Operation, path: str, body: bytes, identity: Identity) -> bytes:
    """The body to forward for an operation of OPERATIONS, once the whole is there and nothing was sent.

    `path` is canonical and decoded. The result says who made the run, and can be read in one way only.
    Raises Refused: 400 where the body is not one JSON object, 403 where it would set, change or delete what
    says who made a run or logged model, 413 where it is longer than bodies.LIMIT. What MLflow's own jobs
    send is passed through.
    """
    if identity.method == "job":
        return body
    rule = _RULES[operation.name]
    if rule is _delete_from_path:
        # MLflow reads nothing of its body (mlflow/server/handlers.py, _delete_logged_model_tag).
        _refuse_guarded(path.rpartition("/")[2], "deleted")
        if not body:
            return body
    if len(body) > bodies.LIMIT:
        raise Refused(
            413,
            f"The body of {operation.name} may have {bodies.LIMIT} bytes: it is read here, for the name of "
            "whoever makes a run is written into it. Log in smaller batches, or large things as artifacts.",
            reason="body_too_large",
        )
    try:
        found, strict = bodies.read_object(body)
    except bodies.BadBody as error:
        raise _bad(operation, str(error)) from None
    return bodies.written(rule(operation, found, identity), strict)


def guarded(key: str) -> bool:
    """Whether that tag says who made a run, also where only a database takes it for one that does.

    MySQL, MariaDB and SQL Server leave case, accents and width out of account unless told otherwise, and
    UCA collations what is invisible, too: to them ``MLflow.User``, ``mlflow.usér`` and ``mlflow.user`` with a
    zero-width space in it are one key, and so one row.
    """
    return _may_be(key, USER_TAG, whole=True) or _may_be(key, OWN_TAGS, whole=False)


def _may_be(key: str, name: str, whole: bool) -> bool:
    """Whether some collation may take `key`, or its beginning, for `name`."""
    places = {0}  # where in `name` what was read so far may have come to
    for character in key[:_LONGEST_KEY]:
        readings = _readings(character)
        places = {at + len(text) for at in places for text in readings if name.startswith(text, at)}
        if not places or (not whole and len(name) in places):
            break
    return len(name) in places


_LETTER = re.compile(r"\b[A-Z]\b")
# In classical Latin u and v are one letter, in Lithuanian i and y. Neither i nor v is in our names.
_ONE_LETTER = str.maketrans("iv", "yu")


@lru_cache(maxsize=4096)
def _readings(character: str) -> tuple[str, ...]:
    """What a collation may take a character for, in small letters. None leaves out a visible one of ASCII;
    for the rest it depends on the collation, and on the version of Unicode that it was made from."""
    if character.isascii() and character.isprintable() and character != " ":
        return (character.lower().translate(_ONE_LETTER),)
    plain = unicodedata.normalize("NFKD", character)
    readings = {"", "".join(part for part in plain if part.isascii()).strip()}
    name = unicodedata.name(character, "")
    if "LATIN" in name:
        readings.update(_LETTER.findall(name))
        if name.endswith(("U WITH DIAERESIS", "U WITH DOUBLE ACUTE")):
            readings.add("y")  # in Swedish, MariaDB's default, and Danish
    return tuple(reading.lower().translate(_ONE_LETTER) for reading in readings)


def _refuse_guarded(key: str, what: str) -> None:
    if guarded(key):
        raise Refused(
            403,
            f"The tag {key[:100]!r} can't be {what} by a client: this server writes it, so that it tells who "
            "made a run or a model. Leave it out. (The setting is PROXY_VERIFIED_NAMES.)",
            reason="forbidden",
        )


def _bad(operation: Operation, why: str) -> Refused:
    return Refused(
        400,
        f"The body of {operation.name} has to be one JSON object, as MLflow reads it: {why}.",
        reason="bad_request",
    )


Rule = Callable[[Operation, dict[str, Any], Identity], dict[str, Any]]


def _create_run(operation: Operation, found: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """CreateRun: user_id and tags. Where protobuf can't read a later field, MLflow goes on with what came
    before it (handlers.py, _get_request_message), so what we write comes first."""
    claimed = found.pop("user_id", None), found.pop("userId", None)
    tags = _tags(operation, found, identity, claimed)
    return {"user_id": bodies.printable(identity.user, _LONGEST), "tags": tags, **found}


def _create_logged_model(operation: Operation, found: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """CreateLoggedModel has no user_id: MLflow's client sends the tag (tracking/fluent.py)."""
    return {"tags": _tags(operation, found, identity, ()), **found}


def _create_promptlab_run(operation: Operation, found: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """It is read as JSON without protobuf, and any tag at all makes it fail (mlflow/utils/promptlab_utils.py
    hands dicts to the store), so user_id is the one thing that can be written."""
    _refuse_tags(operation, found, identity)
    return {**found, "user_id": bodies.printable(identity.user, _LONGEST)}


def _tags(
    operation: Operation, found: dict[str, Any], identity: Identity, claimed: tuple[Any, ...]
) -> list[Any]:
    """Our tags and then the client's, which are taken out of `found`. What MLflow's client claims by itself
    in mlflow.user is no offence, and kept beside the truth."""
    sent = found.pop("tags", None)
    if sent is not None and not isinstance(sent, list):
        raise _bad(operation, "its tags are not an array")
    kept = []
    for tag in _few(operation, sent):
        key = _key(tag)
        if key == USER_TAG:
            claimed = tag.get("value"), *claimed
            continue
        if key is not None:
            _refuse_guarded(key, "set")
        kept.append(tag)
    ours = {USER_TAG: bodies.printable(identity.user, _LONGEST)}
    if identity.credential is not None and identity.credential.name:
        ours[CREDENTIAL_TAG] = bodies.printable(identity.credential.name, _LONGEST)
    if claim := _claim(claimed, identity):
        ours[CLAIMED_TAG] = claim
    return [{"key": key, "value": value} for key, value in ours.items()] + kept


def _claim(claimed: tuple[Any, ...], identity: Identity) -> str | None:
    for text in claimed:
        # MLflow's client says "unknown" where nothing was claimed (tracking/_tracking_service/client.py).
        if isinstance(text, str) and text not in ("", "unknown", identity.user):
            return bodies.printable(text, _LONGEST)
    return None


def _key(tag: Any) -> str | None:
    """A tag's key, where it has one that MLflow takes: protobuf reads no other type."""
    key = tag.get("key") if isinstance(tag, dict) else None
    return key if isinstance(key, str) else None


def _few(operation: Operation, tags: Any) -> list[Any]:
    if not isinstance(tags, list):
        return []  # MLflow takes no tags from it
    if len(tags) > _MOST_TAGS:
        raise _bad(operation, f"it has {len(tags)} tags, and {_MOST_TAGS} is the most")
    return tags


def _refuse_tags(operation: Operation, found: dict[str, Any], _identity: Identity) -> dict[str, Any]:
    for tag in _few(operation, found.get("tags")):
        if (key := _key(tag)) is not None:
            _refuse_guarded(key, "set")
    return found


def _refuse_key(operation: Operation, found: dict[str, Any], _identity: Identity) -> dict[str, Any]:
    if isinstance(key := found.get("key"), str):
        _refuse_guarded(key, "deleted" if operation.name == "delete-tag" else "set")
    return found


def _update_run(operation: Operation, found: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """MLflow 3.17.2 takes no user and no tags here; one that does shall find nobody's word for them."""
    for field in ("user_id", "userId"):
        if field in found:
            raise Refused(
                403,
                f"{field} can't be changed: it tells who made the run. Leave it out.",
                reason="forbidden",
            )
    return _refuse_tags(operation, found, identity)


def _delete_from_path(_operation: Operation, found: dict[str, Any], _identity: Identity) -> dict[str, Any]:
    return found


_RULES: dict[str, Rule] = {
    "create-run": _create_run,
    "create-promptlab-run": _create_promptlab_run,
    "create-logged-model": _create_logged_model,
    "update-run": _update_run,
    "log-batch": _refuse_tags,
    "set-tag": _refuse_key,
    "delete-tag": _refuse_key,
    "set-logged-model-tags": _refuse_tags,
    "delete-logged-model-tag": _delete_from_path,
}
OPERATIONS = frozenset(_RULES)
"""The names in operations.tsv of what writes who made a run or logged model, or a tag of one."""
