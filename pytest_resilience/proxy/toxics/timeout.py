"""timeout: pass nothing, then close."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import CLOSE, Deadline, Scheduled, StreamEvent, Toxic, ToxicContext


class Timeout(Toxic):
    """Drop all data of this direction, and close the connection `timeout` seconds after the toxic came to it.

    The time is absolute. In Toxiproxy, data restarts it. Removing the toxic closes the connection.

    Args:
        timeout: seconds; 0 never closes.
    """

    __slots__ = ("timeout",)

    touches_all = True
    closes_on_removal = True

    def __init__(self, *, timeout: float = 0.0) -> None:
        self.timeout = timeout

    def on_start(self, now: float, context: ToxicContext) -> Deadline | None:
        return (now + self.timeout, CLOSE) if self.timeout else None

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        return ()

    def on_end(self, end: StreamEvent, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        return ()
