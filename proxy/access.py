"""Who may do what: a role against an operation's access, decided here alone; pure."""

from __future__ import annotations

from proxy.identity import Identity, Role
from proxy.operations import OWN, UNKNOWN, Access, Operation

_NEEDED = {
    Access.READ: Role.VIEWER,
    Access.WRITE: Role.EDITOR,
    Access.DELETE: Role.EDITOR,
    Access.ADMIN: Role.ADMIN,
}
_ASK = "Ask an administrator of this server."


def allowed(
    identity: Identity, operation: Operation, delete_role: Role, direct_artifacts: bool
) -> str | None:
    """None where `identity` may do `operation`; else, for the caller, what is needed and whom to ask.

    `delete_role` is PROXY_DELETE_ROLE, `direct_artifacts` PROXY_DIRECT_ARTIFACTS. Whatever is not plainly
    allowed is refused.
    """
    if operation.access is Access.OPEN:
        return None
    credential = identity.credential
    if credential is not None and credential.read_only and not _reads(operation):
        return (
            f"The token {credential.name!r} of {identity.user} is read-only, and {operation.name} is not "
            "reading. Use another token, or make one on the page /-/account."
        )
    if identity.method == "metrics":
        if operation == OWN["metrics"]:
            return None
        return f"The metrics token reads /metrics and nothing else; {operation.name} needs a user. {_ASK}"
    access: Access = operation.access
    if operation.access is Access.CLOSED:
        if not direct_artifacts:
            return (
                f"{operation.name} is closed: artifacts go through this server, not directly to the store. "
                "Its operator can open it with PROXY_DIRECT_ARTIFACTS."
            )
        access = operation.once_open or Access.ADMIN
    needed = _needed(access, delete_role)
    if isinstance(identity.role, Role) and identity.role >= needed:
        return None
    who, mend = f"{identity.user} {_described(identity.role)}", _ASK
    if credential is not None and identity.method == "token":
        who = f"The token {credential.name!r} of {identity.user} has the role {identity.role.name.lower()}"
        mend = "Make a token with that role on the page /-/account, if you have it, or ask an administrator."
    what = "a route of MLflow that this server does not know" if operation == UNKNOWN else operation.name
    return f"{who}; {what} needs the role {needed.name.lower()}. {mend}"


def _reads(operation: Operation) -> bool:
    return operation.access is Access.READ or operation == OWN["metrics"]


def _needed(access: Access, delete_role: Role) -> Role:
    if access is Access.DESTROY:
        return Role.EDITOR if delete_role is Role.EDITOR else Role.ADMIN
    return _NEEDED.get(access, Role.ADMIN)


def _described(role: Role) -> str:
    if not isinstance(role, Role) or role is Role.NONE:
        return "has no role here"
    name = role.name.lower()
    return f"is {'a' if name[0] not in 'aeiou' else 'an'} {name}"
