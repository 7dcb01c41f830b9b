"""Somebody does what the audit log tells of, and sees to it that the line does not say to what, or who."""

from __future__ import annotations

import json
from typing import Any

import pytest
from audit_site import exchange

from proxy.audit.entry import entry
from proxy.audit.repeats import KINDS, Repeats
from proxy.bodies import _TOLD, target_of
from proxy.identity import Credential, Identity, Role
from proxy.operations import operation_of

RUN = "5cb7c8ab9e0a4d2ab0a0a0f1f7c6f0aa"
DELETE_RUN = "/api/2.0/mlflow/runs/delete"
DELETE_SECRET = "/api/3.0/mlflow/gateway/secrets/delete"


def told(method: str, path: str, body: dict[str, Any]) -> dict[str, str]:
    """The target as the line has it."""
    operation = operation_of(method, path)
    target = target_of(operation, path, b"", json.dumps(body).encode())
    found = entry("deletion", at=0.0, exchange=exchange(method, path, target=target))["target"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "more",
    [
        {"runId": "x" * 256},
        {"runId": [f"other {number}" for number in range(12)]},
        {"runId": ["x" * 256] * 12, "runUuid": "y" * 256, "run_uuid": ["z" * 999]},
    ],
    ids=["long", "many", "all"],
)
def test_a_run_is_named_whatever_stands_in_its_other_spellings(more: dict[str, Any]) -> None:
    """MLflow keeps what protobuf had read before a field that it can't."""
    assert RUN in told("POST", DELETE_RUN, {"run_id": RUN, **more})["run_id"]


def test_what_is_deleted_is_named_whatever_else_the_body_names() -> None:
    found = told("DELETE", DELETE_SECRET, {**dict.fromkeys(_TOLD, "x"), "secret_id": "s-4711"})
    assert found["secret_id"] == "s-4711"
    assert found.keys() == set(_TOLD.values())


def test_what_is_tried_with_a_stolen_token_is_not_lost_in_a_flood_of_strangers() -> None:
    repeats = Repeats()
    for number in range(KINDS + 1):
        stranger = exchange(status=401, identity=None, client=f"2001:db8::{number:x}")
        why = {"reason": "unauthenticated"}
        line = repeats.first(entry("refused", at=0.0, exchange=stranger, details=why), 0.0)
        assert line is not None
    thief = Identity("vera", Role.VIEWER, "token", "", "vera", Credential("0123abcd", "nightly"))
    tried = exchange(status=403, identity=thief)
    line = repeats.first(entry("refused", at=0.0, exchange=tried, details={"reason": "forbidden"}), 0.0)
    assert line is not None
    assert (line["user"], line["credential"], line["credential_name"]) == ("vera", "0123abcd", "nightly")
    other = exchange("POST", "/api/2.0/mlflow/experiments/delete", 403, thief, client="2001:db8::ffff")
    again = entry("refused", at=0.0, exchange=other, details={"reason": "forbidden"})
    assert repeats.first(again, 1.0) is None  # however many: one line a minute
    assert repeats.due(61.0)[-1]["user"] == "vera"
