"""The small cookies of a sign-in under way, one for each, so that two tabs can sign in at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from proxy.auth.oidc import LIFE, Seal
from proxy.pages.answers import Scope

AT_ONCE = 4
"""Sign-ins that a browser may have under way; older ones give way, or its requests would grow too long."""
ROUNDS = 3
"""Sign-ins one right after the other that let nobody through, before it is called a loop."""
ROUND_SECONDS = 30
_LONGEST = 4096
# Characters of all of them: a server before us may take no more than 8 KiB of a header.
_TOGETHER = 6000

SetCookie = tuple[bytes, bytes]


class Cookies:
    """Names, reads and writes them. `name` is the session cookie's; its rules (``__Host-``) hold here."""

    def __init__(self, name: str, keys: Sequence[bytes]) -> None:
        self._name = name
        self._attributes = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if name.startswith("__") else "")
        self._rounds = Seal(keys, "rounds")

    def begun(self, scope: Scope, state: str, value: str) -> list[SetCookie]:
        """Keep `value` for the answer that will bear `state`."""
        prefix = f"{self._name}_s"
        old = {name: len(text) for name, text in sent(scope) if name.startswith(prefix)}
        gone = []
        # RFC 6265, 5.4: a browser sends the oldest first.
        for name in list(old):
            if len(old) < AT_ONCE and sum(old.values()) + len(value) <= _TOGETHER:
                break
            del old[name]
            gone.append(self._gone(name))
        return [*gone, self._set(self._of(state), value, LIFE)]

    def find(self, scope: Scope, state: str) -> str | None:
        """What was kept for that state; None where nothing was, or two values are sent."""
        values = {value for name, value in sent(scope) if name == self._of(state)}
        return values.pop() if len(values) == 1 else None

    def over(self, state: str) -> SetCookie:
        return self._gone(self._of(state))

    def round(self, scope: Scope) -> int:
        """How many sign-ins of this browser ended just now."""
        found = [
            value["n"]
            for name, text in sent(scope)
            if name == f"{self._name}_r" and (value := self._rounds.open(text, ROUND_SECONDS)) is not None
        ]
        return max(found, default=0)

    def count(self, number: int) -> SetCookie:
        """Remember for a little while that a sign-in has ended; 0 forgets."""
        name = f"{self._name}_r"
        return (
            self._set(name, self._rounds.seal({"n": number}), ROUND_SECONDS) if number else self._gone(name)
        )

    def _of(self, state: str) -> str:
        return f"{self._name}_s{hashlib.sha256(state.encode()).hexdigest()[:12]}"

    def _set(self, name: str, value: str, seconds: int) -> SetCookie:
        return (b"set-cookie", f"{name}={value}; Max-Age={seconds}{self._attributes}".encode("ascii"))

    def _gone(self, name: str) -> SetCookie:
        return self._set(name, "", 0)


def header(scope: Scope) -> bytes | None:
    """The Cookie header. HTTP/2 may split it (RFC 9113, 8.2.3)."""
    parts = [value for name, value in scope["headers"] if name == b"cookie"]
    return b"; ".join(parts) if parts else None


def sent(scope: Scope) -> list[tuple[str, str]]:
    """Names and values of the cookies that came with a request, in the order sent."""
    found = []
    for part in (header(scope) or b"").split(b";"):
        name, equals, value = part.strip().partition(b"=")
        if equals and len(value) <= _LONGEST and name.isascii() and value.isascii():
            found.append((name.decode(), value.decode()))
    return found
