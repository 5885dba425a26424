"""The file to which the history of a test is written while the test runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from .history_lines import line_of
from .operation import Operation, Record


class HistoryFile:
    """The file of the history of one test. It is made at the first operation, so a test without operations leaves none.

    Marks before the first operation are written with it. Each mark is flushed, with the operations before it. After an error of
    the file system, nothing more is written: the records stay in memory, and the test goes on.

    Args:
        path: the file. Its directory is made with it. A file of an earlier run is removed at once.
        prepare: called before the file is made; None for nothing to do.
        name: the path in messages; None for the whole one.

    Attributes:
        path: the file.
        name: its path in messages.
        problem: the error that ended the writing, or None.
    """

    def __init__(self, path: Path, *, prepare: Callable[[], object] | None = None, name: str | None = None) -> None:
        self.path = path
        self.name = name or str(path)
        self._prepare = prepare
        self.problem: OSError | None = None
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        self._waiting: list[Record] = []  # marks before the first operation
        self._closed = False
        self._remove()

    @property
    def written(self) -> bool:
        """True if the file is there and has all records so far."""
        return self._file is not None and self.problem is None

    def write(self, record: Record) -> None:
        """Write a record. After `close` or a problem, this does nothing."""
        with self._lock:
            if self._closed or self.problem is not None:
                return
            if self._file is None and not isinstance(record, Operation):
                self._waiting.append(record)
                return
            try:
                self._write(record)
            except OSError as error:
                self._give_up(error)

    def _write(self, record: Record) -> None:
        if self._file is None:
            if self._prepare is not None:
                self._prepare()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="ascii")
            self._file.writelines(map(line_of, self._waiting))
            self._waiting.clear()
        self._file.write(line_of(record))
        if not isinstance(record, Operation):
            self._file.flush()

    def begin(self, records: Iterable[Record] = ()) -> None:
        """Begin the file again for the history of the next example, so that it holds the last one only.

        Args:
            records: the records of a history that has ended, such as that of the example that a report shows.
        """
        with self._lock:
            self._end()
            self._file, self._closed = None, False
            self._waiting.clear()
            self._remove()
        for record in records:
            self.write(record)

    def close(self) -> None:
        """Close the file. It stays as it is."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.problem = error
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            if not isinstance(error, NotADirectoryError):
                self._give_up(error)
