"""Run as a process of its own: prints, as JSON, the installed MLflow's routes and which serves each probe.

Reads ``[[method, path], …]`` from standard input. It asks Starlette's and Werkzeug's own matching, in the
order in which ``mlflow server`` does: FastAPI's routes first, the mounted Flask application after them.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

from fastapi.routing import iter_route_contexts
from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app as fastapi_app
from starlette.routing import compile_path
from werkzeug.exceptions import HTTPException

FLASK_PARAMETER = re.compile(r"<(?:(\w+):)?(\w+)>")


def _fastapi() -> list[tuple[re.Pattern[str], str, frozenset[str], str]]:
    found = []
    for route in iter_route_contexts(fastapi_app.routes):
        endpoint: Any = getattr(route, "endpoint", None)
        if endpoint is None:
            continue  # the mount of Flask, which comes last
        served = "native" if inspect.iscoroutinefunction(inspect.unwrap(endpoint)) else "thread"
        pattern = compile_path(route.path)[0]
        found.append((pattern, route.path, frozenset(route.methods), served))
    return found


def _template(rule: str) -> str:
    return FLASK_PARAMETER.sub(lambda m: "{" + m[2] + (":path" if m[1] == "path" else "") + "}", rule)


def main() -> None:
    fastapi = _fastapi()
    werkzeug = flask_app.url_map.bind("localhost")
    routes = {(method, path): served for _, path, methods, served in reversed(fastapi) for method in methods}
    for rule in flask_app.url_map.iter_rules():
        for method in rule.methods - {"OPTIONS"}:
            routes.setdefault((method, _template(rule.rule)), "flask")

    def serves(method: str, path: str) -> tuple[str, str] | None:
        for pattern, template, methods, served in fastapi:
            if method in methods and pattern.match(path):
                return served, template
        try:
            rule, _ = werkzeug.match(path, method, return_rule=True)
        except HTTPException:
            return None
        return None if method == "OPTIONS" else ("flask", _template(rule.rule))

    probes = json.load(sys.stdin)
    answer = {
        "routes": [[method, path, served] for (method, path), served in routes.items()],
        "probes": [serves(method, path) for method, path in probes],
    }
    json.dump(answer, sys.stdout)


main()
