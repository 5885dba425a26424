"""latency: hold each chunk for a while."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import Due, Memory, Toxic


class Latency(Toxic):
    """Hold each chunk for `delay` seconds from its arrival, give or take `jitter`. Keeps the order, loses nothing.

    A stream is shifted, not slowed, and its end follows the last chunk.

    Args:
        delay: seconds, at least 0.
        jitter: seconds, at least 0; the delay is uniform in delay ± jitter, and never below 0.
    """

    __slots__ = ("delay", "jitter", "touches_all")

    capacity = 1024  # as Toxiproxy's, the only toxic there that has a queue

    def __init__(self, *, delay: float = 0.0, jitter: float = 0.0) -> None:
        self.delay = delay
        self.jitter = jitter
        self.touches_all = delay > 0 or jitter > 0

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: Memory) -> Iterable[Due]:
        delay = self.delay
        if self.jitter:
            delay = max(0.0, delay + memory.random.uniform(-self.jitter, self.jitter))
        return ((arrived + delay, chunk),)
