"""The checkers of origins: each value that a read shows was written, and to that key."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..history import History
from ..operation import Operation, Verdict
from .checker import Checker
from .registers import CHANGES, INFINITY, Register, Registers, entries, hashable
from .sentences import by, distinct, shown


@dataclass(frozen=True)
class NoPhantoms(Checker):
    """Each value that a read shows was written by a create or update that happened or may have happened.

    The key may be another one, which `no_cross_talk` finds. A read or list is a violation if no such write of its value began
    before the read ended, and

    - a write that failed wrote the value, and had begun before the value was read for the first time,
    - or the value cannot have existed before the history. A key can have had one value before the history, the one that a read
      showed first, if that read began before a create or update of the key was acknowledged. It had none if an acknowledged
      create of the key came before any delete, or if a read or list that ended before the first strike and before any delete
      of the key found no object.

    Values must be unique. Unknown if every value that was read may have existed before the history, or none was read.
    O(n log n) for n operations and list entries.

    Source: "unexpected" elements in Jepsen's `checker/set`, and aborted reads (G1a) in Adya et al., 2000.
    """

    name: ClassVar[str] = "no_phantoms"

    def judge(self, history: History) -> Verdict:
        registers = Registers(history)
        origins = Origins(registers, min((fault.struck_at for fault in history.faults), default=INFINITY))
        decided = False
        for read, key, value in origins.first_reads():
            if origins.is_written(value, read):
                decided = True
            elif failed := origins.failed_before(value, read):
                return self._failed(key, read, failed)
            elif not origins.may_be_old(key, value, read):
                return self.violated(
                    f"key {key}: {by(read)} shows {shown(entries(read)[key])}, which no operation of the history wrote",
                    distinct([*origins.evidence(key, read), read]),
                )
        return self.ok() if decided else self.unknown("no value was read that an operation of the history wrote")

    def _failed(self, key: str, read: Operation, failed: Operation) -> Verdict:
        return self.violated(
            f"key {key}: {by(read)} shows {shown(entries(read)[key])}, which only the {failed.f} of key {failed.key} by "
            f"client {failed.client} wrote, and that failed at {failed.end:.3f} s with {failed.error}",
            (failed, read),
        )


class Origins:
    """The writes of each value.

    Args:
        registers: the registers of the history.
        struck: when the first fault struck.
    """

    def __init__(self, registers: Registers, struck: float = INFINITY) -> None:
        self.registers = registers
        self._struck = struck
        self._written: dict[Hashable, float] = {}
        self._failed: dict[Hashable, Operation] = {}
        self._old: dict[str, Hashable] = {}
        for each in registers.operations:
            if each.f in CHANGES and each.value is not None:
                if each.type == "fail":
                    self._failed.setdefault(hashable(each.value), each)
                else:
                    self._written.setdefault(hashable(each.value), each.time)

    def first_reads(self) -> Iterator[tuple[Operation, str, Hashable]]:
        """Yield each value of each key, with the read that was the first to show it, in the order of their ends."""
        shown_before: set[tuple[str, Hashable]] = set()
        for read in sorted(self.registers.reads, key=lambda each: each.end):
            for key, value in entries(read).items():
                if value is not None:
                    value = hashable(value)
                    if (key, value) not in shown_before:
                        shown_before.add((key, value))
                        yield read, key, value

    def is_written(self, value: Hashable, read: Operation) -> bool:
        """True if a write of the value, to any key, had begun when the read ended."""
        return self._written.get(value, INFINITY) <= read.end

    def failed_before(self, value: Hashable, read: Operation) -> Operation | None:
        """Return the failed write of the value that had begun when the read ended, None if there is none."""
        failed = self._failed.get(value)
        return failed if failed is not None and failed.time <= read.end else None

    def may_be_old(self, key: str, value: Hashable, read: Operation) -> bool:
        """True if a value that nobody wrote may have been in the key before the history. Call it in the order of the reads."""
        register = self.registers[key]
        if self._old.setdefault(key, value) != value:
            return False
        overwritten = min((each.operation.end for each in register.changes if _is_ok(each.operation)), default=INFINITY)
        return read.time <= overwritten and self._absent(key, register) is None

    def _absent(self, key: str, register: Register) -> Operation | None:
        """Return the operation that proves that the key had no object before the history, None if there is none."""
        deleted = min((each.begin for each in register.deletes), default=INFINITY)
        for each in register.changes:
            if each.operation.f == "create" and _is_ok(each.operation) and each.operation.end < deleted:
                return each.operation
        for read in self.registers.reads:
            about = read.f == "list" or read.key == key
            if about and read.end < min(deleted, self._struck) and key not in entries(read):
                return read
        return None

    def evidence(self, key: str, read: Operation) -> list[Operation]:
        """Return an operation that proves that a value did not exist before the history."""
        register = self.registers[key]
        absent = self._absent(key, register)
        writes = [
            each.operation for each in register.changes if _is_ok(each.operation) and each.operation.end < read.time
        ]
        return [*([] if absent is None else [absent]), *writes[:1]]


def _is_ok(operation: Operation) -> bool:
    return operation.type == "ok"


def no_phantoms() -> NoPhantoms:
    """Return the checker that each value read was written."""
    return NoPhantoms()


@dataclass(frozen=True)
class NoCrossTalk(Checker):
    """Each value that a read shows under a key was written to that key.

    A read or list is a violation if it shows a value under a key to which no operation wrote it, not even one that failed, and
    an operation that had begun before the read ended wrote it to exactly one other key. A value that the key had shown before
    that operation began is none. A create with an unknown key may have created any key.

    Values must be unique. Unknown if no value was read that an operation wrote. O(n log n) for n operations and list entries.

    Source: "no cross-talk between keys", after responses that were swapped between requests on one connection.
    """

    name: ClassVar[str] = "no_cross_talk"

    def judge(self, history: History) -> Verdict:
        registers = Registers(history)
        writes = _writes_by_value(registers.operations)
        decided = False
        for read, key, value in Origins(registers).first_reads():
            written = writes.get(value, {})
            decided = decided or bool(written)
            if key in written or None in written or len(written) != 1:
                continue
            ((other, write),) = written.items()
            if write.time <= read.end:
                return self.violated(
                    f"key {key}: {by(read)} shows {shown(entries(read)[key])}, which client {write.client} wrote to key "
                    f"{other} at {write.time:.3f} s",
                    (write, read),
                )
        return self.ok() if decided else self.unknown("no value was read that an operation of the history wrote")


def _writes_by_value(operations: list[Operation]) -> dict[Hashable, dict[str | None, Operation]]:
    """Return the first write of each value to each key, failed ones too."""
    writes: dict[Hashable, dict[str | None, Operation]] = {}
    for each in operations:
        if each.f in CHANGES and each.value is not None:
            writes.setdefault(hashable(each.value), {}).setdefault(each.key, each)
    return writes


def no_cross_talk() -> NoCrossTalk:
    """Return the checker that each value is read under its own key only."""
    return NoCrossTalk()
