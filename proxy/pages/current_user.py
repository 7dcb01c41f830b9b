"""Who is signed in, as MLflow's own UI asks it of a server with users."""

from __future__ import annotations

import zlib

import orjson

from proxy.identity import Role, identity_of
from proxy.pages.answers import JSON, Receive, Scope, Send, answer


async def current_user(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``GET /ajax-api/2.0/mlflow/users/current`` in the shape of MLflow's basic-auth application.

    The UI shows the name in its sidebar. ``is_basic_auth`` is false: its own way of signing out and its
    administration of users would go to routes that are not there (mlflow/server/auth/__init__.py).
    """
    identity = identity_of(scope)
    assert identity is not None
    body = orjson.dumps(
        {
            "user": {
                # MLflow numbers its users; the UI only wants the number to stay the same.
                "id": zlib.crc32(identity.user.encode()),
                "username": identity.user,
                "is_admin": identity.role >= Role.ADMIN,
            },
            "is_basic_auth": False,
        }
    )
    await answer(scope, send, 200, body, JSON)
