"""The registers of a history: what the writes and reads of each key prove about their order.

Rules that all checkers of reads share:

- A write is a create, update or delete that did not fail. One with an unknown outcome may happen at any time after it began.
- A write is *known* from its end on if it is ok, and from the end of the first read that showed its value. It has taken effect
  by then. An unknown write that no read has shown is never known.
- A read is identified with the writes of its key that wrote its value (values are unique), and with a create whose key is
  unknown. Its version decides between writes of equal values. A value that no operation wrote counts as written before the
  history, and as known from the end of the first read that showed it.
- One state is *before* a write if it was known before the write began, or if it is another value with a version that is not
  higher. Versions of a key may restart after a delete, so they decide nothing if a delete may lie between.
- A write without a value, such as a change of a field that no read shows, is missed only by a lower version.

Everything else is concurrent, and no checker draws a conclusion from it.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..history import History
from ..operation import Operation

INFINITY = float("inf")
CHANGES = ("create", "update")  # the writes with a value
ABSENT = object()  # takes the place of a value where a list has no entry for a key


class Write:
    """A write that happened or may have happened, or the value that a key had before the history.

    Attributes:
        operation: the create, update or delete; for a value from before the history, the first read that showed it.
        begin: when it began; minus infinity for a value from before the history.
        known: from when on it has certainly taken effect; infinity if that is unknown.
        version: the version that it made; None if unknown.
        valued: True if a read can show its value.
    """

    __slots__ = ("begin", "known", "operation", "state", "valued", "version")

    def __init__(self, operation: Operation, begin: float, known: float) -> None:
        self.operation = operation
        self.begin = begin
        self.known = known
        self.version = operation.version
        self.valued = operation.value is not None
        self.state: State | None = None


class State(NamedTuple):
    """The state of a key that a read has shown.

    Args:
        begin: when the earliest write that can have made it began.
        known: from when on it has certainly been made.
        version: its version; None if unknown.
        writes: the writes that can have made it.
        missing: True if there was no object.
    """

    begin: float
    known: float
    version: int | None
    writes: tuple[Write, ...]
    missing: bool = False


class Latest:
    """The writes of a key in the order in which they began. Finds one that may come after another write.

    Args:
        writes: the writes.
    """

    def __init__(self, writes: Iterable[Write]) -> None:
        ordered = sorted(writes, key=lambda each: each.begin)
        self._begins = [each.begin for each in ordered]
        self._known: list[float] = []
        for each in ordered:
            self._known.append(max(each.known, self._known[-1]) if self._known else each.known)

    def may_lie_between(self, begin: float, end: float) -> bool:
        """True if one of them may have taken effect after a write that began at `begin`, and before `end`."""
        count = bisect_right(self._begins, end)
        return count > 0 and self._known[count - 1] >= begin


class Acknowledged:
    """The acknowledged writes of a key in the order of their acknowledgement.

    Args:
        writes: the writes, of which those with an unknown outcome are left out.

    Attributes:
        first: when the first one was acknowledged; infinity for none.
    """

    def __init__(self, writes: Iterable[Write]) -> None:
        ordered = sorted((each for each in writes if each.operation.type == "ok"), key=lambda each: each.operation.end)
        self._ends = [each.operation.end for each in ordered]
        self.first = self._ends[0] if ordered else INFINITY
        self._latest = ordered[:1]
        for each in ordered[1:]:
            self._latest.append(max(each, self._latest[-1], key=lambda write: write.begin))

    def before(self, time: float) -> Write | None:
        """Return the write that began last among those acknowledged before `time`, None for none."""
        count = bisect_left(self._ends, time)
        return self._latest[count - 1] if count else None


class Register:
    """All writes of one key.

    Attributes:
        changes: the creates and updates that happened or may have happened, in the order in which they began.
        deletes: likewise the deletes.
        failed: the values of creates and updates that failed, each with the first of them.
        by_value: the creates and updates by value, and the values from before the history.
        unvalued: True if a create or update has no value.
    """

    def __init__(self) -> None:
        self.changes: list[Write] = []
        self.deletes: list[Write] = []
        self.failed: dict[Hashable, Operation] = {}
        self.by_value: dict[Hashable, list[Write]] = {}
        self.unvalued = False
        self._deletions: Latest | None = None
        self._changes: Latest | None = None

    def add(self, write: Write) -> None:
        """Add a write of the history."""
        if write.operation.f == "delete":
            self.deletes.append(write)
            return
        self.changes.append(write)
        if write.valued:
            self.by_value.setdefault(hashable(write.operation.value), []).append(write)
        else:
            self.unvalued = True

    @property
    def deletions(self) -> Latest:
        """The deletes, once everything is known."""
        if self._deletions is None:
            self._deletions = Latest(self.deletes)
        return self._deletions

    @property
    def creations(self) -> Latest:
        """The creates and updates, once everything is known."""
        if self._changes is None:
            self._changes = Latest(self.changes)
        return self._changes

    def precedes(self, state: State, write: Write) -> bool:
        """True if the state was certainly made before the write, so that a read of it does not show the write."""
        if state.known < write.begin:
            return True
        if state.version is None or write.version is None or state.version > write.version:
            return False
        if state.version == write.version and (write in state.writes or not write.valued):
            return False
        return not self.deletions.may_lie_between(write.begin, state.known)

    def lacks(self, write: Write, end: float) -> bool:
        """True if no delete explains that a read, which ended at `end`, found no object after the write."""
        return write.operation.f != "delete" and not self.deletions.may_lie_between(write.begin, end)

    def misses(self, seen: State, write: Write, end: float) -> bool:
        """True if a read that began after the write had ended, and that itself ended at `end`, shows an earlier state."""
        return self.lacks(write, end) if seen.missing else self.precedes(seen, write)


MISSING = State(-INFINITY, INFINITY, None, (), missing=True)
UNKNOWN = State(-INFINITY, INFINITY, None, ())  # an object without its value, as some lists have it


class Registers:
    """The registers of a history, by key.

    Args:
        history: the history.

    Attributes:
        operations: all operations in the order in which they began.
        reads: the reads and lists that succeeded, in that order.
        keys: the registers.
        creates: by value, the creates whose key is unknown and that happened or may have happened.
        written: the creates, updates and deletes that did not fail, by the index of their operation.
    """

    def __init__(self, history: History) -> None:
        self.operations = [_with_text_keys(each) if each.f == "list" else each for each in history.operations]
        self.keys: dict[str, Register] = {}
        self.creates: dict[Hashable, list[Write]] = {}
        self.written: dict[int, Write] = {}
        for operation in self.operations:
            if operation.f in CHANGES or operation.f == "delete":
                self._add(operation)
        self.reads = [each for each in self.operations if each.type == "ok" and is_read(each)]
        self._learn()

    def __getitem__(self, key: str) -> Register:
        register = self.keys.get(key)
        if register is None:
            register = self.keys[key] = Register()
        return register

    def _add(self, operation: Operation) -> None:
        key = operation.key
        if operation.type == "fail":
            if key is not None and operation.value is not None:
                self[key].failed.setdefault(hashable(operation.value), operation)
            return
        write = Write(operation, operation.time, operation.end if operation.type == "ok" else INFINITY)
        self.written[operation.index] = write
        if key is not None:
            self[key].add(write)
        elif operation.f == "create" and write.valued:
            self.creates.setdefault(hashable(operation.value), []).append(write)

    def _learn(self) -> None:
        """Learn from all reads when a write has certainly taken effect, and which version it made."""
        shown: set[tuple[str, Hashable]] = set()
        for read in sorted(self.reads, key=lambda each: each.end):
            for key, value in entries(read).items():
                if value is not None:
                    self._learn_from(read, key, hashable(value), shown)

    def _learn_from(self, read: Operation, key: str, value: Hashable, shown: set[tuple[str, Hashable]]) -> None:
        if (key, value) in shown and read.version is None:
            return
        first = (key, value) not in shown
        shown.add((key, value))
        register = self[key]
        writes = self._writers(register, value)
        if first and not any(each.begin <= read.end for each in writes):
            register.by_value.setdefault(value, []).append(Write(read, -INFINITY, read.end))
        elif len(writes) == 1 and not register.unvalued:
            (write,) = writes
            write.known = min(write.known, read.end)
            if write.version is None:
                write.version = read.version

    def _writers(self, register: Register, value: Hashable) -> list[Write]:
        """Return the writes of a value to a key, among them creates whose key is unknown."""
        writes = register.by_value.get(value, [])
        return [*writes, *self.creates[value]] if value in self.creates else writes

    def seen(self, read: Operation, key: str) -> State:
        """Return the state of a key that a read or a list has shown."""
        shown = entries(read)
        if key not in shown:
            return MISSING
        register, value, version = self[key], shown[key], read.version
        if value is None:
            writes = register.changes if version is not None else []
        else:
            writes = self._writers(register, hashable(value))
        if not writes:
            return UNKNOWN._replace(version=version)
        if len(writes) > 1 and version is not None:
            writes = [each for each in writes if each.version in (None, version)] or writes
        return _state(writes, version, read.end, register)


def _state(writes: Sequence[Write], version: int | None, end: float, register: Register) -> State:
    if len(writes) == 1 and not register.unvalued:
        (write,) = writes
        if version is None or version == write.version:
            if write.state is None:
                write.state = State(write.begin, min(write.known, end), write.version, (write,))
            return write.state
        return State(write.begin, min(write.known, end), version, (write,))
    begin = min((each.begin for each in writes), default=-INFINITY)
    known = end if register.unvalued else min(end, max((each.known for each in writes), default=end))
    return State(begin, known, version, tuple(writes))


def is_read(operation: Operation) -> bool:
    """True if the operation is a read of a key, or a list with its mapping from key to value."""
    if operation.f == "list":
        return isinstance(operation.value, Mapping)
    return operation.f == "read" and operation.key is not None


def entries(read: Operation) -> Mapping[str, Any]:
    """Return the values that a read or a list has shown, by key. Missing objects have no entry, and a list may have None."""
    if read.f == "list":
        return read.value if isinstance(read.value, Mapping) else {}
    missing = read.value is None and read.version is None
    return {} if read.key is None or missing else {read.key: read.value}


def _with_text_keys(read: Operation) -> Operation:
    if not isinstance(read.value, Mapping) or all(type(key) is str for key in read.value):
        return read
    return read._replace(value={str(key): value for key, value in read.value.items()})


def hashable(value: Any) -> Hashable:
    """Return the value, or its JSON if it is not hashable, so that equal values are found."""
    try:
        hash(value)
    except TypeError:
        return ("json", json.dumps(value, sort_keys=True, default=repr))
    return value  # type: ignore[no-any-return]
