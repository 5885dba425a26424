"""The checker of bounded staleness."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import SetupError
from ..history import History
from ..operation import Operation, Verdict
from .checker import Checker
from .fault_times import FaultTimes
from .registers import ABSENT, INFINITY, Register, Registers, State, Write, entries
from .sentences import acknowledged, by, distinct, read_of, written


@dataclass(frozen=True)
class BoundedStaleness(Checker):
    """A read is no older than its bound.

    A read or list that began at t is a violation if a create, update or delete W of the key was acknowledged before t - B, and
    the read shows a state that was made before W (`registers`), or no object though no delete can have come after W. B is
    `under_fault` for a read during which a fault lasted, or which began within B after a heal, and `seconds` for all others.

    Unknown if no read of a key began more than B after an acknowledged write of it. O(n log n) for n operations and list
    entries.

    Source: Golab et al., Analyzing Consistency Properties for Fun and Profit, 2011 (Δ-atomicity).

    Args:
        seconds: the bound without a fault, 0 or more.
        under_fault: the bound under a fault, `seconds` or more. None for no bound; then `seconds` also is the time after the
            heal in which there is none. Default None.

    Raises:
        SetupError: a bound is negative, or the one under a fault is lower.
    """

    seconds: float
    under_fault: float | None = None
    name: ClassVar[str] = "bounded_staleness"

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise SetupError(f"bounded_staleness: seconds must be 0 or more, got {self.seconds!r}")
        if self.under_fault is not None and not self.under_fault >= self.seconds:
            raise SetupError(f"bounded_staleness: under_fault must be seconds or more, got {self.under_fault!r}")

    def judge(self, history: History) -> Verdict:
        registers = Registers(history)
        bounds = _Bounds(registers, FaultTimes(history), self._extra, self._bound)
        for read in sorted(registers.reads, key=lambda each: each.end):
            if found := bounds.stale(read):
                return self._stale(*found, read)
        return self.ok() if bounds.decided else self.unknown("no key was read longer after a write than its bound")

    @property
    def _extra(self) -> float:
        return self.seconds if self.under_fault is None else self.under_fault

    def _bound(self, under_fault: bool) -> float:
        if not under_fault:
            return self.seconds
        return INFINITY if self.under_fault is None else self.under_fault

    def _stale(self, key: str, write: Write, seen: State, bound: float, read: Operation) -> Verdict:
        made = "its delete" if write.operation.f == "delete" else written(write.operation)
        return self.violated(
            f"key {key}: {by(read)} shows {read_of(read, key)}, though {made} was {acknowledged(write.operation)}, "
            f"{read.time - write.operation.end:.3f} s before, and the bound is {bound:g} s",
            distinct([*(each.operation for each in seen.writes[:3]), write.operation, read]),
        )


class _Bounds:
    """The reads of a history against their bounds.

    Attributes:
        decided: True once a read had a write to show.
    """

    def __init__(self, registers: Registers, faults: FaultTimes, extra: float, bound: Callable[[bool], float]) -> None:
        self.registers = registers
        self.decided = False
        self._faults = faults
        self._extra = extra
        self._bound = bound
        self._acknowledged = {key: _Acknowledged(each) for key, each in registers.keys.items()}
        self._acknowledged = {key: each for key, each in self._acknowledged.items() if each.first < INFINITY}

    def stale(self, read: Operation) -> tuple[str, Write, State, float] | None:
        """Return key, write, state and bound of the first key for which a read is too old, None if there is none."""
        bound = self._bound(self._faults.overlap(read.time, read.end, self._extra))
        limit = read.time - bound
        for key in self._keys(read, limit):
            self.decided = True
            seen = self.registers.seen(read, key)
            if write := self._acknowledged[key].missed(seen, limit, read.end):
                return key, write, seen, bound
            if read.f == "list":
                self._acknowledged[key].add_fine(entries(read).get(key, ABSENT), limit)
        return None

    def _keys(self, read: Operation, limit: float) -> Iterable[str]:
        """Yield the keys of a read with a write that was acknowledged before `limit`."""
        if read.f == "read":
            of_read = self._acknowledged.get(read.key or "")
            return [read.key] if read.key is not None and of_read is not None and of_read.first < limit else []
        return self._keys_of_list(read, limit)

    def _keys_of_list(self, read: Operation, limit: float) -> Iterable[str]:
        found = entries(read)
        for key, writes in self._acknowledged.items():
            if writes.first < limit:
                self.decided = True
                if not (writes.fine_from < limit <= writes.fine_until and found.get(key, ABSENT) == writes.fine):
                    yield key


class _Acknowledged:
    """The acknowledged writes of a key, in the order of their acknowledgement.

    Attributes:
        first: when the first one was acknowledged; infinity for none.
        fine: the value (ABSENT for none) that the last list has shown and that was new enough. In a list that ends later, the
            value is new enough for each limit between `fine_from` and `fine_until`, between which nothing was acknowledged.
    """

    fine: Any = None
    fine_from = INFINITY
    fine_until = -INFINITY

    def __init__(self, register: Register) -> None:
        self._register = register
        writes = [each for each in (*register.changes, *register.deletes) if each.operation.type == "ok"]
        writes.sort(key=lambda each: each.operation.end)
        self._ends = [each.operation.end for each in writes]
        self.first = self._ends[0] if writes else INFINITY
        self._latest = _running_best(writes, lambda each: each.begin)
        self._changed = _running_best(writes, lambda each: None if each.operation.f == "delete" else each.begin)
        self._newest = _running_best(writes, lambda each: each.version)

    def missed(self, seen: State, limit: float, end: float) -> Write | None:
        """Return a write that was acknowledged before `limit` and that a read until `end` misses, None if there is none."""
        count = bisect_left(self._ends, limit)
        if not count:
            return None
        candidates = [self._changed] if seen.missing else [self._latest, self._newest]
        for write in (each[count - 1] for each in candidates):
            if write is not None and self._register.misses(seen, write, end):
                return write
        return None

    def add_fine(self, value: Any, limit: float) -> None:
        """Add the value of a list that misses nothing which was acknowledged before `limit`."""
        count = bisect_left(self._ends, limit)
        self.fine = value
        self.fine_from = self._ends[count - 1]
        self.fine_until = self._ends[count] if count < len(self._ends) else INFINITY


def _running_best(writes: list[Write], rank: Callable[[Write], float | None]) -> list[Write | None]:
    """Return, for each of the writes, the one of highest rank among it and those before it."""
    best: Write | None = None
    highest = -INFINITY
    found: list[Write | None] = []
    for each in writes:
        ranked = rank(each)
        if ranked is not None and ranked >= highest:
            best, highest = each, ranked
        found.append(best)
    return found


def bounded_staleness(seconds: float, under_fault: float | None = None) -> BoundedStaleness:
    """Return the checker that no read is older than its bound.

    Args:
        seconds: the bound without a fault, 0 or more.
        under_fault: the bound under a fault, `seconds` or more. None for no bound. Default None.

    Raises:
        SetupError: a bound is negative, or the one under a fault is lower.
    """
    return BoundedStaleness(seconds, under_fault)
