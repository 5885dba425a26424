"""limit_data: so many bytes, then close."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import CLOSE, Scheduled, Toxic, ToxicState


class LimitData(Toxic):
    """Let exactly `limit_bytes` pass per connection, counted since the toxic came to it, then close the connection.

    Args:
        limit_bytes: bytes; 0, the default, closes at the first chunk and passes none of it.
    """

    __slots__ = ("limit",)

    def __init__(self, *, limit_bytes: int = 0) -> None:
        self.limit = limit_bytes

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        left = max(0, self.limit - memory.count)
        passed = chunk[:left]
        memory.count += len(passed)
        if len(chunk) < left:
            return ((now, chunk),)
        memory.touch(now, len(chunk) - len(passed))
        return ((now, passed), (now, CLOSE)) if passed else ((now, CLOSE),)
