"""The progress of a generated test on a terminal, in one line that is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..wording import counted


class Searching(Protocol):
    """The part of a search that its progress shows."""

    @property
    def examples(self) -> int:
        """The number of different arguments that were played."""

    @property
    def stage(self) -> str:
        """The present stage, such as "searching"."""

    @property
    def seconds_left(self) -> float:
        """The seconds left of its budget."""


class Progress:
    """The line of one test.

    Args:
        write: overwrites the line.
        hits: returns the number of strikes so far that affected something.
    """

    def __init__(self, write: Callable[[str], None], hits: Callable[[], int]) -> None:
        self._write = write
        self._hits = hits

    def played(self, search: Searching) -> None:
        """Show the progress after a play."""
        schedules = counted(search.examples, "schedules")
        hits = counted(self._hits(), "strikes")
        self._write(f"{search.stage}: {schedules} played, {hits} hit, {search.seconds_left:.0f} s left")

    def end(self) -> None:
        """Remove the line."""
        self._write("")
