"""The checker that a fault's answer does not outlive the fault."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..history import History
from ..operation import Operation, Verdict
from .checker import Checker
from .fault_times import FaultTimes
from .origins import Origins
from .registers import INFINITY, Acknowledged, Registers, entries, hashable
from .sentences import by, distinct, shown

FROM_CACHE = ("hit", "stale")  # states of a read that the store has not answered
NO_ANSWER = ("Timeout", "Connect", "Cancel", "Network", "Protocol", "BrokenPipe", "ReadError", "WriteError", "EOF")


@dataclass(frozen=True)
class NoCachedErrors(Checker):
    """A fault's answer does not outlive the fault.

    A read is *late* if no fault lasted during it and it began more than `within` seconds after the last heal. It is a
    violation if it repeats what a read of its key has shown while a fault lasted, namely

    - an error, if the read's state says that a cache has answered ("hit" or "stale"), if since the heal the store had answered
      a read of the key, or if it had answered one of another key between two late reads of the key with this error, between
      which none of the key had succeeded. An answer of the store is an ok read with another state. An error without an answer,
      such as a timeout or a refused connection, cannot come from a cache and does not count.
    - no object, though an acknowledged create or update precedes the read, no delete can have come after that, and a read or
      list since the heal has shown the object. Lists likewise: one that equals a list under a fault and lacks such an object.
    - a value that no operation wrote, that cannot have existed before the history (`no_phantoms`), and that was read for the
      first time while a fault lasted: a default or the text of an error.

    A read that fails for the first time after the heal is the business of `recovered`, and a lost object that of
    `no_lost_writes`. A system that refuses reads at random, without a fault, breaks this promise too.

    Unknown if there is no late read. O(n log n) for n operations and list entries.

    Source: negative caching in RFC 2308, whose section 7 limits the time for which a server failure may be cached.

    Args:
        within: seconds after the last heal in which a fault's answer may still be read, 0 or more. Default 0.
    """

    within: float = 0.0
    name: ClassVar[str] = "no_cached_errors"

    def judge(self, history: History) -> Verdict:
        reads = _Reads(history, self.within)
        if not reads.late:
            return self.unknown(
                "no read began after the last heal, and the time after it in which errors may be cached"
            )
        for read, heal in reads.late:
            if found := reads.repeated_error(read, heal) or reads.repeated_absence(read, heal):
                return self._cached(read, heal, *found)
            if found := reads.repeated_list(read, heal) or reads.repeated_value(read):
                return self._cached(read, heal, *found)
        return self.ok()

    def _cached(
        self, read: Operation, heal: float, key: str, what: str, first: Operation, proof: Operation | None
    ) -> Verdict:
        because = "" if proof is None else f", and {by(proof)} was answered"
        return self.violated(
            f"key {key}: {by(read)} shows {what} {read.time - heal:.3f} s after the last heal, as {by(first)} did under a "
            f"fault{because}",
            distinct(each for each in (first, proof, read) if each is not None),
        )


Found = tuple[str, str, Operation, Operation | None]  # key, what the read shows, the read under a fault, the proof


class _Reads:
    """The reads of a history, under a fault and after it.

    Attributes:
        late: the late reads, each with the last heal before it.
    """

    def __init__(self, history: History, within: float) -> None:
        self.registers = Registers(history)
        faults = FaultTimes(history)
        struck = min((each.struck_at for each in history.faults), default=INFINITY)
        self.late: list[tuple[Operation, float]] = []
        self._errors: dict[tuple[str, str], Operation] = {}
        self._absent: dict[str, Operation] = {}
        self._lists: dict[int, list[Operation]] = {}
        for read in self.registers.operations:
            if read.f not in ("read", "list") or read.type == "info":
                continue
            if faults.overlap(read.time, read.end):
                self._add_under_fault(read)
                continue
            heal = faults.last_heal(read.time)
            if heal is not None and read.time - heal > within:
                self.late.append((read, heal))
        self._answers = _Answers(self.registers.reads)
        self._failing: dict[str, Operation] = {}
        self._acknowledged: dict[str, Acknowledged] = {}
        self._values = self._unwritten(faults, Origins(self.registers, struck))

    def _add_under_fault(self, read: Operation) -> None:
        if read.type == "fail":
            if read.key is not None and _is_answer(read.error):
                self._errors.setdefault((read.key, read.error or ""), read)
        elif read.f == "list":
            self._lists.setdefault(len(entries(read)), []).append(read)
        elif read.key is not None and not entries(read):
            self._absent.setdefault(read.key, read)

    def _unwritten(self, faults: FaultTimes, origins: Origins) -> dict[tuple[str, Hashable], Operation]:
        """Return the values that no operation wrote and that appeared under a fault, each with the first read of it."""
        found: dict[tuple[str, Hashable], Operation] = {}
        for read, key, value in origins.first_reads():
            if origins.is_written(value, read) or origins.failed_before(value, read):
                continue
            if not origins.may_be_old(key, value, read) and faults.overlap(read.time, read.end):
                found[key, value] = read
        return found

    def repeated_error(self, read: Operation, heal: float) -> Found | None:
        """Return how a late read repeats an error. Call it in the order of the reads."""
        key = read.key
        if key is None or read.f != "read":
            return None
        if read.type != "fail":
            self._failing.pop(key, None)
            return None
        first = self._errors.get((key, read.error or ""))
        if first is None:
            return None
        before = self._failing.get(key)
        self._failing.setdefault(key, read)
        proof = self._answers.of_key(key, heal, read.time)
        if proof is None and before is not None and before.error == read.error and before.time > heal:
            proof = self._answers.of_any(before.end, read.time)
        cached = proof is not None or read.state in FROM_CACHE
        return (key, f"the error {read.error}", first, proof) if cached else None

    def repeated_absence(self, read: Operation, heal: float) -> Found | None:
        """Return how a late read repeats that there is no object."""
        key = read.key
        if read.f != "read" or read.type != "ok" or key is None or key not in self._absent or entries(read):
            return None
        proof = self._proof(key, read, heal)
        return None if proof is None else (key, "no object", self._absent[key], proof)

    def repeated_list(self, read: Operation, heal: float) -> Found | None:
        """Return how a late list repeats a list that lacks an object."""
        if read.f != "list" or read.type != "ok":
            return None
        found = entries(read)
        first = next((each for each in self._lists.get(len(found), []) if entries(each) == found), None)
        if first is None:
            return None
        for key in [each for each in self.registers.keys if each not in found]:
            if proof := self._proof(key, read, heal):
                return key, "a list without it", first, proof
        return None

    def _proof(self, key: str, read: Operation, heal: float) -> Operation | None:
        """Return a read since the heal that has shown an object which a late read does not show, though it exists."""
        register = self.registers[key]
        if key not in self._acknowledged:
            self._acknowledged[key] = Acknowledged(register.changes)
        write = self._acknowledged[key].before(read.time)
        if write is None or not register.lacks(write, read.end):
            return None
        return self._answers.that_shows(key, heal)

    def repeated_value(self, read: Operation) -> Found | None:
        """Return how a late read repeats a value that no operation wrote."""
        if read.type != "ok" or not self._values:
            return None
        for key, value in entries(read).items():
            if value is not None and (first := self._values.get((key, hashable(value)))):
                return key, shown(value), first, None
        return None


class _Answers:
    """The reads that have succeeded, and those among them that the store has answered."""

    def __init__(self, reads: Iterable[Operation]) -> None:
        self._objects: defaultdict[str, list[Operation]] = defaultdict(list)
        self._lists: list[Operation] = []
        self._of_key: defaultdict[str, list[Operation]] = defaultdict(list)
        self._all: list[Operation] = []
        for read in reads:
            if read.f == "list":
                self._lists.append(read)
            elif read.key is not None and entries(read):
                self._objects[read.key].append(read)
            if read.state not in FROM_CACHE:
                self._all.append(read)
                if read.f == "read" and read.key is not None:
                    self._of_key[read.key].append(read)

    def of_key(self, key: str, begin: float, end: float) -> Operation | None:
        """Return an answer of the store for a key between two times."""
        return _between(self._of_key.get(key, []), begin, end)

    def of_any(self, begin: float, end: float) -> Operation | None:
        """Return an answer of the store for any key between two times."""
        return _between(self._all, begin, end)

    def that_shows(self, key: str, begin: float) -> Operation | None:
        """Return a read or list since a time that shows the object of a key."""
        found = _between(self._objects.get(key, []), begin, INFINITY)
        if found is not None:
            return found
        lists = self._lists[bisect_left(self._lists, begin, key=lambda each: each.time) :]
        return next((each for each in lists if key in entries(each)), None)


def _between(reads: list[Operation], begin: float, end: float) -> Operation | None:
    """Return the first of the reads, which are in the order of their begins, that began and ended between two times."""
    index = bisect_left(reads, begin, key=lambda each: each.time)
    while index < len(reads) and reads[index].time < end:
        if reads[index].end < end:
            return reads[index]
        index += 1
    return None


def _is_answer(error: str | None) -> bool:
    return not any(word in (error or "").partition(":")[0] for word in NO_ANSWER)


def no_cached_errors(within: float = 0.0) -> NoCachedErrors:
    """Return the checker that a fault's answer does not outlive the fault.

    Args:
        within: seconds after the last heal in which a fault's answer may still be read, 0 or more. Default 0.
    """
    return NoCachedErrors(within)
