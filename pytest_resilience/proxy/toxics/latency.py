"""latency: hold each chunk for a while."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import Scheduled, Toxic, ToxicState


class Latency(Toxic):
    """Hold each chunk for `delay` seconds from its arrival, give or take `jitter`. Keeps the order, loses nothing.

    A stream is shifted, not slowed, and its end follows the last chunk.

    Args:
        delay: seconds, at least 0.
        jitter: seconds, at least 0; the delay is never below 0 for it.
        distribution: uniform in delay ± jitter; normal with jitter as its standard deviation; or pareto, never less than
            the delay and with a long tail: by jitter / 2 more on average. The last two are additions of ours.
    """

    __slots__ = ("delay", "distribution", "jitter", "touches_all")

    capacity = 1024  # as Toxiproxy's, the only toxic there that has a queue

    def __init__(self, *, delay: float = 0.0, jitter: float = 0.0, distribution: str = "uniform") -> None:
        self.delay = delay
        self.distribution = distribution
        self.jitter = jitter
        self.touches_all = delay > 0 or jitter > 0

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        delay = self.delay
        if self.jitter:
            delay = max(0.0, delay + self._draw(memory))
        return ((arrived + delay, chunk),)

    def _draw(self, memory: ToxicState) -> float:
        if self.distribution == "normal":
            return memory.random.normalvariate(0.0, self.jitter)
        if self.distribution == "pareto":
            return self.jitter * (memory.random.paretovariate(3.0) - 1.0)  # its mean is 1.5
        return memory.random.uniform(-self.jitter, self.jitter)
