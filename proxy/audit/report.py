"""What a verification of the audit log has found, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from proxy.audit.chain import Head

Kind = Literal[
    "changed",  # its HMAC is not that of its bytes
    "missing",  # numbers are left out
    "cut",  # the database knows of later lines
    "reordered",  # it stands behind a later one
    "repeated",  # its number was there before
    "foreign",  # it is none of an audit log, or of another chain
    "replaced",  # it does not follow the line before, or is not the one that the database knows of
    "told",  # the service itself found the chain broken then
]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, where it is."""

    kind: Kind
    file: str
    line: int
    """The line's number in its file, from 1; 0 where it means the file."""
    text: str

    def __str__(self) -> str:
        where = f"{self.file} line {self.line}" if self.line else self.file
        return f"{where}: {self.kind}: {self.text}"


@dataclass(slots=True)
class Report:
    """What became of a verification."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth knowing, and not wrong."""
    unsure: list[str] = field(default_factory=list)
    """What could not be looked at."""
    lines: int = 0
    chains: dict[str, Head] = field(default_factory=dict)
    """The newest line of each chain that was found."""

    @property
    def exit_code(self) -> int:
        """0: all is as it was written. 3: it is not. 4: nothing is wrong, but not all could be looked at."""
        return 3 if self.findings else 4 if self.unsure else 0
