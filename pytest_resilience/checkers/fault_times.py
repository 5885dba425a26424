"""The times in which faults of a history last."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ..history import History
from .registers import INFINITY


class FaultTimes:
    """The times from strike to heal, merged where faults overlap.

    Args:
        history: the history.
    """

    def __init__(self, history: History) -> None:
        self._strikes: list[float] = []
        self._heals: list[float] = []
        for fault in sorted(history.faults, key=lambda each: each.struck_at):
            healed = INFINITY if fault.healed_at is None else fault.healed_at
            if self._heals and fault.struck_at <= self._heals[-1]:
                self._heals[-1] = max(self._heals[-1], healed)
            else:
                self._strikes.append(fault.struck_at)
                self._heals.append(healed)

    def overlap(self, begin: float, end: float, extra: float = 0.0) -> bool:
        """True if a fault lasted at any time between two times, or was healed at most `extra` seconds before `begin`."""
        return bisect_left(self._heals, begin - extra) < bisect_right(self._strikes, end)

    def last_heal(self, time: float) -> float | None:
        """Return the last heal at or before a time, None if there is none or if a fault lasts at that time."""
        if self.overlap(time, time):
            return self._heals[-1] if self._heals and self._heals[-1] == time else None
        count = bisect_right(self._heals, time)
        return self._heals[count - 1] if count else None
