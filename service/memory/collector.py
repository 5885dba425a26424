"""The collection of garbage, and the statistics before and after.

Statistics, in bytes until they are printed (1 MB is 2^20 bytes):
    heap        Python objects up to 512 bytes: bytes in use and bytes reserved (pymalloc's arenas)
    external    all other memory from malloc: larger objects, buffers, C libraries
    RSS         memory that the kernel counts as resident
The heap fills its arenas to nearly 100 % in any healthy process, so the guard compares use with a limit instead.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from . import malloc
from .malloc import MIB
from .usage import MemoryUsage, process_memory

RESERVE_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """One reading of all statistics. `heap_*` and `external` are None on platforms that do not report them."""

    rss: int
    heap_used: int | None
    heap_total: int | None
    external: int | None

    def log_line(self, usage: MemoryUsage) -> str:
        """Return the log line of the statistics."""
        parts = [f"RSS: {format_mb(self.rss)}"]
        if self.heap_used is not None and self.heap_total:
            share = 100 * self.heap_used / self.heap_total
            parts.append(f"Heap: {self.heap_used / MIB:.2f}/{format_mb(self.heap_total)} ({share:.2f}%)")
        if self.external is not None:
            parts.append(f"External: {format_mb(self.external)}")
        parts.append(f"Limit: {usage.used / MIB:.2f}/{format_mb(usage.limit)} ({100 * usage.ratio:.2f}%)")
        return "[Memory Stats] " + " | ".join(parts)


@dataclass(frozen=True, slots=True)
class GcResult:
    """The bytes that a collection freed, as before minus after. Negative if use has grown."""

    heap: int
    external: int
    rss: int
    seconds: float

    def log_line(self) -> str:
        return (
            f"[GC] Freed {format_mb(self.heap)} heap, {format_mb(self.external)} external, {format_mb(self.rss)} total"
        )


@dataclass(slots=True)
class GcTotals:
    """The sums over all collections so far.

    Attributes:
        collections: number of collections.
        seconds: for which they blocked the event loop.
        freed: bytes of heap and external memory. A collection during which use has grown adds nothing.
    """

    collections: int = 0
    seconds: float = 0.0
    freed: int = 0

    def add(self, result: GcResult) -> None:
        """Add one collection."""
        self.collections += 1
        self.seconds += result.seconds
        self.freed += max(0, result.heap + result.external)


def format_mb(size: int) -> str:
    """Return a size in bytes as text in MB for the log."""
    return f"{size / MIB:.2f}MB"


class GarbageCollector:
    """A garbage collector that returns free pages to the kernel.

    Args:
        clock: measures how long a collection blocks the event loop, in seconds.

    Attributes:
        totals: of all collections so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="malloc-trim")
        self._reserve: mmap.mmap | None = None
        self._last_rss = 0
        self.totals = GcTotals()
        self._not_before = 0.0

    def start(self) -> None:
        """Start the thread, hold the reserve, and freeze all present objects, while there is enough memory."""
        self._executor.submit(malloc.trim).result()
        self.hold_reserve()
        gc.collect()
        gc.freeze()
        gc.enable()  # __main__ has disabled it for the start
        self._last_rss = process_memory().rss

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.release_reserve()

    def hold_reserve(self) -> None:
        """Reserve address space to release when an allocation fails. The pages stay untouched and cost no memory."""
        if self._reserve is None:
            with suppress(OSError, ValueError):
                self._reserve = mmap.mmap(-1, RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def release_reserve(self) -> None:
        """Release the reserve, so that essential work can allocate."""
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            reserve.close()

    def reserve_spent(self) -> int:
        """Return the bytes of the reserve that are not held."""
        return 0 if self._reserve is not None else RESERVE_BYTES

    async def collect(self, evict: Callable[[], object] = lambda: None) -> GcResult:
        """Collect all garbage and trim the heap. Only the collection blocks the event loop, and the trim does not.

        Args:
            evict: called first, to release memory that can be spared.
        """
        before = read_memory_stats()
        evict()
        started = self._clock()
        gc.collect()
        seconds = self._clock() - started
        await asyncio.get_running_loop().run_in_executor(self._executor, malloc.trim)
        after = read_memory_stats()
        self._last_rss = after.rss
        self._not_before = started + 100 * seconds
        result = GcResult(
            (before.heap_used or 0) - (after.heap_used or 0),
            (before.external or 0) - (after.external or 0),
            before.rss - after.rss,
            seconds,
        )
        self.totals.add(result)
        return result

    def is_worthwhile(self) -> bool:
        """Return True if memory has changed since the last collection and collections take at most 1 % of the time."""
        moved = gc.get_count()[2] > 0 or abs(process_memory().rss - self._last_rss) > MIB
        return moved and self._clock() >= self._not_before


def read_memory_stats() -> MemoryStats:
    """Read all statistics."""
    used, total = malloc.heap_bytes()
    return MemoryStats(process_memory().rss, used, total, malloc.external_bytes())
