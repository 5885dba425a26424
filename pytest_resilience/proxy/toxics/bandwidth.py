"""bandwidth: limit the bytes per second."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import NEVER, SAME, Scheduled, Toxic, ToxicContext

STEP = 0.1
"""Seconds. A chunk that takes longer goes on in pieces of this length, as Toxiproxy cuts it."""


class Bandwidth(Toxic):
    """Pass `rate_bytes_per_s`, per connection and direction. Keep the order, and lose nothing.

    Args:
        rate_bytes_per_s: 0, the default as in Toxiproxy, passes nothing and holds everything until the toxic is removed.
    """

    __slots__ = ("rate",)

    touches_all = True

    def __init__(self, *, rate_bytes_per_s: float = 0.0) -> None:
        self.rate = rate_bytes_per_s

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        if not self.rate:
            return ((NEVER, chunk, SAME),)
        step = max(1, int(self.rate * STEP))
        return [
            (now + min(start + step, len(chunk)) / self.rate, chunk[start : start + step], SAME)
            for start in range(0, len(chunk), step)
        ]
