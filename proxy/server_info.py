"""What MLflow tells its clients of itself, without the ways to the artifact store that go round us."""

from __future__ import annotations

import orjson


def without_direct_artifacts(body: bytes) -> bytes:
    """The answer of ``/api/3.0/mlflow/server-info`` with no way to the artifact store but us.

    MLflow says true wherever the artifact store's class can presign (mlflow/server/handlers.py,
    _get_server_info); its client then fetches each artifact from the store directly, past authentication
    and log, and does not fall back where the store is out of reach. An answer that is no JSON object is
    returned as it is: it announces nothing.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(answer, dict):
        return body
    return orjson.dumps(
        {
            name: False if name.startswith(("multipart_", "presigned_")) else value
            for name, value in answer.items()
        }
    )
