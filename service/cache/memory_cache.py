"""The in-memory cache, which serves reads while Redis is down. Its entries and bytes are bounded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

OVERHEAD = 400  # bytes that an entry costs in addition to its body: dict slot, key, objects (measured 192 to 532)

Stamp = tuple[int, int]
"""(created, version), which grows with every change of a row.

A row that reuses the number of a deleted row is newer, because it was created later.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """The stamp of one row and the body of its response."""

    stamp: Stamp
    body: bytes


@dataclass(slots=True)
class CachedEntry:
    """An entry in memory and the time at which Postgres returned it."""

    entry: Entry
    loaded_at: float

    @property
    def size(self) -> int:
        return len(self.entry.body) + OVERHEAD


class MemoryCache:
    """A least-recently-used cache that keeps entries for `lifetime` seconds, fresh or stale.

    Args:
        max_entries: largest number of entries.
        max_bytes: largest total size in bytes, overhead included.
        fresh_for: seconds for which an entry is served without a query to Postgres.
        lifetime: seconds for which an entry is kept, to be served as stale.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int,
        fresh_for: float,
        lifetime: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._fresh_for = fresh_for
        self._lifetime = lifetime
        self._clock = clock
        self._entries: OrderedDict[int, CachedEntry] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: int, entry: Entry, age: float = 0.0) -> None:
        """Keep `entry`, which Postgres returned `age` seconds ago. An older version never replaces a newer one."""
        loaded_at = self._clock() - age
        old = self._entries.get(key)
        if old is not None:
            if old.entry.stamp > entry.stamp:
                return
            if old.entry.stamp == entry.stamp:
                loaded_at = max(loaded_at, old.loaded_at)
            self.drop(key)
        cached = CachedEntry(entry, loaded_at)
        if cached.size > self._max_bytes:
            return
        self._entries[key] = cached
        self.bytes += cached.size
        self._shrink_to(self._max_entries, self._max_bytes)

    def get(self, key: int) -> Entry | None:
        """Return the entry, fresh or stale. None if there is none or its lifetime is over."""
        cached = self._entries.get(key)
        if cached is None:
            return None
        if self._clock() - cached.loaded_at >= self._lifetime:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return cached.entry

    def get_fresh(self, key: int) -> Entry | None:
        """Return the entry if it is fresh, else None."""
        entry = self.get(key)
        if entry is None or self._clock() - self._entries[key].loaded_at >= self._fresh_for:
            return None
        return entry

    def age(self, key: int) -> float | None:
        """Return the seconds since Postgres returned the entry. None if there is no entry."""
        cached = self._entries.get(key)
        return None if cached is None else self._clock() - cached.loaded_at

    def mark_uncertain(self, key: int) -> None:
        """Make the entry stale, because a write to its row may have happened."""
        cached = self._entries.get(key)
        if cached is not None:
            cached.loaded_at = min(cached.loaded_at, self._clock() - self._fresh_for)

    def drop(self, key: int) -> None:
        cached = self._entries.pop(key, None)
        if cached is not None:
            self.bytes -= cached.size

    def evict_half(self) -> int:
        """Evict the least recently used entries until half the bytes are left. Return the number evicted."""
        before = len(self._entries)
        self._shrink_to(self._max_entries, self.bytes // 2)
        return before - len(self._entries)

    def remove_expired(self) -> None:
        """Drop every entry that has outlived its lifetime."""
        oldest = self._clock() - self._lifetime
        for key in [key for key, cached in self._entries.items() if cached.loaded_at <= oldest]:
            self.drop(key)

    def _shrink_to(self, max_entries: int, max_bytes: int) -> None:
        while self._entries and (len(self._entries) > max_entries or self.bytes > max_bytes):
            _, cached = self._entries.popitem(last=False)
            self.bytes -= cached.size
