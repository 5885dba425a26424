"""What struck, and when: the part of a run's history that probes and reports show.

One history is current at a time (the test's, between its set-up and its tear-down), so that a free function such as
`eventually` can say what struck while it waited. Times are seconds of the machine's monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

KEPT = 5  # exchanges that a history keeps, and a message shows


class FaultEvent:  # no dataclass: those take half a millisecond each to make, and every run of pytest imports this file
    """One strike: its label, when it struck and when it was healed (None while it lasts)."""

    def __init__(self, label: str, struck_at: float, healed_at: float | None = None) -> None:
        self.label = label
        self.struck_at = struck_at
        self.healed_at = healed_at


class Exchange:
    """One request of the service's client and what came of it: a status, or the name of an error.

    Args:
        method, path: the request's; the path without secrets.
        outcome: such as "200" or "ReadTimeout".
        begun, ended: seconds of the machine's monotonic clock.
    """

    def __init__(self, method: str, path: str, outcome: str, begun: float, ended: float) -> None:
        self.method = method
        self.path = path
        self.outcome = outcome
        self.begun = begun
        self.ended = ended

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.outcome} in {self.ended - self.begun:.3f} s"

    def is_like(self, other: Exchange) -> bool:
        """True if the other one asked for the same and got the same."""
        return (self.method, self.path, self.outcome) == (other.method, other.path, other.outcome)


class History:
    """The strikes of one test or session, in order of time, and the last exchanges of the service's client."""

    def __init__(self, faults: Iterable[FaultEvent] = ()) -> None:
        self.faults = list(faults)
        self._exchanges: deque[tuple[Exchange, int]] = deque(maxlen=KEPT)

    def exchanged(self, exchange: Exchange) -> None:
        """Take down an exchange; like ones in a row, as a probe makes them, become one entry with a number."""
        last, times = self._exchanges[-1] if self._exchanges else (exchange, 0)
        if times and last.is_like(exchange):
            self._exchanges[-1] = exchange, times + 1
        else:
            self._exchanges.append((exchange, 1))

    def exchanges(self, since: float) -> list[tuple[Exchange, int]]:
        """Return the last exchanges that ended after `since`, each with how often it came in a row."""
        return [(exchange, times) for exchange, times in list(self._exchanges) if exchange.ended >= since]

    def during(self, start: float, end: float) -> list[FaultEvent]:
        """The strikes that lasted at some moment between `start` and `end`."""
        return [event for event in self.faults if event.struck_at <= end and (event.healed_at or end) >= start]


def struck(start: float, end: float) -> str:
    """Return the labels of what struck in this test and session between two moments, in order, or "nothing"."""
    every = [event for history in _current for event in history.during(start, end)]
    return ", ".join(dict.fromkeys(event.label for event in every)) or "nothing"


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
