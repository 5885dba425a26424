"""The records of a CSV file of contacts, which arrives in pieces. Memory is bounded however the file is formed.

Rules: RFC 4180 in UTF-8, with or without a byte order mark. Quoted fields may hold line breaks. Of a malformed record,
such as one whose quote is not closed within MAX_RECORD_BYTES, only the first line is rejected. The other lines are read
again, as records of their own.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_RECORD_BYTES = 4096  # more than a valid contact of four-byte characters can have
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the file.

    Args:
        line: number of its first line, from 1.
        fields: empty if the record is malformed.
        problem: the reason if it is malformed.
    """

    line: int
    fields: list[str]
    problem: str | None = None


class CsvRecords:
    """The records of one file. Empty lines are skipped."""

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a line
        self._skipping = False  # the present line was rejected, because it is too long
        self._line = 0
        self._open: list[bytes] = []  # lines of a record whose quote is not closed yet
        self._open_bytes = 0
        self._is_quoted = False

    def feed(self, piece: bytes) -> Iterator[Record]:
        """Yield the records that a piece of the file completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        yield from self._records(lines)
        if len(self._rest) > MAX_RECORD_BYTES or self._skipping:
            yield from self._records([] if self._skipping else [self._rest])
            self._rest, self._skipping = b"", True

    def close(self) -> Iterator[Record]:
        """Yield the remaining records at the end of the file."""
        yield from self._records([self._rest] if self._rest else [])
        while self._open:
            record, again = self._close_record()
            yield record
            yield from self._records(again)

    def _records(self, lines: Iterable[bytes]) -> Iterator[Record]:
        waiting = deque(lines)
        while waiting:
            line = waiting.popleft()
            if self._skipping:
                self._skipping = False
                continue
            self._line += 1
            if not (line.strip() or self._open):
                continue
            self._append(line.removeprefix(BYTE_ORDER_MARK) if self._line == 1 else line)
            if self._is_quoted and self._open_bytes <= MAX_RECORD_BYTES:
                continue
            record, again = self._close_record()
            yield record
            waiting.extendleft(reversed(again))

    def _append(self, line: bytes) -> None:
        """Append a line to the open record."""
        self._open.append(line)
        self._open_bytes += len(line) + 1
        self._is_quoted ^= line.count(b'"') % 2 == 1

    def _close_record(self) -> tuple[Record, list[bytes]]:
        """Return the open record, and lines that are to be read again, which are all but the first of a malformed record."""
        lines, is_quoted, size = self._open, self._is_quoted, self._open_bytes
        number = self._line - len(lines) + 1
        self._open, self._open_bytes, self._is_quoted = [], 0, False
        if len(lines[0]) > MAX_RECORD_BYTES:
            record = Record(number, [], "the line is too long")
        elif is_quoted or size > MAX_RECORD_BYTES:
            record = Record(number, [], "a quote is not closed")
        else:
            record = _parse(number, b"\n".join(lines))
        if record.problem is None:
            return record, []
        self._line = number
        return record, lines[1:]


def _parse(line: int, text: bytes) -> Record:
    try:
        decoded = text.decode().removesuffix("\r")
        return Record(line, next(csv.reader([decoded], strict=True)) if '"' in decoded else decoded.split(","))
    except UnicodeDecodeError:
        return Record(line, [], "the line is not in UTF-8")
    except csv.Error:
        return Record(line, [], "a quote or a line break stands in a wrong place")
