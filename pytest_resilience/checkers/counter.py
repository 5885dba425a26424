"""The checker of counters."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from ..history import History
from ..operation import Operation, Verdict
from .checker import MAX_WITNESS, Checker
from .numbers import TOLERANCE, number

OTHERS = {"update", "delete"}  # whatever a key with one of these is, the sum of its adds is not its value


class _Sums:
    """The sum of amounts up to a moment.

    Args:
        amounts: pairs of a moment and the amount that is added at it.
    """

    def __init__(self, amounts: Iterable[tuple[float, float]]) -> None:
        ordered = sorted(amounts)
        self._moments = [moment for moment, _ in ordered]
        self._sums = [0, *accumulate(amount for _, amount in ordered)]

    def before(self, moment: float) -> float:
        """Return the sum of the amounts before a moment, without those at it."""
        return self._sums[bisect_left(self._moments, moment)]

    def until(self, moment: float) -> float:
        """Return the sum of the amounts up to a moment, with those at it."""
        return self._sums[bisect_right(self._moments, moment)]


class _Bounds:
    """The least and the greatest value that a read of one counter can return.

    Args:
        adds: the adds of the counter that did not fail, each with its amount.
    """

    def __init__(self, adds: list[tuple[Operation, float]]) -> None:
        self._done_up, self._begun_up = self._sums([each for each in adds if each[1] > 0])
        self._done_down, self._begun_down = self._sums([each for each in adds if each[1] < 0])

    @staticmethod
    def _sums(adds: list[tuple[Operation, float]]) -> tuple[_Sums, _Sums]:
        done = _Sums((each.end, amount) for each, amount in adds if each.type == "ok")
        return done, _Sums((each.time, amount) for each, amount in adds)

    def of(self, read: Operation) -> tuple[float, float]:
        """Return the bounds of a read."""
        least = self._done_up.before(read.time) + self._begun_down.until(read.end)
        return least, self._begun_up.until(read.end) + self._done_down.before(read.time)


@dataclass(frozen=True)
class Counter(Checker):
    """Each read of a counter lies between two sums of adds.

    The least value is the sum of the ok adds that had ended before the read began. The greatest is the sum of the adds that had
    begun before the read ended, without those that failed. Negative amounts count the other way around.

    Each key with an "add" is a counter, and so is the key None. It begins at 0 or at the number of its "create". An add without
    a value adds 1. A read of None is a read of 0. A key that is also updated or deleted is no counter.

    Cost: O(n log n). Unknown: no counter has an ok read with a number.
    Source: Jepsen's `checker/counter`, with negative amounts.
    """

    name: ClassVar[str] = "counter"

    def judge(self, history: History) -> Verdict:
        adds, reads = _by_key(history.operations)
        judged = False
        for key in adds:
            bounds = _Bounds(adds[key])
            for read, value in reads.get(key, ()):
                judged = True
                least, greatest = bounds.of(read)
                slack = TOLERANCE * max(1.0, abs(least), abs(greatest))
                if not least - slack <= value <= greatest + slack:
                    return self._broken(read, value, least, greatest, [each for each, _ in adds[key]])
        return self.ok() if judged else self.unknown("no read of a counter succeeded")

    def _broken(self, read: Operation, value: float, least: float, greatest: float, adds: list[Operation]) -> Verdict:
        subject = "the counter" if read.key is None else f"counter {read.key}"
        seen = f"{subject} was read as {value} from {read.time:.3f} s to {read.end:.3f} s"
        if value < least:
            why = f"{seen}, but adds up to {least} had been acknowledged before"
            proof = [each for each in adds if each.type == "ok" and each.end < read.time]
        else:
            why = f"{seen}, but all adds that had begun by then make at most {greatest}"
            proof = [each for each in adds if each.time <= read.end]
        return self.violated(why, [*sorted(proof, key=lambda each: each.end)[1 - MAX_WITNESS :], read])


Amounts = dict[str | None, list[tuple[Operation, float]]]


def _by_key(operations: list[Operation]) -> tuple[Amounts, Amounts]:
    """Return the adds that did not fail and the ok reads of each counter, with their numbers."""
    adds: Amounts = {each.key: [] for each in operations if each.f == "add"}
    for key in {each.key for each in operations if each.f in OTHERS}:
        adds.pop(key, None)
    reads: Amounts = {}
    for each in operations:
        if each.key not in adds:
            continue
        if each.f == "read" and each.type == "ok":
            _append(reads.setdefault(each.key, []), each, 0)
        elif each.f in ("add", "create") and each.type != "fail":
            _append(adds[each.key], each, 1 if each.f == "add" else 0)
    return adds, reads


def _append(amounts: list[tuple[Operation, float]], operation: Operation, default: int) -> None:
    """Append an operation with its number, or with `default` for None. Leave out a value that is no number."""
    amount = default if operation.value is None else number(operation.value)
    if amount is not None:
        amounts.append((operation, amount))


def counter() -> Counter:
    """Return the checker that reads of counters lie between the acknowledged and the attempted adds."""
    return Counter()
