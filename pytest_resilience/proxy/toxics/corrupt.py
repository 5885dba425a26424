"""corrupt: flip bits. Toxiproxy has no such toxic."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import SAME, Scheduled, Toxic, ToxicContext


class Corrupt(Toxic):
    """Flip one bit in about one of `every_bytes` bytes, at places that the seed decides.

    The state is the distance in bytes to the next flip; 0 before the first one.

    Args:
        every_bytes: mean distance between flipped bits, at least 1.
    """

    __slots__ = ("every",)

    def __init__(self, *, every_bytes: int) -> None:
        self.every = every_bytes

    def new_state(self) -> int:
        return 0

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        place: int = context.state or self._gap(context)
        if place > len(chunk):
            context.state = place - len(chunk)
            return ((now, chunk, SAME),)
        data = bytearray(chunk)
        while place <= len(data):
            data[place - 1] ^= 1 << context.random.randrange(0, 8)
            context.touch(now, 1)
            place += self._gap(context)
        context.state = place - len(data)
        return ((now, bytes(data), SAME),)

    def _gap(self, context: ToxicContext) -> int:
        """Return the distance from one flip to the next: 1 to 2 * every - 1, so `every` on average."""
        return context.random.randrange(1, 2 * self.every)
