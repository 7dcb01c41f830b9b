"""The service under attack, and who asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import wire
from service import Service
from tap import Tap

METRICS_TOKEN = "the-scraper-of-the-tests"
PASSWORDS = {
    "vera": "viewer-of-many-things",
    "edda": "editor-of-many-things",
    "ada": "admin-of-all-the-things",
}
ROLES = {"vera": "viewer", "edda": "editor", "ada": "admin"}


@dataclass
class Target:
    """The service, asked as one of its users, or as nobody (None)."""

    service: Service
    tap: Tap
    """What MLflow is sent."""
    experiment: str

    def ask(
        self, user: str | None, method: str, target: str, *headers: tuple[str, str], **more: Any
    ) -> wire.Answer:
        return wire.ask(self.service, method, target, *self._credential(user), *headers, **more)

    def post(
        self, user: str | None, target: str, what: Any, *headers: tuple[str, str], **more: Any
    ) -> wire.Answer:
        return wire.post(self.service, target, what, *self._credential(user), *headers, **more)

    def _credential(self, user: str | None) -> tuple[tuple[str, str], ...]:
        return () if user is None else (wire.basic(user, PASSWORDS[user]),)

    def forwarded(self, answer: wire.Answer) -> tuple[str, str, dict[str, str]] | None:
        """The request as MLflow got it (method, target, headers), or None where it never did."""
        return self.tap.forwarded(answer.request_id)

    def logged(self, answer: wire.Answer) -> dict[str, Any]:
        return self.service.logged(answer.request_id)
