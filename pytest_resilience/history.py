"""The history of a test, to which marks are appended and in which none changes.

It has strikes and heals in order, and the last exchanges of the service's client.

The history that a test records is current in the test's context and in that of the tasks that it starts, so that free
functions such as `eventually` can show the strikes of their own test. Threads begin without a context. They and event loops
that are older than the test write to the history that was begun last. Times are seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

MAX_EXCHANGES = 5  # that a history keeps, and a message shows


class FaultMark(NamedTuple):
    """One strike or heal.

    Args:
        mark: "strike" or "heal".
        label: target and fault, such as "redis.refuse".
        time: when it happened.
        strike: the number of the strike in its history, from 0 on; a heal has that of its strike.
        touched: what the fault had affected when it was healed; None for a strike, and where the backend does not count.
        unit: what `touched` counts; "" for a strike.
    """

    mark: Literal["strike", "heal"]
    label: str
    time: float
    strike: int
    touched: int | None = None
    unit: str = ""

    def to_json(self, start: float) -> dict[str, Any]:
        """Return the mark as a line of a history file has it, with its time in seconds since `start`."""
        time = round(self.time - start, 6)
        line: dict[str, Any] = {"mark": self.mark, "label": self.label, "time": time, "strike": self.strike}
        return line if self.mark == "strike" else line | {"touched": self.touched, "unit": self.unit}


class FaultPeriod(NamedTuple):
    """The time from a strike to its heal, with `healed_at` None while the fault lasts."""

    label: str
    struck_at: float
    healed_at: float | None = None


class Exchange:
    """One request of the service's client and its outcome.

    Args:
        method, path: those of the request; the path without secrets.
        outcome: a status such as "200", or the name of an error such as "ReadTimeout".
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
        """True if both have one method, one path and one outcome."""
        return (self.method, self.path, self.outcome) == (other.method, other.path, other.outcome)


class History:
    """The strikes and heals of one test or session in order, and the last exchanges of the service's client."""

    def __init__(self) -> None:
        self._marks: list[FaultMark] = []
        self._numbers = itertools.count()
        self._exchanges: deque[tuple[Exchange, int]] = deque(maxlen=MAX_EXCHANGES)

    @property
    def marks(self) -> tuple[FaultMark, ...]:
        """All strikes and heals so far."""
        return tuple(self._marks)

    def add_strike(self, label: str, time: float) -> FaultMark:
        """Append a strike and return it, for `add_heal`."""
        strike = FaultMark("strike", label, time, next(self._numbers))
        self._marks.append(strike)
        return strike

    def add_heal(self, strike: FaultMark, time: float, *, touched: int | None = None, unit: str = "") -> None:
        """Append the heal of a strike."""
        self._marks.append(FaultMark("heal", strike.label, time, strike.strike, touched, unit))

    @property
    def faults(self) -> list[FaultPeriod]:
        """The periods of all faults, in the order of their strikes."""
        marks = self.marks
        healed = {mark.strike: mark.time for mark in marks if mark.mark == "heal"}
        strikes = [mark for mark in marks if mark.mark == "strike"]
        return [FaultPeriod(mark.label, mark.time, healed.get(mark.strike)) for mark in strikes]

    def during(self, start: float, end: float) -> list[FaultPeriod]:
        """Return the faults that lasted at any time between `start` and `end`."""
        return [fault for fault in self.faults if fault.struck_at <= end and (fault.healed_at or end) >= start]

    def add_exchange(self, exchange: Exchange) -> None:
        """Append an exchange. Equal ones in a row, as a probe makes them, become one entry with a number."""
        last, times = self._exchanges[-1] if self._exchanges else (exchange, 0)
        if times and last.is_like(exchange):
            self._exchanges[-1] = exchange, times + 1
        else:
            self._exchanges.append((exchange, 1))

    def exchanges(self, since: float) -> list[tuple[Exchange, int]]:
        """Return the last exchanges that ended after `since`, each with how often it came in a row."""
        return [(exchange, times) for exchange, times in list(self._exchanges) if exchange.ended >= since]


_recording: list[History] = [History()]  # the session's, and those of the blocks that have begun
_own: ContextVar[History | None] = ContextVar("pytest_resilience_history", default=None)


def current() -> History:
    """Return the history that records strikes now. Outside of tests, that is the session's."""
    own = _own.get()
    return own if own is not None and any(own is each for each in _recording) else _recording[-1]


def struck(start: float, end: float) -> str:
    """Return the labels of the faults that lasted between two moments, in this test and session, or "nothing"."""
    faults = [fault for history in (_recording[0], current()) for fault in history.during(start, end)]
    return ", ".join(dict.fromkeys(fault.label for fault in faults)) or "nothing"


@contextmanager
def recording(history: History) -> Iterator[History]:
    """Make `history` the current one within the block, for this context and the tasks that begin in it."""
    outer = _own.get()
    _recording.append(history)
    _own.set(history)
    try:
        yield history
    finally:
        _recording.remove(history)
        _own.set(outer)  # no reset: a generator fixture may end in another context
