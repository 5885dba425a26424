"""reset_peer: send a RST to both sides."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import NEVER, RESET, SAME, Deadline, Scheduled, Toxic, ToxicContext


class ResetPeer(Toxic):
    """Reset the connection `timeout` seconds after the toxic came to it, idle or not. Until then pass nothing.

    Data that is held in that time is delivered if the toxic is removed before the reset.

    Args:
        timeout: seconds; 0, the default, resets at once.
    """

    __slots__ = ("timeout",)

    touches_all = True

    def __init__(self, *, timeout: float = 0.0) -> None:
        self.timeout = timeout

    def on_start(self, now: float, context: ToxicContext) -> Deadline | None:
        return (now + self.timeout, RESET)

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        return ((NEVER, chunk, SAME),)
