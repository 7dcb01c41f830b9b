"""Pages of a list as GitHub's API has them: ``per_page`` and ``page`` in the query, a Link header."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from proxy.exchange import Refused

USUAL = 30
MOST = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """One page of a list."""

    number: int
    """From 1 on."""
    size: int

    @property
    def start(self) -> int:
        """The place of its first item in the list, from 0 on."""
        return (self.number - 1) * self.size

    def links(self, count: int) -> tuple[tuple[bytes, bytes], ...]:
        """The header (RFC 8288) that leads to the other pages of a list of so many, where there are others.

        Its targets are relative to the request's address: what stands before us may give it another name.
        """
        last = max(1, -(-count // self.size))
        others = {}
        if self.number > 1:
            others = {"prev": min(self.number - 1, last), "first": 1}
        if self.number < last:
            others |= {"next": self.number + 1, "last": last}
        links = [f'<?per_page={self.size}&page={page}>; rel="{rel}"' for rel, page in others.items()]
        return ((b"link", ", ".join(links).encode("ascii")),) if links else ()


def asked_page(query: bytes) -> Asked:
    """What page is asked for; more than MOST is MOST. Raises Refused (400) for what is no number."""
    try:
        fields = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise Refused(400, "The query can't be read.", reason="bad_request") from None
    return Asked(_number(fields, "page", 1), min(MOST, _number(fields, "per_page", USUAL)))


def _number(fields: dict[str, str], name: str, usual: int) -> int:
    text = fields.get(name, str(usual))
    # isdecimal alone would let other scripts' digits in, and int() a number that takes seconds to read.
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise Refused(400, f"{name} is a number from 1 on.", reason="bad_request")
    return int(text)
