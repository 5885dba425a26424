"""The writes that Redis has missed.

The newest write to each key is kept until Redis has it. The number of keys is bounded. Beyond the bound, nothing that
Redis holds can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from .memory_cache import Stamp


class PendingWrites:
    """Keys with the stamp of their newest write, or None for a write that may or may not have happened.

    Args:
        max_keys: largest number of keys.

    Attributes:
        overflowed: True if more keys were missed than `max_keys`. All copies in Redis must be deleted before the next read.
    """

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
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
        """Forget writes that Redis now has. A newer write to one of these keys stays pending."""
        for key, stamp in delivered:
            if key in self._stamps and self._stamps[key] == stamp:
                del self._stamps[key]

    def reset(self) -> None:
        """Forget all writes, because all copies in Redis are about to be deleted."""
        self._stamps.clear()
        self.overflowed = False
