"""Whether an audit log is as it was written: each line by its HMAC, the chain, the end by the database."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from proxy.audit.chain import BEGINNING, LONGEST, Head, Line, read
from proxy.audit.keys import Keys
from proxy.audit.report import Finding, Kind, Report
from proxy.errors import UserError
from proxy.store.audit import HeadRow

_OPENING = frozenset({"chain_started", "chain_broken", "file_started"})
"""The events that a file begins with."""
_SHOWN = 20  # of the same kind of finding in one file


@dataclass(slots=True)
class _Chain:
    """How far a chain was followed."""

    last: Head
    sure: bool
    """Whether the last line is as it was written."""
    gaps: list[tuple[int, int, str, int]] = field(default_factory=list)
    """Numbers left out, from and to, and the file and line after them."""


def verify(
    files: Sequence[Path],
    keys: Keys,
    heads: Sequence[HeadRow] | None,
    *,
    here: tuple[str, str] = ("", ""),
    everything: bool = False,
    only: bool = False,
) -> Report:
    """Look at these files.

    `heads` is what the database knew before they were read, None where it was not asked. The chains of `here`
    (host and directory) have to be among the files; with `everything`, all there are, from their first lines
    on. `only` says that a person named these files and knows of others. Raises UserError where one can't be
    read.
    """
    report = Report()
    chains: dict[str, _Chain] = {}
    known = {row.chain: row for row in heads or ()}
    check = _Check(report, keys, chains, known)
    for path in _in_order(files):
        check.file(path, everything)
    for name, chain in chains.items():
        report.chains[name] = chain.last
        for first, last, file, number in chain.gaps:
            report.findings.append(
                Finding("missing", file, number, f"{_lines(first, last)} of {name} missing before this one")
            )
    if heads is None:
        report.unsure.append("the database was not asked: lines that were cut off at the end don't show")
        return report
    names = {path.name for path in files}
    for row in heads:
        if row.chain not in chains:
            _absent(report, row, here=here, everything=everything, only=only)
        elif row.sequence > (last := chains[row.chain].last.sequence):
            text = f"{_lines(last + 1, row.sequence)} of {row.chain} missing at the end"
            if only and Path(row.file).name not in names:
                report.notes.append(f"{text}: name {row.file} too, where they should be")
            else:
                report.findings.append(Finding("cut", row.file, 0, text))
    for name in chains.keys() - known.keys():
        report.unsure.append(f"the database knows nothing of {name}: a cut end of it doesn't show")
    return report


def _absent(report: Report, row: HeadRow, *, here: tuple[str, str], everything: bool, only: bool) -> None:
    text = f"{row.chain} of {row.host} ({row.sequence} lines, {row.file}) is not among the files"
    if everything or ((row.host, str(Path(row.file).parent)) == here and not only):
        report.findings.append(Finding("missing", row.file, 0, text))
    else:
        report.notes.append(text)


class _Check:
    """Goes through the files, line by line."""

    def __init__(
        self, report: Report, keys: Keys, chains: dict[str, _Chain], known: dict[str, HeadRow]
    ) -> None:
        self._report = report
        self._keys = keys
        self._chains = chains
        self._known = known
        self._unknown_keys: set[str] = set()
        self._file = ""
        self._said: dict[str, int] = {}

    def file(self, path: Path, everything: bool) -> None:
        self._file, self._said = str(path), {}
        mine: str | None = None
        broken: list[tuple[int, int]] = []  # number and length of pieces that are no lines
        number = 0
        for number, piece, whole in _pieces(path):
            line = read(piece)
            if line is None:
                broken.append((number, len(piece)))
                if not whole:
                    broken.pop()
                    self._report.notes.append(
                        f"{path} line {number}: {len(piece)} bytes without an end: being written at this "
                        "moment, or broken off in a crash"
                    )
                continue
            self._report.lines += 1
            if broken:
                self._broken(broken, line)
                broken = []
            if mine is None:
                mine = line.head.chain
                self._opens(line, number, everything)
            if line.head.chain != mine:
                self._find("foreign", number, f"it belongs to {line.head.chain}, the others to {mine}")
                continue
            self._line(line, number)
        self._broken(broken, None)
        more = sum(count - _SHOWN for count in self._said.values() if count > _SHOWN)
        if more:
            self._report.notes.append(f"{path}: {more} more of the same")
        if number == 0:
            self._report.notes.append(f"{path} is empty")

    def _opens(self, line: Line, number: int, everything: bool) -> None:
        """The first line of a file that no other one comes before."""
        head = line.head
        if head.chain in self._chains:
            return
        if head.sequence > 1:
            text = f"{head.chain} begins at {head.sequence} here; {_lines(1, head.sequence - 1)} elsewhere"
            if everything or line.event not in _OPENING:
                # Every file begins with a line that says so: here lines were taken out, not whole files.
                self._find("missing", number, f"{_lines(1, head.sequence - 1)} of {head.chain} missing")
            else:
                self._report.notes.append(f"{self._file}: {text}")

    def _line(self, line: Line, number: int) -> None:
        head = line.head
        authentic = line.authentic(self._keys)
        if authentic is None and line.key not in self._unknown_keys:
            self._unknown_keys.add(line.key)
            self._report.unsure.append(
                f"{self._file} line {number}: the key {line.key!r} is not known, so its lines can't be "
                "verified (PROXY_AUDIT_KEY holds all keys, the newest first)"
            )
        if authentic is False:
            self._find("changed", number, f"line {head.sequence} of {head.chain} is not as it was written")
            self._follow(line, number, authentic)
            return
        row = self._known.get(head.chain)
        if row is not None and head.sequence == row.sequence and head.digest != row.digest:
            self._find("replaced", number, f"the database knows another line {head.sequence} of {head.chain}")
        if line.event == "chain_broken":
            what = line.details.get("what", "the chain was broken")
            self._find("told", number, f"the service found at {line.time}: {what}")
        self._follow(line, number, authentic)

    def _follow(self, line: Line, number: int, authentic: bool | None) -> None:
        head = line.head
        chain = self._chains.get(head.chain)
        if chain is None:
            if head.sequence == 1 and line.previous != BEGINNING and authentic is not False:
                self._find("replaced", number, "the first line follows another")
            self._chains[head.chain] = _Chain(head, authentic is not False)
            return
        expected = chain.last.sequence + 1
        if authentic is False and head.sequence != expected:
            return  # its number may be what was changed: what is missing shows at the next line
        if head.sequence < expected:
            self._behind(chain, line, number)
            return
        if head.sequence > expected:
            chain.gaps.append((expected, head.sequence - 1, self._file, number))
        elif line.previous != chain.last.digest and chain.sure and authentic is not False:
            self._find("replaced", number, f"line {head.sequence} does not follow the one before")
        chain.last, chain.sure = head, authentic is not False

    def _behind(self, chain: _Chain, line: Line, number: int) -> None:
        sequence = line.head.sequence
        for index, (first, last, file, at) in enumerate(chain.gaps):
            if first <= sequence <= last:
                rest = [(first, sequence - 1, file, at), (sequence + 1, last, file, at)]
                chain.gaps[index : index + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                self._find("reordered", number, f"line {sequence} stands behind line {chain.last.sequence}")
                return
        self._find("repeated", number, f"line {sequence} of {line.head.chain} was there before")

    def _broken(self, pieces: Sequence[tuple[int, int]], line: Line | None) -> None:
        """Pieces that are no lines: what a crash left, if the next line says so."""
        if not pieces:
            return
        if (
            line is not None
            and line.event == "line_torn"
            and line.details.get("bytes") == sum(length for _, length in pieces)
        ):
            self._report.notes.append(
                f"{self._file} line {pieces[0][0]}: broke off, and the next line says so"
            )
            return
        for number, length in pieces:
            self._find("foreign", number, f"{length} bytes that are no line of an audit log")

    def _find(self, kind: Kind, number: int, text: str) -> None:
        self._said[kind] = self._said.get(kind, 0) + 1
        if self._said[kind] <= _SHOWN:
            self._report.findings.append(Finding(kind, self._file, number, text))


def _in_order(files: Iterable[Path]) -> list[Path]:
    """By chain and number of their first lines; what has none comes last."""

    def key(path: Path) -> tuple[bool, str, int]:
        for _, piece, _ in _pieces(path):
            line = read(piece)
            if line is not None:
                return False, line.head.chain, line.head.sequence
        return True, str(path), 0

    return sorted(dict.fromkeys(files), key=key)


def _pieces(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """The file's lines without their newlines: number, bytes (of a long one the first), whether whole."""
    try:
        with path.open("rb") as plain, contextlib.ExitStack() as stack:
            file: BinaryIO = plain
            if path.suffix == ".gz":
                file = cast(BinaryIO, stack.enter_context(gzip.open(plain)))
            number, held = 0, b""
            for piece in iter(lambda: file.readline(LONGEST), b""):
                whole = piece.endswith(b"\n")
                held = (held + piece)[: LONGEST + 1] if held else piece
                if whole:
                    number += 1
                    yield number, held.removesuffix(b"\n"), True
                    held = b""
            if held:
                yield number + 1, held, False
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} can't be read: {reason}") from None


def _lines(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"
