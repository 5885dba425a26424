"""limit_time: close after a time, although data flows. An addition of ours."""

from __future__ import annotations

from .toxic import CLOSE, Scheduled, Toxic, ToxicState


class LimitTime(Toxic):
    """Let everything pass, and close the connection `seconds` after the toxic came to it.

    Args:
        seconds: 0 closes at once.
    """

    __slots__ = ("seconds",)

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def on_start(self, now: float, memory: ToxicState) -> Scheduled | None:
        return (now + self.seconds, CLOSE)
