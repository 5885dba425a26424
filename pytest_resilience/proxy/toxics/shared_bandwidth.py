"""shared_bandwidth: limit the bytes per second of all connections of the proxy together. Toxiproxy has no such toxic."""

from __future__ import annotations

from collections.abc import Iterable

from .bandwidth import Bandwidth
from .toxic import Scheduled, ToxicContext


class SharedBandwidth(Bandwidth):
    """Limit the rate as bandwidth does, with one queue for all connections, in the order in which chunks arrive.

    Args:
        rate_bytes_per_s: 0 passes nothing.
    """

    __slots__ = ("_free_at",)

    def __init__(self, *, rate_bytes_per_s: float = 0.0) -> None:
        super().__init__(rate_bytes_per_s=rate_bytes_per_s)
        self._free_at = 0.0  # when the last chunk of any connection has gone on; the only thing that links share

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        now = max(now, self._free_at)
        if self.rate:
            self._free_at = now + len(chunk) / self.rate
        return super().on_data(chunk, arrived, now, context)
