"""corrupt: flip bits. An addition of ours."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import Scheduled, Toxic, ToxicState


class Corrupt(Toxic):
    """Flip one bit in about one of `every_bytes` bytes, at places that the seed decides.

    Args:
        every_bytes: mean distance between flipped bits, at least 1.
    """

    __slots__ = ("every",)

    def __init__(self, *, every_bytes: int) -> None:
        self.every = every_bytes

    def on_data(self, chunk: bytes, arrived: float, now: float, memory: ToxicState) -> Iterable[Scheduled]:
        if not memory.count:
            memory.count = self._gap(memory)
        if memory.count > len(chunk):
            memory.count -= len(chunk)
            return ((now, chunk),)
        data = bytearray(chunk)
        place = memory.count
        while place <= len(data):
            data[place - 1] ^= 1 << memory.random.randrange(0, 8)
            memory.touch(now, 1)
            place += self._gap(memory)
        memory.count = place - len(data)
        return ((now, bytes(data)),)

    def _gap(self, memory: ToxicState) -> int:
        """Bytes to the next flip, itself included: 1 to 2 * every - 1, so `every` on average."""
        return memory.random.randrange(1, 2 * self.every)
