"""limit_data: pass a number of bytes, then close."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import CLOSE, SAME, Scheduled, Toxic, ToxicContext


class LimitData(Toxic):
    """Pass exactly `limit_bytes` per connection, then close the connection.

    The state is the number of bytes that have passed since the toxic came to the connection.

    Args:
        limit_bytes: bytes; 0, the default, closes at the first chunk and passes none of it.
    """

    __slots__ = ("limit",)

    def __init__(self, *, limit_bytes: int = 0) -> None:
        self.limit = limit_bytes

    def new_state(self) -> int:
        return 0

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        left = max(0, self.limit - context.state)
        passed = chunk[:left]
        context.state += len(passed)
        if len(chunk) < left:
            return ((now, chunk, SAME),)
        context.touch(now, len(chunk) - len(passed))
        close = (now, CLOSE, SAME)
        return ((now, passed, SAME), close) if passed else (close,)
