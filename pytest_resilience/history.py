"""What struck, and when: the part of a run's history that probes and reports show.

One history is current at a time (the test's, between its set-up and its tear-down), so that a free function such as
`eventually` can say what struck while it waited. Times are seconds of the machine's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class FaultEvent:  # no dataclass: those take half a millisecond each to make, and every run of pytest imports this file
    """One strike: its label, when it struck and when it was healed (None while it lasts)."""

    def __init__(self, label: str, struck_at: float, healed_at: float | None = None) -> None:
        self.label = label
        self.struck_at = struck_at
        self.healed_at = healed_at


class History:
    """The strikes of one test or session, in order of time."""

    def __init__(self, faults: Iterable[FaultEvent] = ()) -> None:
        self.faults = list(faults)

    def during(self, start: float, end: float) -> list[FaultEvent]:
        """The strikes that lasted at some moment between `start` and `end`."""
        return [event for event in self.faults if event.struck_at <= end and (event.healed_at or end) >= start]


_current: list[History] = [History()]


def current() -> History:
    """The history that strikes are written to now; outside of tests the session's."""
    return _current[-1]


@contextmanager
def recording(history: History) -> Iterator[History]:
    """Make `history` the current one for the duration of the block."""
    _current.append(history)
    try:
        yield history
    finally:
        _current.remove(history)
