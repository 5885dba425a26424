"""latency: hold each chunk for a time."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import SAME, Scheduled, Toxic, ToxicContext


class Latency(Toxic):
    """Hold each chunk for `delay` seconds from its arrival, give or take `jitter`. Keep the order, and lose nothing.

    A stream is shifted, not slowed, and its end follows the last chunk.

    Args:
        delay: seconds, at least 0.
        jitter: seconds, at least 0. It never makes the delay negative.
        distribution: uniform in delay ± jitter; normal with jitter as its standard deviation; or pareto, which is never less than
            the delay and has a long tail, by jitter / 2 more on average. Toxiproxy has uniform only.
    """

    __slots__ = ("delay", "distribution", "jitter", "touches_all")

    capacity = 1024  # as in Toxiproxy, where this is the only toxic with a queue

    def __init__(self, *, delay: float = 0.0, jitter: float = 0.0, distribution: str = "uniform") -> None:
        self.delay = delay
        self.distribution = distribution
        self.jitter = jitter
        self.touches_all = delay > 0 or jitter > 0

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        delay = self.delay
        if self.jitter:
            delay = max(0.0, delay + self._draw(context))
        return ((arrived + delay, chunk, SAME),)

    def _draw(self, context: ToxicContext) -> float:
        if self.distribution == "normal":
            return context.random.normalvariate(0.0, self.jitter)
        if self.distribution == "pareto":
            return self.jitter * (context.random.paretovariate(3.0) - 1.0)  # its mean is 1.5
        return context.random.uniform(-self.jitter, self.jitter)
