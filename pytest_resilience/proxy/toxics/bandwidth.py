"""bandwidth: so many bytes per second and no more."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import NEVER, Scheduled, Toxic, ToxicState

STEP = 0.1
"""Seconds: a chunk that takes longer goes in pieces of this length, as Toxiproxy cuts it."""


class Bandwidth(Toxic):
    """Let `rate_bytes_per_s` pass, per connection and direction. Keeps the order, loses nothing.

    Args:
        rate_bytes_per_s: 0, the default as in Toxiproxy, lets nothing pass and keeps everything until the toxic goes.
    """

    __slots__ = ("rate",)

    touches_all = True

    def __init__(self, *, rate_bytes_per_s: float = 0.0) -> None:
        self.rate = rate_bytes_per_s

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        if not self.rate:
            return ((NEVER, chunk),)
        step = max(1, int(self.rate * STEP))
        return [
            (now + min(start + step, len(chunk)) / self.rate, chunk[start : start + step])
            for start in range(0, len(chunk), step)
        ]
