"""The checkers of session guarantees. A session is a client, which goes on after an operation with an unknown outcome."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..history import History
from ..operation import Operation, Verdict
from .checker import Checker
from .registers import ABSENT, INFINITY, Register, Registers, State, Write, entries
from .sentences import acknowledged, by, distinct, read_of, written


@dataclass
class _Own:
    """The acknowledged writes of one session to one key: the last one, and the one with the highest version.

    Attributes:
        last: the last one.
        newest: the one with the highest version.
        fine: the value (ABSENT for none) that a list has shown without missing one of them; None for no such list.
        fine_from: when that list ended. The value misses none in a list that ends later either, because whatever may have
            happened before the end of the first may have happened before that of the second.
    """

    last: Write
    newest: Write | None = None
    fine: Any = None
    fine_from: float = INFINITY

    def add(self, write: Write) -> None:
        self.last = write
        self.fine_from = INFINITY
        if write.version is not None and (self.newest is None or (self.newest.version or 0) < write.version):
            self.newest = write

    def missed(self, register: Register, seen: State, read: Operation) -> Write | None:
        """Return the write that a read misses, None if it misses none."""
        for write in (self.last, self.newest):
            if write is not None and write.operation.end <= read.time and register.misses(seen, write, read.end):
                return write
        return None

    def add_fine(self, value: Any, read: Operation) -> None:
        """Add the value of a list that misses nothing."""
        if all(write.operation.end <= read.time for write in (self.last, self.newest) if write is not None):
            self.fine, self.fine_from = value, read.end


@dataclass(frozen=True)
class ReadYourWrites(Checker):
    """Each read of a session shows the session's own acknowledged writes, or later ones.

    A read or list that began after a create, update or delete W of the same client was acknowledged is a violation if it
    shows a state that was made before W (`registers`), or no object though no delete can have come after W. A read whose state
    is "stale" admits its age and is left out.

    Unknown if no client has read a key after its own acknowledged write. O(n log n) for n operations and list entries, and
    for each list one look-up per key that its client has written.

    Source: Terry et al., Session Guarantees for Weakly Consistent Replicated Data, 1994.
    """

    name: ClassVar[str] = "read_your_writes"

    def judge(self, history: History) -> Verdict:
        registers = Registers(history)
        sessions: defaultdict[int, dict[str, _Own]] = defaultdict(dict)
        reads = set(map(id, registers.reads))
        decided = False
        for operation, session in zip(registers.operations, session_numbers(registers.operations), strict=True):
            own = sessions[session]
            write = registers.written.get(operation.index)
            if write is not None and operation.type == "ok" and operation.key is not None:
                own.setdefault(operation.key, _Own(write)).add(write)
            elif id(operation) in reads and operation.state != "stale":
                for key in _written_keys(operation, own):
                    decided = True
                    seen = registers.seen(operation, key)
                    if missed := own[key].missed(registers[key], seen, operation):
                        return self._missed(key, missed, seen, operation)
                    if operation.f == "list":
                        own[key].add_fine(entries(operation).get(key, ABSENT), operation)
                decided = decided or (operation.f == "list" and bool(own))
        return self.ok() if decided else self.unknown("no client has read a key after its own acknowledged write")

    def _missed(self, key: str, write: Write, seen: State, read: Operation) -> Verdict:
        made = "the delete" if write.operation.f == "delete" else written(write.operation)
        return self.violated(
            f"key {key}: {by(read)} shows {read_of(read, key)} and misses its own write, {made}, "
            f"{acknowledged(write.operation)}",
            distinct([*(each.operation for each in seen.writes[:3]), write.operation, read]),
        )


def _written_keys(read: Operation, own: dict[str, _Own]) -> Sequence[str]:
    """Return the keys of a read that its session has written, of a list only those whose value is not known to be fine."""
    if read.f == "read":
        return [read.key] if read.key in own else []
    found = entries(read)
    return [key for key, each in own.items() if read.end < each.fine_from or found.get(key, ABSENT) != each.fine]


def read_your_writes() -> ReadYourWrites:
    """Return the checker that each client reads its own acknowledged writes."""
    return ReadYourWrites()


@dataclass
class _Seen:
    """The reads of one session of one key."""

    last: Operation
    latest: Operation
    latest_begin: float = -INFINITY
    newest: Operation | None = None
    newest_version: int = -1
    newest_begin: float = -INFINITY
    present: tuple[Write, int | None] | None = None
    left: dict[tuple[Write, int | None], Operation] = field(default_factory=dict)
    object: Operation | None = None

    def earlier(self, register: Register, seen: State, read: Operation) -> Operation | None:
        """Return the earlier read that has shown a later state, None if there is none."""
        if seen.missing:
            gone = self.object is not None and not register.deletions.may_lie_between(self.latest_begin, read.end)
            return self.latest if gone else None
        if seen.known < self.latest_begin:
            return self.latest
        if self.newest is not None and seen.version is not None and seen.version < self.newest_version:
            restarts = register.deletions.may_lie_between(self.newest_begin, seen.known)
            return None if restarts else self.newest
        return self.left.get(_identity(seen)) if len(seen.writes) == 1 else None

    def add(self, seen: State, read: Operation) -> None:
        """Add a read."""
        self.last = read
        identity = _identity(seen) if len(seen.writes) == 1 else None
        if identity is not None or seen.missing:
            if self.present is not None and identity != self.present:
                self.left[self.present] = read
            self.present = identity
        if seen.missing:
            return
        self.object = read
        if seen.begin >= self.latest_begin:
            self.latest, self.latest_begin = read, seen.begin
        if seen.version is not None and seen.version > self.newest_version:
            self.newest, self.newest_version, self.newest_begin = read, seen.version, seen.begin


def _identity(seen: State) -> tuple[Write, int | None]:
    return seen.writes[0], seen.version


@dataclass(frozen=True)
class MonotonicReads(Checker):
    """The reads of a session never go back.

    For each key, a read or list by one client is a violation if an earlier one by the same client has shown a later state.
    State A is later than state B if

    - A was made by a write that began after B was known to be made, or has a higher version (`registers`),
    - or B was shown, then another state, then B again (values are unique, so a state that was replaced cannot return),
    - or B is a missing object, and no delete can have come after the write that made A.

    Unknown if no client has read a key twice. O(n log n) for n operations and list entries.

    Source: Terry et al., Session Guarantees for Weakly Consistent Replicated Data, 1994.
    """

    name: ClassVar[str] = "monotonic_reads"

    def judge(self, history: History) -> Verdict:
        registers = Registers(history)
        sessions: defaultdict[int, _Session] = defaultdict(_Session)
        numbers = session_numbers(registers.operations)
        reads = set(map(id, registers.reads))
        decided = False
        for operation, number in zip(registers.operations, numbers, strict=True):
            session = sessions[number]
            if id(operation) not in reads or operation.time < session.end:
                continue
            session.end = operation.end
            for key in session.changed(operation):
                before = session.keys.get(key)
                seen = registers.seen(operation, key)
                if before is None:
                    before = session.keys[key] = _Seen(operation, operation)
                else:
                    decided = True
                    if earlier := before.earlier(registers[key], seen, operation):
                        return self._back(key, seen, before, earlier, operation)
                before.add(seen, operation)
        decided = decided or any(each.again for each in sessions.values())
        return self.ok() if decided else self.unknown("no client has read a key twice")

    def _back(self, key: str, seen: State, before: _Seen, earlier: Operation, read: Operation) -> Verdict:
        writes = [each.operation for each in seen.writes[:3]]
        return self.violated(
            f"key {key}: {by(read)} shows {read_of(read, key)}, though {by(earlier)} has shown {read_of(earlier, key)}",
            distinct([*writes, earlier, before.last, read]),
        )


class _Session:
    """The reads of one session."""

    def __init__(self) -> None:
        self.end = -INFINITY
        self.keys: dict[str, _Seen] = {}
        self.shown: dict[str, Any] = {}
        self.again = False

    def changed(self, read: Operation) -> Sequence[str]:
        """Return the keys of a read, of a list only those whose value differs from what the session has read last."""
        found = entries(read)
        if read.f == "read":
            assert read.key is not None
            self.shown.pop(read.key, None)
            self.shown.update(found)
            return [read.key]
        shown = self.shown
        self.again = self.again or bool(shown)
        changed = [key for key, value in found.items() if value is None or shown.get(key) != value]
        changed += [key for key in shown if key not in found]
        self.shown = dict(found)
        return changed


def monotonic_reads() -> MonotonicReads:
    """Return the checker that the reads of a client never go back."""
    return MonotonicReads()


def session_numbers(operations: Sequence[Operation]) -> list[int]:
    """Return the number of the session of each operation: its client.

    In a history whose clients have no numbers, such as one of another tool, a session is a process. A process that begins
    after an unknown outcome of another one, with a number of its own, may be the same client, and counts as a new session.
    """
    if any(each.client for each in operations) or _is_one_client(operations):
        return [each.client for each in operations]
    return [each.process for each in operations]


def _is_one_client(operations: Sequence[Operation]) -> bool:
    """True if the processes follow each other, each after an unknown outcome of the one before."""
    renewed = True
    process: int | None = None
    for each in operations:
        if each.process != process and not renewed:
            return False
        process, renewed = each.process, each.type == "info"
    return True
