"""The whole table: every role against every access; and the documentation of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.access import allowed
from proxy.identity import Identity, Role
from proxy.operations import OPERATIONS, OWN, UNKNOWN, UNPARSED, Access, Operation, operation_of

ROLES = (Role.NONE, Role.VIEWER, Role.EDITOR, Role.ADMIN)
LOWEST = {
    Access.OPEN: Role.NONE,
    Access.READ: Role.VIEWER,
    Access.WRITE: Role.EDITOR,
    Access.DELETE: Role.EDITOR,
    Access.DESTROY: Role.ADMIN,
    Access.ADMIN: Role.ADMIN,
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "operations-and-roles.md"


def who(role: Role, method: str = "basic") -> Identity:
    return Identity("alice", role, method)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_has_the_lowest_role_that_may(operation: Operation) -> None:
    for delete_role in (Role.ADMIN, Role.EDITOR):
        for direct in (False, True):
            access = operation.access
            if access is Access.CLOSED:
                assert operation.once_open in (Access.READ, Access.WRITE)
                access = operation.once_open if direct else None
            if access is None:
                lowest = None
            elif access is Access.DESTROY:
                lowest = delete_role
            else:
                lowest = LOWEST[access]
            for role in ROLES:
                may = lowest is not None and role >= lowest
                said = allowed(who(role), operation, delete_role, direct)
                assert (said is None) == may, (operation, role, delete_role, direct, said)


def test_no_access_is_left_out() -> None:
    assert set(LOWEST) | {Access.CLOSED} == set(Access)
    assert {operation.access for operation in OPERATIONS} == set(Access)


@pytest.mark.parametrize(
    ("method", "path", "viewer", "editor"),
    [
        ("POST", "/api/2.0/mlflow/runs/search", True, True),
        ("GET", "/", True, True),
        ("POST", "/api/2.0/mlflow/runs/log-batch", False, True),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a", False, True),
        ("POST", "/v1/traces", False, True),
        ("POST", "/gateway/mlflow/v1/chat/completions", False, True),
        ("POST", "/api/2.0/mlflow/experiments/delete", False, False),
        ("POST", "/api/2.0/mlflow/webhooks", False, False),
        ("GET", "/no/such/route", False, False),
        ("OPTIONS", "/api/2.0/mlflow/runs/search", False, False),
    ],
)
def test_a_viewer_reads_and_an_editor_logs(method: str, path: str, viewer: bool, editor: bool) -> None:
    operation = operation_of(method, path)
    for role, may in ((Role.VIEWER, viewer), (Role.EDITOR, editor), (Role.ADMIN, True)):
        assert (allowed(who(role), operation, Role.ADMIN, False) is None) == may, role


def test_the_refusal_says_what_is_needed_and_whom_to_ask() -> None:
    log_batch = operation_of("POST", "/api/2.0/mlflow/runs/log-batch")
    assert allowed(who(Role.VIEWER), log_batch, Role.ADMIN, False) == (
        "alice is a viewer; log-batch needs the role editor. Ask an administrator of this server."
    )
    delete = operation_of("POST", "/api/2.0/mlflow/experiments/delete")
    assert allowed(who(Role.EDITOR), delete, Role.ADMIN, False) == (
        "alice is an editor; delete-experiment needs the role admin. Ask an administrator of this server."
    )
    assert "that this server does not know" in (allowed(who(Role.EDITOR), UNKNOWN, Role.ADMIN, False) or "")
    assert "has no role" in (allowed(who(Role.NONE), log_batch, Role.ADMIN, False) or "")
    closed = operation_of("GET", "/api/2.0/mlflow-artifacts/presigned/1/a")
    assert "PROXY_DIRECT_ARTIFACTS" in (allowed(who(Role.ADMIN), closed, Role.ADMIN, False) or "")


def test_the_metrics_token_opens_metrics_and_nothing_else() -> None:
    for role in ROLES:
        scraper = Identity("metrics", role, "metrics")
        for operation in OPERATIONS:
            may = operation.access is Access.OPEN or operation == OWN["metrics"]
            assert (allowed(scraper, operation, Role.ADMIN, True) is None) == may, operation


def test_metrics_need_an_admin_otherwise() -> None:
    assert allowed(who(Role.EDITOR), OWN["metrics"], Role.EDITOR, False) is not None
    assert allowed(who(Role.ADMIN), OWN["metrics"], Role.ADMIN, False) is None


def test_an_odd_delete_role_means_admin() -> None:
    delete = operation_of("POST", "/api/2.0/mlflow/experiments/delete")
    for odd in (Role.NONE, Role.VIEWER, 2, None, "editor"):
        assert allowed(who(Role.EDITOR), delete, odd, False) is not None  # type: ignore[arg-type]
        assert allowed(who(Role.VIEWER), delete, odd, False) is not None  # type: ignore[arg-type]


def test_an_odd_role_or_access_is_refused() -> None:
    read = operation_of("GET", "/")
    for odd in (3, "admin", None, True):
        assert allowed(Identity("x", odd, "basic"), read, Role.ADMIN, False) is not None  # type: ignore[arg-type]
    unheard_of = Operation("x", "new")  # type: ignore[arg-type]
    assert allowed(who(Role.EDITOR), unheard_of, Role.EDITOR, True) is not None
    closed_for_good = Operation("x", Access.CLOSED)
    assert allowed(who(Role.EDITOR), closed_for_good, Role.EDITOR, True) is not None


def test_mlflows_own_jobs_may_log_and_not_administer() -> None:
    job = Identity("mlflow-jobs", Role.EDITOR, "job")
    assert allowed(job, operation_of("POST", "/api/2.0/mlflow/runs/log-batch"), Role.ADMIN, False) is None
    assert allowed(job, operation_of("GET", "/api/3.0/mlflow/gateway/secrets/list"), Role.ADMIN, False)


def test_the_document_names_every_operation_under_its_access() -> None:
    said: dict[str, set[str]] = {}
    for title, text in re.findall(
        r"^### (\w+)\b.*?$(.*?)(?=^##|\Z)", DOCUMENT.read_text("utf-8"), re.M | re.S
    ):
        said[title.lower()] = set(re.findall(r"^- `([a-z0-9-]+)`", text, re.M))
    meant: dict[str, set[str]] = {access.value: set() for access in Access}
    for operation in OPERATIONS:
        if operation not in (*OWN.values(), UNKNOWN, UNPARSED):
            meant[operation.access.value].add(operation.name)
    assert said == meant
