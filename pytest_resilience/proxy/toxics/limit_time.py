"""limit_time: close after a time, although data flows. Toxiproxy has no such toxic."""

from __future__ import annotations

from .toxic import CLOSE, Deadline, Toxic, ToxicContext


class LimitTime(Toxic):
    """Pass everything, and close the connection `seconds` after the toxic came to it.

    Args:
        seconds: 0 closes at once.
    """

    __slots__ = ("seconds",)

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def on_start(self, now: float, context: ToxicContext) -> Deadline | None:
        return (now + self.seconds, CLOSE)
