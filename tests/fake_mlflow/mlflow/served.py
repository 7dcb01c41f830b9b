"""What uvicorn serves for the stand-in, by workers: notes each request, and blocks the event loop over it."""

import json
import os
import time
from pathlib import Path


async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    if "number" in scope["path"]:
        number = scope["path"].rpartition("/")[2]
        with Path(os.environ["FAKE_PLAN"]).with_name("served").open("a") as served:
            served.write(f"{number}\n")
        time.sleep(json.loads(Path(os.environ["FAKE_PLAN"]).read_text()).get("slow", 0))  # noqa: ASYNC251
    body = str(os.getpid()).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})
