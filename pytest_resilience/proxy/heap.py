"""The bound on what toxics hold, and giving the memory back afterwards.

A latency toxic queues what its source sends, and a destination that does not read lets the queues of all connections fill up.
"""

from __future__ import annotations

MAX_HELD_BYTES = 64 << 20
"""Bytes that the toxics of one proxy queue, over all its connections."""

MIN_HELD_BYTES = 64 << 10
"""Bytes that each toxic may queue on each connection, however many connections there are."""

CHECK_INTERVAL = 1.0
"""Seconds between two looks whether what was held has gone."""


def release_free_memory() -> None:
    """Give free memory back to the operating system, where the C library can do that (glibc).

    The queues are made of chunks that the C library keeps for later use when they are freed.
    """
    import ctypes  # takes 10 ms to load; a proxy that never held much does without

    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
