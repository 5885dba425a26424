"""The history of a test, to which operations and marks are appended and in which none changes.

It has the operations of clients, strikes, heals, probes and phases in order, and the last exchanges of the service's client.

The history that a test records is current in the test's context and in that of the tasks that it starts, so that free
functions such as `eventually` can show the strikes of their own test. Threads begin without a context. They and event loops
that are older than the test write to the history that was begun last.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO

from .clock import SYSTEM, Clock
from .errors import PromiseBroken
from .operation import FaultMark, Mark, Operation, Outcome, Phase, PhaseMark, ProbeMark, Record, SkipMark, Verdict
from .redaction import scrubbed

MAX_EXCHANGES = 5  # that a history keeps, and a message shows

Checker = Callable[["History"], Verdict]


class FaultPeriod(NamedTuple):
    """The time from a strike to its heal in seconds of its history, with `healed_at` None while the fault lasts."""

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


class Invocation:
    """An operation that has begun and not ended. Exactly one of `ok`, `fail` and `info` ends it."""

    __slots__ = ("_begun", "_client", "_episode", "_expected", "_f", "_index", "_key", "_phase", "_process", "_value")

    def __init__(self, client: Client, f: str, key: str | None, value: Any, expected: int | None) -> None:
        history = client.history
        self._client = client
        self._f = f
        self._key = key
        self._value = value
        self._expected = expected
        self._process = client.process
        self._episode = history.episode
        self._phase = history.phase
        self._index = history.next_index()
        self._begun = history.now()

    def ok(self, **seen: Any) -> Operation:
        """Record that the operation has happened.

        Args:
            seen: what the answer has shown: key, value, version, source, state, node.
        """
        return self._end("ok", seen)

    def fail(self, error: object) -> Operation:
        """Record that the operation has not happened.

        Args:
            error: a status or an exception.
        """
        return self._end("fail", {"error": describe_error(error)})

    def info(self, error: object) -> Operation:
        """Record that the operation may have happened, or may happen later. The client goes on as a new process.

        Args:
            error: a status or an exception.
        """
        self._client.renew()
        return self._end("info", {"error": describe_error(error)})

    def _end(self, outcome: Outcome, seen: dict[str, Any]) -> Operation:
        history = self._client.history
        operation = Operation(
            self._index,
            self._process,
            self._f,
            seen.get("key", self._key),
            seen.get("value", self._value),
            outcome,
            self._begun,
            history.now(),
            seen.get("version"),
            self._expected,
            seen.get("source"),
            seen.get("state"),
            seen.get("node"),
            seen.get("error"),
            self._episode,
            self._phase,
            self._client.number,
        )
        history.append(operation)
        return operation


class Client:
    """One client of a history, which performs one operation at a time.

    Attributes:
        history: the history.
        number: the number of the client.
        process: the number of its process, which changes after an operation with an unknown outcome.
    """

    def __init__(self, history: History, number: int) -> None:
        self.history = history
        self.number = number
        self.process = history.next_process()

    def invoke(self, f: str, *, key: str | None = None, value: Any = None, expected: int | None = None) -> Invocation:
        """Begin an operation. Its arguments are those of `Operation`."""
        return Invocation(self, f, key, value, expected)

    def renew(self) -> None:
        """Go on under a new process number."""
        self.process = self.history.next_process()


class History:
    """The operations of clients, and the strikes, heals, probes and phases around them, in order.

    Args:
        start: the moment of `clock` from which all times of the history count.
        clock: the clock of operations.
        file: a text file to which each record is written as a line of JSON; None for none.
    """

    def __init__(self, *, start: float = 0.0, clock: Clock = SYSTEM, file: TextIO | None = None) -> None:
        self.start = start
        self.episode = 1
        self.phase: Phase = "run"
        self._clock = clock
        self._file = file
        self._writing = threading.Lock()
        self._records: list[Record] = []
        self._strikes = itertools.count()
        self._processes = itertools.count()
        self._indexes = itertools.count()
        self._clients = itertools.count()
        self._exchanges: deque[tuple[Exchange, int]] = deque(maxlen=MAX_EXCHANGES)

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        """Return a history of these records, in their order."""
        history = cls()
        history._records = list(records)
        return history

    def now(self) -> float:
        """Return the seconds since the start of the history."""
        return self._clock.now() - self.start

    def seconds_at(self, moment: float) -> float:
        """Return the seconds from the start of the history to a moment of the clock."""
        return moment - self.start

    @property
    def records(self) -> tuple[Record, ...]:
        """All operations and marks so far, in the order in which they ended."""
        return tuple(self._records)

    @property
    def operations(self) -> list[Operation]:
        """All operations that have ended, in the order in which they began."""
        return sorted((each for each in self._records if isinstance(each, Operation)), key=lambda each: each.index)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks so far."""
        return tuple(each for each in self._records if not isinstance(each, Operation))

    def append(self, record: Record) -> None:
        """Append a record, and write it to the file."""
        self._records.append(record)
        if self._file is not None:
            line = f"{json.dumps(record.to_json(), separators=(',', ':'), default=str)}\n"
            with self._writing:
                self._file.write(line)

    def client(self) -> Client:
        """Return a new client, whose operations the history records."""
        return Client(self, next(self._clients))

    def next_process(self) -> int:
        """Return an unused process number."""
        return next(self._processes)

    def next_index(self) -> int:
        """Return the index of the operation that begins now."""
        return next(self._indexes)

    def begin_phase(self, phase: Phase, episode: int) -> None:
        """Mark the beginning of a phase, to which the operations that begin from now on belong."""
        self.phase, self.episode = phase, episode
        self.append(PhaseMark(phase, self.now(), episode))

    def add_probe(self, name: str, answer: Any) -> None:
        """Append the answer of a probe."""
        self.append(ProbeMark(name, answer, self.now(), self.episode))

    def add_skip(self, action: Any, label: str, reason: str) -> None:
        """Append a strike or heal that was not possible at its moment."""
        self.append(SkipMark(action, label, scrubbed(reason), self.now(), self.episode))

    def add_strike(self, label: str, time: float) -> FaultMark:
        """Append a strike and return it, for `add_heal`.

        Args:
            label: target and fault.
            time: the moment of the clock.
        """
        strike = FaultMark("strike", label, self.seconds_at(time), next(self._strikes), episode=self.episode)
        self.append(strike)
        return strike

    def add_heal(self, strike: FaultMark, time: float, *, touched: int | None = None, unit: str = "") -> None:
        """Append the heal of a strike."""
        self.append(
            FaultMark("heal", strike.label, self.seconds_at(time), strike.strike, touched, unit, strike.episode)
        )

    @property
    def faults(self) -> list[FaultPeriod]:
        """The periods of all faults, in the order of their strikes."""
        marks = [mark for mark in self.marks if isinstance(mark, FaultMark)]
        healed = {mark.strike: mark.time for mark in marks if mark.mark == "heal"}
        strikes = [mark for mark in marks if mark.mark == "strike"]
        return [FaultPeriod(mark.label, mark.time, healed.get(mark.strike)) for mark in strikes]

    def during(self, start: float, end: float) -> list[FaultPeriod]:
        """Return the faults that lasted at any time between `start` and `end`, in seconds of the history."""
        return [
            fault
            for fault in self.faults
            if fault.struck_at <= end and (end if fault.healed_at is None else fault.healed_at) >= start
        ]

    def verdicts(self, *checkers: Checker) -> list[Verdict]:
        """Return the verdict of each checker."""
        return [checker(self) for checker in checkers]

    def check(self, *checkers: Checker) -> None:
        """Assert that no checker finds a broken promise. An unknown verdict is no failure.

        Raises:
            PromiseBroken: one or more checkers found a violation; the error has their verdicts.
        """
        __tracebackhide__ = True
        violated = [verdict for verdict in self.verdicts(*checkers) if verdict.kind == "violated"]
        if violated:
            raise PromiseBroken(violated, self)

    def add_exchange(self, exchange: Exchange) -> None:
        """Append an exchange. Equal ones in a row, as a probe makes them, become one entry with a number."""
        last, times = self._exchanges[-1] if self._exchanges else (exchange, 0)
        if times and last.is_like(exchange):
            self._exchanges[-1] = exchange, times + 1
        else:
            self._exchanges.append((exchange, 1))

    def exchanges(self, since: float) -> list[tuple[Exchange, int]]:
        """Return the last exchanges that ended after a moment of the clock, each with how often it came in a row."""
        return [(exchange, times) for exchange, times in list(self._exchanges) if exchange.ended >= since]


def describe_error(error: object) -> str:
    """Return an error as a history has it: a status, or the class and the first line of an exception, without secrets."""
    if not isinstance(error, BaseException):
        return scrubbed(str(error))
    first = str(error).partition("\n")[0]
    return scrubbed(f"{type(error).__name__}: {first}" if first else type(error).__name__)


_recording: list[History] = [History()]  # the session's, and those of the blocks that have begun
_own: ContextVar[History | None] = ContextVar("pytest_resilience_history", default=None)


def current() -> History:
    """Return the history that records strikes now. Outside of tests, that is the session's."""
    own = _own.get()
    return own if own is not None and any(own is each for each in _recording) else _recording[-1]


def struck(start: float, end: float) -> str:
    """Return the labels of the faults that lasted between two moments of the clock, in this test and session, or "nothing"."""
    histories = (_recording[0], current())
    faults = [fault for each in histories for fault in each.during(each.seconds_at(start), each.seconds_at(end))]
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
