"""The bound on the bytes that toxics hold, and the release of their memory afterwards.

A latency toxic queues what its source sends, and a destination that does not read lets the queues of all connections fill up.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from .event_loop import EventLoop, Timer

MAX_HELD_BYTES = 64 << 20
"""Bytes that the toxics of one proxy queue, over all its connections."""

MIN_HELD_BYTES = 64 << 10
"""Bytes that each toxic may queue on each connection, however many connections there are."""

CHECK_INTERVAL = 1.0
"""Seconds between two checks of how much is held."""


class HeldMemory:
    """The memory that the toxics of one proxy hold.

    Args:
        connections: the proxy's connections, which share the bound.
        toxics: the proxy's toxics, which share it as well.
        queued_bytes: returns the bytes that wait in the queues of all toxics now.
    """

    def __init__(self, loop: EventLoop, connections: Sized, toxics: Sized, queued_bytes: Callable[[], int]) -> None:
        self._loop = loop
        self._connections = connections
        self._toxics = toxics
        self._queued_bytes = queued_bytes
        self._timer: Timer | None = None
        self._peak = 0  # the most bytes that were held since memory was last released

    def queue_limit(self) -> int:
        """Return the bytes that one toxic may queue on one direction of one connection."""
        shares = max(1, len(self._connections)) * max(1, len(self._toxics))
        return max(MIN_HELD_BYTES, MAX_HELD_BYTES // shares)

    def watch(self) -> None:
        """Check once a second how much is held, and release memory when it is less than half of the peak.

        The checks end when little is held.
        """
        if self._timer is None:
            self._peak = max(self._peak, MIN_HELD_BYTES + 1)
            self._timer = self._loop.call_at(self._loop.now() + CHECK_INTERVAL, self._check)

    def add_freed(self, held: int) -> None:
        """Take account of bytes that a connection held when it closed."""
        if held > MIN_HELD_BYTES:
            self._peak += held  # they are free now, whatever the last check found

    def _check(self) -> None:
        self._timer = None
        queued = self._queued_bytes()
        if queued < self._peak // 2:
            release_free_memory()
            self._peak = queued
        self._peak = max(self._peak, queued)
        if self._peak > MIN_HELD_BYTES:
            self.watch()
        else:
            self._peak = 0


def release_free_memory() -> None:
    """Return free memory to the operating system, where the C library can do that (glibc).

    The C library keeps the chunks of the queues for later use when they are freed.
    """
    import ctypes  # takes 10 ms to load; a proxy that never held much does without

    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
