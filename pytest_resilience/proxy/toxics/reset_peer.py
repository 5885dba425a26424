"""reset_peer: a RST to both sides."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import NEVER, RESET, Scheduled, Toxic, ToxicState


class ResetPeer(Toxic):
    """Reset the connection `timeout` seconds after the toxic came to it, idle or not; until then let nothing pass.

    What is held meanwhile is delivered when the toxic is removed in time.

    Args:
        timeout: seconds; 0, the default, resets at once.
    """

    __slots__ = ("timeout",)

    touches_all = True

    def __init__(self, *, timeout: float = 0.0) -> None:
        self.timeout = timeout

    def on_start(self, now: float, memory: ToxicState) -> Scheduled | None:
        return (now + self.timeout, RESET)

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        return ((NEVER, chunk),)
