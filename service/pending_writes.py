"""What Redis has missed: the newest write to each key, until Redis has got it. Bounded: beyond that, all of Redis is in doubt."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from .memory_cache import Stamp


class PendingWrites:
    """Keys with the stamp of their newest write; None is for a write that may or may not have happened.

    Args:
        max_keys: keys that are remembered, at most.

    Attributes:
        overflowed: more was missed than can be remembered. All that Redis holds must go before it is read again.
    """

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._stamps: dict[int, Stamp | None] = {}
        self.overflowed = False

    def __contains__(self, key: int) -> bool:
        return self.overflowed or key in self._stamps

    def __bool__(self) -> bool:
        return self.overflowed or bool(self._stamps)

    def add(self, key: int, stamp: Stamp | None) -> Stamp | None:
        """Remember a write. Returns what is owed for the key now: the newest, and None once there was a doubt."""
        if key in self._stamps:
            earlier = self._stamps[key]
            stamp = None if earlier is None or stamp is None else max(earlier, stamp)
        elif len(self._stamps) >= self._max_keys:
            self.overflowed = True
            return stamp
        self._stamps[key] = stamp
        return stamp

    def next_batch(self, count: int) -> list[tuple[int, Stamp | None]]:
        """The first so many."""
        return list(islice(self._stamps.items(), count))

    def acknowledge(self, delivered: Iterable[tuple[int, Stamp | None]]) -> None:
        """Redis has these now. What was written to the same keys since then stays owed."""
        for key, stamp in delivered:
            if key in self._stamps and self._stamps[key] == stamp:
                del self._stamps[key]

    def reset(self) -> None:
        """All that Redis holds is about to be deleted: only what is written from now on is owed."""
        self._stamps.clear()
        self.overflowed = False
