"""The writes that Redis has missed, and the newest ones that it has taken.

The newest write to each key is kept until Redis has it. The number of keys is bounded. Beyond the bound, nothing that
Redis holds can be trusted. Redis may lose what it has taken, as in a restart from an older snapshot, so the stamps of
the last writes stay for a comparison.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from .memory_cache import Stamp


class PendingWrites:
    """Keys with the stamp of their newest write, or None for a write that may or may not have happened.

    Args:
        max_keys: largest number of keys.
        max_taken: largest number of keys whose last write Redis has taken.

    Attributes:
        overflowed: True if more keys were missed than `max_keys`. All copies in Redis must be deleted before the next read.
    """

    def __init__(self, max_keys: int, max_taken: int) -> None:
        self._max_keys = max_keys
        self._max_taken = max_taken
        self._taken: OrderedDict[int, Stamp] = OrderedDict()
        self._stamps: dict[int, Stamp | None] = {}
        self.overflowed = False

    def __contains__(self, key: int) -> bool:
        return self.overflowed or key in self._stamps

    def __len__(self) -> int:
        return len(self._stamps)

    def __bool__(self) -> bool:
        return self.overflowed or bool(self._stamps)

    def add(self, key: int, stamp: Stamp | None) -> Stamp | None:
        """Remember a write.

        Returns:
            the newest stamp of the key, or None if one of its writes is uncertain.
        """
        if key in self._stamps:
            earlier = self._stamps[key]
            stamp = None if earlier is None or stamp is None else max(earlier, stamp)
        elif len(self._stamps) >= self._max_keys:
            self.overflowed = True
            return stamp
        self._stamps[key] = stamp
        return stamp

    def next_batch(self, count: int) -> list[tuple[int, Stamp | None]]:
        """Return the first `count` writes."""
        return list(islice(self._stamps.items(), count))

    def acknowledge(self, delivered: Iterable[tuple[int, Stamp | None]]) -> None:
        """Forget writes that Redis now has, but for their stamps. A newer write to one of these keys stays pending."""
        for key, stamp in delivered:
            if key in self._stamps and self._stamps[key] == stamp:
                del self._stamps[key]
                if stamp is not None:
                    self._remember_taken(key, stamp)

    def _remember_taken(self, key: int, stamp: Stamp) -> None:
        self._taken[key] = stamp
        self._taken.move_to_end(key)
        if len(self._taken) > self._max_taken:
            self._taken.popitem(last=False)

    def add_lost(self, key: int, found: Stamp) -> bool:
        """Make the last write to a key pending again if Redis has taken it and now has an older copy.

        Args:
            key: of the copy.
            found: the stamp of the copy.

        Returns:
            True if Redis has lost the write.
        """
        taken = self._taken.get(key)
        if taken is None or taken <= found:
            return False
        self.add(key, taken)
        return True

    def reset(self) -> None:
        """Forget all writes, because all copies in Redis are about to be deleted."""
        self._stamps.clear()
        self.overflowed = False
