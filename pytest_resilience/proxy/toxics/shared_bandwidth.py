"""shared_bandwidth: so many bytes per second for all connections of the proxy together. An addition of ours."""

from __future__ import annotations

from collections.abc import Iterable

from .bandwidth import Bandwidth
from .toxic import Scheduled, ToxicState


class SharedBandwidth(Bandwidth):
    """As bandwidth, with one line that all connections wait in, chunk by chunk in the order of their arrival.

    Args:
        rate_bytes_per_s: 0 lets nothing pass.
    """

    __slots__ = ("_free",)

    def __init__(self, *, rate_bytes_per_s: float = 0.0) -> None:
        super().__init__(rate_bytes_per_s=rate_bytes_per_s)
        self._free = 0.0  # when the line is free again; the one thing that links have in common

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        now = max(now, self._free)
        if self.rate:
            self._free = now + len(chunk) / self.rate
        return super().on_data(chunk, arrived, now, memory)
