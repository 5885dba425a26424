"""The history of a test, to which operations and marks are appended and in which none changes.

It has the operations of clients, strikes, heals, probes and phases in order, and the last exchanges of the service's client.

The history that a test records is current in the test's context and in that of the tasks that it starts, so that free
functions such as `eventually` can show the strikes of their own test. Threads begin without a context. They and event loops
that are older than the test write to the history that was begun last.
"""

from __future__ import annotations

import inspect
import itertools
import operator
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from .clock import SYSTEM, Clock
from .errors import PromiseBroken, SetupError
from .exports import exported
from .history_file import HistoryFile
from .history_lines import line_of, read_records
from .operation import FaultMark, Mark, Operation, Outcome, Phase, PhaseMark, ProbeMark, Record, SkipMark, Verdict
from .recorded import Arguments, Callers, Result, record_calls
from .redaction import scrubbed

DECIMALS = 6  # of seconds: the clock has no more to say, and files stay readable
MAX_EXCHANGES = 5  # that a history keeps, and a message shows

NOTHING = "nothing"  # in place of the labels of faults
IDENTITY = re.compile(r" at 0x[0-9a-fA-F]+>")  # in the text of an object that has no text of its own

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
    """An operation that has begun and not ended. Exactly one of `ok`, `fail` and `info` ends it.

    As a context manager, it ends with "info" if an exception leaves the block.
    """

    __slots__ = (
        "_begun",
        "_client",
        "_episode",
        "_expected",
        "_f",
        "_index",
        "_key",
        "_operation",
        "_phase",
        "_process",
        "_value",
    )

    def __init__(self, client: Client, f: str, key: str | None, value: Any, expected: int | None) -> None:
        __tracebackhide__ = True
        check_key(key, f"operation {f!r}")
        history = client.history
        self._client = client
        self._f = f
        self._key = key
        self._value = value
        self._expected = expected
        self._process = client.process
        self._operation: Operation | None = None
        self._episode = history.episode
        self._phase = history.phase
        self._index, self._begun = history.begin(self)

    def ok(self, **seen: Any) -> Operation:
        """Record that the operation has happened.

        Args:
            seen: what the answer has shown: key, value, version, source, state, node.

        Raises:
            SetupError: the operation has ended before, or the key names no object.
        """
        __tracebackhide__ = True
        return self._end("ok", seen)

    def fail(self, error: object) -> Operation:
        """Record that the operation has not happened.

        Args:
            error: a status or an exception.

        Raises:
            SetupError: the operation has ended before.
        """
        return self._end("fail", {"error": describe_error(error)})

    def info(self, error: object) -> Operation:
        """Record that the operation may have happened, or may happen later. The client goes on as a new process.

        Args:
            error: a status or an exception.

        Raises:
            SetupError: the operation has ended before.
        """
        return self._end("info", {"error": describe_error(error)})

    def __enter__(self) -> Invocation:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._operation is None and error is not None:
            self.info(error)
        elif self._operation is None:
            raise SetupError(f"{self._f} of {self._key!r}: the block has ended with neither ok, fail nor info")

    def _end(self, outcome: Outcome, seen: dict[str, Any]) -> Operation:
        __tracebackhide__ = True
        client = self._client
        history = client.history
        if "key" in seen:
            check_key(seen["key"], f"operation {self._f!r}")
        if self._operation is not None:
            if history.closed:
                return self._operation  # the end of the history has ended it
            raise SetupError(f"{self._f} of {self._key!r} has ended before, with {self._operation.type}")
        operation = self._operation = Operation(
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
            client.number,
        )
        client.end(operation)
        history.end(operation)
        return operation


class Client:
    """One client of a history, which performs one operation at a time.

    Attributes:
        history: the history.
        number: the number of the client.
        process: the number of its process, which changes after an operation with an unknown outcome.
        invocation: the operation that has begun and not ended, or None.
    """

    __slots__ = ("history", "invocation", "number", "process")

    def __init__(self, history: History, number: int) -> None:
        self.history = history
        self.number = number
        self.process = history.next_process()
        self.invocation: Invocation | None = None

    def invoke(self, f: str, *, key: str | None = None, value: Any = None, expected: int | None = None) -> Invocation:
        """Begin an operation. Its arguments are those of `Operation`.

        Raises:
            SetupError: the last operation of this client has not ended, or the key names no object.
        """
        __tracebackhide__ = True
        if self.invocation is not None:
            raise SetupError(
                f"client {self.number} begins {f!r} before its last operation has ended; see Client.give_up"
            )
        self.invocation = invocation = Invocation(self, f, key, value, expected)
        return invocation

    def give_up(self, error: object) -> None:
        """Record an operation that has begun and not ended as "info". Without one, this does nothing.

        Args:
            error: the reason.
        """
        if self.invocation is not None:
            self.invocation.info(error)

    def end(self, operation: Operation) -> None:
        """Go on after an operation, under a new process number if its outcome is unknown."""
        self.invocation = None
        if operation.type == "info":
            self.renew()

    def renew(self) -> None:
        """Go on under a new process number."""
        self.process = self.history.next_process()


class History:
    """The operations of clients, and the strikes, heals, probes and phases around them, in order.

    Clients may be threads or tasks. Times are in seconds since the start, in steps of a microsecond.

    Args:
        start: the moment of `clock` from which all times of the history count; None for the present one.
        clock: the clock of operations.
        file: the file to which each record is written at once; None for none.

    Attributes:
        start: the moment of the clock from which times count.
        episode, phase: those of the operations that begin now.
        file: the file, or None.
        closed: True if the history has ended, and with it the operations that had not.
    """

    def __init__(self, *, start: float | None = None, clock: Clock = SYSTEM, file: HistoryFile | None = None) -> None:
        self.start = clock.now() if start is None else start
        self.episode = 1
        self.phase: Phase = "run"
        self.file = file
        self.closed = False
        self._clock = clock
        self._records: list[Record] = []
        self._operations: list[Operation] = []
        self._marks: list[Mark] = []
        self._sorted: list[Operation] = []
        self._beginning = threading.Lock()
        self._open: dict[int, Invocation] = {}
        self._strikes = itertools.count()
        self._processes = itertools.count()
        self._indexes = itertools.count()
        self._clients = itertools.count()
        self._callers = Callers(self.client)
        self._exchanges: deque[tuple[Exchange, int]] = deque(maxlen=MAX_EXCHANGES)

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        """Return a history of these records, in their order. Further operations and strikes get unused numbers."""
        history = cls()
        for record in records:
            history.append(record)
        operations = history._operations
        history._indexes = _count_after(each.index for each in operations)
        history._processes = _count_after(each.process for each in operations)
        history._clients = _count_after(each.client for each in operations)
        history._strikes = _count_after(each.strike for each in history._marks if isinstance(each, FaultMark))
        return history

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Return the history of a file that `save` or a test has written.

        Optional keys may be missing. A mark of a heal without the number of its strike belongs to the last strike of its label
        that has not healed.

        Raises:
            SetupError: a line is malformed; the message has the file and the number of the line.
            OSError: the file can't be read.
        """
        with Path(path).open(encoding="utf-8", errors="surrogateescape") as lines:
            return cls.of(read_records(lines, path))

    def save(self, path: str | Path) -> None:
        """Write all records so far to a file, with a JSON object a line and without secrets. `load` reads it.

        Raises:
            OSError: the file can't be written.
        """
        Path(path).write_text("".join(map(line_of, self.records)), encoding="ascii")

    def export(self, path: str | Path, format: str) -> None:  # noqa: A002  # the public name
        """Write the operations to a file that other tools read.

        Args:
            path: the file.
            format: "edn" (Jepsen), "elle" (elle-cli) or "porcupine" (Porcupine); see docs/histories.md.

        Raises:
            SetupError: there is no such format.
            OSError: the file can't be written.
        """
        Path(path).write_text("".join(exported(self.operations, format)), encoding="utf-8", errors="backslashreplace")

    def recorded(
        self,
        function: Callable[Arguments, Result],
        *,
        f: str,
        key: str | Callable[Arguments, object] | None = None,
        value: Callable[Arguments, object] | None = None,
        fails: tuple[type[Exception], ...] = (),
    ) -> Callable[Arguments, Result]:
        """Return a function that calls `function` and records each call as an operation.

        A call that returns is "ok". A call that raises is "info", because it may have happened, and so is one that is
        cancelled. The exception goes on to the caller. Each thread and each asyncio task is a client of its own.

        Args:
            function: a function or coroutine function, or a function that returns a coroutine.
            f: the kind of operation, such as "read".
            key: the object that a call is about: a text, or a function of the call's arguments; None for none.
            value: what a call writes, as a function of the call's arguments. None if the result is the operation's value, as
                that of a read is.
            fails: exceptions that prove that the call has not happened. It is then "fail".

        Raises:
            SetupError: `function` is a generator function. A call raises it if its key is an object without a text of its own.
        """

        def invoke(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Invocation:
            found = key(*arguments, **keywords) if callable(key) else key
            written = value(*arguments, **keywords) if value is not None else None
            client = self._callers.client()
            return client.invoke(f, key=_key_of(found, f), value=written)

        return record_calls(function, invoke, result_is_value=value is None, fails=fails)

    def now(self) -> float:
        """Return the seconds since the start of the history."""
        return round(self._clock.now() - self.start, DECIMALS)

    def seconds_at(self, moment: float) -> float:
        """Return the seconds from the start of the history to a moment of the clock."""
        return round(moment - self.start, DECIMALS)

    @property
    def records(self) -> tuple[Record, ...]:
        """All operations and marks so far, in the order in which they ended."""
        return tuple(self._records)

    @property
    def operations(self) -> list[Operation]:
        """All operations that have ended, in the order in which they began."""
        if len(self._sorted) < len(self._operations):
            self._sorted = sorted(self._operations, key=operator.attrgetter("index"))
        return list(self._sorted)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks so far."""
        return tuple(self._marks)

    def append(self, record: Record) -> None:
        """Append a record, and write it to the file."""
        self._records.append(record)
        if isinstance(record, Operation):
            self._operations.append(record)
        else:
            self._marks.append(record)
        if self.file is not None:
            self.file.write(record)

    def begin(self, invocation: Invocation) -> tuple[int, float]:
        """Return the index of the operation that begins now, and the time. Both rise together."""
        with self._beginning:
            index = next(self._indexes)
            self._open[index] = invocation
            return index, self.now()

    def end(self, operation: Operation) -> None:
        """Append the operation of an invocation."""
        self._open.pop(operation.index, None)
        self.append(operation)

    def close(self) -> None:
        """End the history. Operations that have not ended become "info", because they may still happen."""
        if self.closed:
            return
        for invocation in list(self._open.values()):
            invocation.info("not ended at the end of the history")
        self.closed = True
        if self.file is not None:
            self.file.close()

    def client(self) -> Client:
        """Return a new client, whose operations the history records."""
        return Client(self, next(self._clients))

    def next_process(self) -> int:
        """Return an unused process number."""
        return next(self._processes)

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
        """Return the verdict of each checker.

        Raises:
            SetupError: an argument is no checker, such as `no_lost_writes` without parentheses.
        """
        __tracebackhide__ = True
        for checker in checkers:
            _check_checker(checker)
        return [_verdict_of(checker, self) for checker in checkers]

    def check(self, *checkers: Checker) -> None:
        """Assert that no checker finds a broken promise. An unknown verdict is no failure.

        Raises:
            PromiseBroken: one or more checkers found a violation; the error has their verdicts.
            SetupError: there is no checker or nothing to check, or an argument is no checker.
        """
        __tracebackhide__ = True
        if not checkers:
            raise SetupError(
                "check() without a checker proves nothing; it takes checkers, such as check(no_lost_writes())"
            )
        violated = [verdict for verdict in self.verdicts(*checkers) if verdict.kind == "violated"]
        if violated:
            raise PromiseBroken(violated, self)
        if not self._operations and not any(isinstance(mark, ProbeMark) for mark in self._marks):
            raise SetupError(
                "the history has no operation that has ended, so the checkers have nothing to judge; "
                "`resilience.play` and functions of `history.recorded` add operations"
            )

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


def _count_after(numbers: Iterable[int]) -> itertools.count[int]:
    return itertools.count(max(numbers, default=-1) + 1)


def check_key(key: object, owner: str) -> None:
    """Check the key of an operation. Keys of other types, equal only to themselves, would hide a violation from the checkers.

    Args:
        key: the key.
        owner: what has the key, such as "operation 'read'".

    Raises:
        SetupError: it is neither a text nor a number nor None.
    """
    __tracebackhide__ = True
    if key is not None and not isinstance(key, str | int):
        raise SetupError(
            f'{owner}: a key is the text that names an object, such as "7", or None; got {key!r} ({type(key).__name__})'
        )


def _check_checker(checker: object) -> None:
    """Check that an argument is a checker.

    Raises:
        SetupError: it is a function that returns a checker, or can't be called.
    """
    __tracebackhide__ = True
    if inspect.isfunction(checker) and checker.__module__.startswith(f"{__package__}.checkers"):
        raise SetupError(
            f"{checker.__name__} is a function that returns a checker: call it, as in check({checker.__name__}(...))"
        )
    if not callable(checker):
        raise SetupError(f"a checker is a function of a history, such as no_lost_writes(); got {checker!r}")


def _verdict_of(checker: Checker, history: History) -> Verdict:
    __tracebackhide__ = True
    verdict: object = checker(history)
    if not isinstance(verdict, Verdict):
        raise SetupError(f"a checker returns a Verdict, and {checker!r} has returned {verdict!r}")
    return verdict


def _key_of(found: object, f: str) -> str | None:
    """Return the text of the key of a recorded call."""
    __tracebackhide__ = True
    if found is None:
        return None
    text = str(found)
    if not isinstance(found, str) and IDENTITY.search(text):
        raise SetupError(
            f"recorded(f={f!r}): the key of a call is the text that names an object, and {text} has none; "
            "let `key` return its id, such as key=lambda order: order.id"
        )
    return text


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
    return ", ".join(dict.fromkeys(fault.label for fault in faults)) or NOTHING


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
