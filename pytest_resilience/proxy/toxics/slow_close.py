"""slow_close: hold the end of the stream."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import SAME, Scheduled, StreamEvent, Toxic, ToxicContext


class SlowClose(Toxic):
    """Pass data at once, and the end of the stream (or its RST) `delay` seconds late.

    Args:
        delay: seconds, at least 0.
    """

    __slots__ = ("delay",)

    def __init__(self, *, delay: float = 0.0) -> None:
        self.delay = delay

    def on_end(self, end: StreamEvent, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        if self.delay:
            context.touch(now, 0)
        return ((now + self.delay, end, SAME),)
