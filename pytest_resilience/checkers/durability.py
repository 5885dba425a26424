"""The checkers that no acknowledged write is lost and no deleted object returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..history import History
from ..operation import Operation, Verdict
from .checker import Checker
from .registers import INFINITY, Acknowledged, Register, Registers, State, Write, entries
from .sentences import acknowledged, by, distinct, read_of, written


@dataclass(frozen=True)
class NoLostWrites(Checker):
    """No acknowledged create or update is missing from the final reads.

    Per key, the final read is the one that began last among the reads and lists of the phases "baseline" and "recovery", in
    a history without a recovery phase among all. A read whose state is "stale" is none. An acknowledged create or update W is
    *lost* if

    - it was acknowledged before the final read began,
    - the final read shows a state that was made before W (`registers`), or no object,
    - no delete, not even one that may have happened, can have come after W,
    - and no read that began later shows another state.

    So a stale read that a later read corrects is no loss, and a write that a later, a concurrent or an unknown write may have
    overwritten is not lost. A list shows every key: one that is not in it is missing.

    Unknown if no key has a final read that began after an acknowledged write. O(n log n) for n operations and list entries.

    Source: Jepsen's `checker/set-full` (known, stable, lost), with one element per write and overwriting added.
    """

    name: ClassVar[str] = "no_lost_writes"

    def judge(self, history: History) -> Verdict:
        registers = Registers(history)
        finals = _FinalReads(registers)
        decided = False
        for key, register in list(registers.keys.items()):
            final = finals.of(key)
            written_before = [each for each in register.changes if final and _acknowledged_before(each, final)]
            if final is None or not written_before:
                continue
            decided = True
            lost = [each for each in written_before if _lost(registers, register, key, each, final)]
            if lost and not finals.seen_later(key, register, lost[-1], final):
                return self._lost(finals, key, register, lost[-1])
        return self.ok() if decided else self.unknown("no key was read in the end after a write was acknowledged")

    def _lost(self, finals: _FinalReads, key: str, register: Register, write: Write) -> Verdict:
        reads = [each for each in finals.reads_of(key) if each.time > write.operation.end]
        missing = [_misses(finals.registers, register, key, write, each) for each in reads]
        last_seen = max((index for index, missed in enumerate(missing) if not missed), default=-1)
        since = reads[last_seen + 1 :]
        witness = [write.operation, *reads[max(last_seen, 0) : last_seen + 1], *since[:2], since[-1]]
        return self.violated(
            f"key {key}: {written(write.operation)}, {acknowledged(write.operation)}, is missing from every read since "
            f"{since[0].time:.3f} s; {by(since[-1])} shows {read_of(since[-1], key)}",
            distinct(witness),
        )


def _acknowledged_before(write: Write, read: Operation) -> bool:
    return write.operation.type == "ok" and write.operation.end < read.time


def _misses(registers: Registers, register: Register, key: str, write: Write, read: Operation) -> bool:
    return register.misses(registers.seen(read, key), write, read.end)


def _lost(registers: Registers, register: Register, key: str, write: Write, read: Operation) -> bool:
    return register.lacks(write, read.end) and _misses(registers, register, key, write, read)


class _FinalReads:
    """The final read of each key."""

    def __init__(self, registers: Registers) -> None:
        self.registers = registers
        self._last: dict[str, Operation] = {}
        self._last_list: Operation | None = None
        for read in _settled(registers):
            if read.f == "list":
                self._last_list = read
            elif read.key is not None:
                self._last[read.key] = read

    def of(self, key: str) -> Operation | None:
        """Return the final read of a key, None if there is none."""
        reads = [each for each in (self._last.get(key), self._last_list) if each is not None]
        return max(reads, key=lambda each: each.time, default=None)

    def reads_of(self, key: str) -> list[Operation]:
        """Return all reads of a key and all lists, in the order in which they began."""
        return sorted(
            (each for each in self.registers.reads if each.f == "list" or each.key == key), key=lambda each: each.time
        )

    def seen_later(self, key: str, register: Register, write: Write, final: Operation) -> bool:
        """True if a read of any phase that began with the final read, or later, does not miss the write."""
        return any(
            each.time >= final.time and not _misses(self.registers, register, key, write, each)
            for each in self.registers.reads
            if each is not final and (each.f == "list" or each.key == key)
        )


def _settled(registers: Registers) -> Iterator[Operation]:
    """Yield the reads from which a missing write is evidence, in the order in which they began."""
    recovers = any(each.phase == "recovery" for each in registers.operations)
    phases = ("baseline", "recovery") if recovers else ("baseline", "run", "heal", "recovery")
    for read in sorted(registers.reads, key=lambda each: each.time):
        if read.phase in phases and read.state != "stale":
            yield read


def no_lost_writes() -> NoLostWrites:
    """Return the checker that no acknowledged create or update is lost."""
    return NoLostWrites()


@dataclass(frozen=True)
class NoResurrection(Checker):
    """No deleted object returns.

    A read or list that began more than `within` seconds after a delete of the key was acknowledged is a violation if

    - it shows a value that was made before the delete (`registers`), even if the key was created again with another value,
    - or it shows an object, and no create or update of the key, not even one that may have happened, can have come after the
      delete.

    Unknown if no read or list of a deleted key began after that time. O(n log n) for n operations and list entries.

    Source: the anomaly that a tombstone prevents, "no resurrection" in DeCandia et al., Dynamo, 2007, section 4.4.

    Args:
        within: seconds for which a deleted object may still be read, 0 or more. Default 0.
    """

    within: float = 0.0
    name: ClassVar[str] = "no_resurrection"

    def judge(self, history: History) -> Verdict:
        registers = Registers(history)
        deletes = {key: Acknowledged(each.deletes) for key, each in registers.keys.items() if each.deletes}
        first = min((each.first for each in deletes.values()), default=INFINITY) + self.within
        decided = False
        fine = _Fine()
        for read in registers.reads:
            decided = decided or (read.f == "list" and read.time > first)
            for key in sorted(deletes.keys() & entries(read).keys()) if read.f == "list" else [read.key]:
                delete = deletes[key].before(read.time - self.within) if key in deletes else None
                if key is None or delete is None:
                    continue
                decided = True
                if fine.has(key, delete, read):
                    continue
                seen = registers.seen(read, key)
                if not seen.missing and _returned(registers, key, seen, delete, read):
                    return self._returned(key, seen, delete.operation, read)
                fine.add(key, delete, read)
        return self.ok() if decided else self.unknown("no key was read after a delete of it was acknowledged")

    def _returned(self, key: str, seen: State, delete: Operation, read: Operation) -> Verdict:
        return self.violated(
            f"key {key}: {by(read)} shows {read_of(read, key)}, though its delete was {acknowledged(delete)}",
            distinct([*(each.operation for each in seen.writes[:3]), delete, read]),
        )


class _Fine:
    """The values that lists have rightly shown after a delete.

    A later list may show them, too, because whatever may have happened before the end of the first may have happened before that
    of the second.
    """

    def __init__(self) -> None:
        self._shown: dict[str, tuple[Any, Write, float]] = {}

    def has(self, key: str, delete: Write, read: Operation) -> bool:
        """True if a read is a list that shows a value of a list which ended earlier, after the same delete."""
        if read.f != "list" or key not in self._shown:
            return False
        value, after, end = self._shown[key]
        return after is delete and end <= read.end and value == read.value[key]

    def add(self, key: str, delete: Write, read: Operation) -> None:
        """Add what a list shows after a delete."""
        if read.f == "list":
            self._shown[key] = read.value[key], delete, read.end


def _returned(registers: Registers, key: str, seen: State, delete: Write, read: Operation) -> bool:
    register = registers[key]
    if register.precedes(seen, delete):
        return True
    if any(each.operation.f == "create" for each in seen.writes if each.operation.key is None):
        return False
    return not register.creations.may_lie_between(delete.begin, read.end)


def no_resurrection(within: float = 0.0) -> NoResurrection:
    """Return the checker that no deleted object returns.

    Args:
        within: seconds for which a deleted object may still be read, 0 or more. Default 0.
    """
    return NoResurrection(within)
