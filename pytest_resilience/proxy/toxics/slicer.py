"""slicer: cut data into small pieces with pauses between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .toxic import SAME, Scheduled, Toxic, ToxicContext


class Slicer(Toxic):
    """Cut each chunk into pieces of about `average_size` bytes, and pause after each. Keep the order, and lose nothing.

    A piece of more than `average_size + size_variation` bytes is cut near its middle, give or take `size_variation`.

    Args:
        average_size: bytes, at least 1.
        size_variation: bytes, at most `average_size`.
        delay: seconds of pause after each piece, the last one included.
    """

    __slots__ = ("average", "delay", "variation")

    def __init__(self, *, average_size: int, size_variation: int = 0, delay: float = 0.0) -> None:
        self.average = average_size
        self.variation = size_variation
        self.delay = delay

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        pieces = list(self._pieces(chunk, context))
        if len(pieces) > 1 or self.delay:
            context.touch(now, len(chunk))
        scheduled = [(now + number * self.delay, piece, SAME) for number, piece in enumerate(pieces)]
        if self.delay:
            scheduled.append((now + len(pieces) * self.delay, b"", SAME))  # the pause after the last piece
        return scheduled

    def _pieces(self, chunk: bytes, context: ToxicContext) -> Iterator[bytes]:
        waiting = [chunk]
        while waiting:
            piece = waiting.pop()
            if len(piece) <= self.average + self.variation:
                yield piece
                continue
            middle = len(piece) // 2
            if self.variation:
                middle = max(1, middle + context.random.randrange(-self.variation, self.variation))
            waiting += (piece[middle:], piece[:middle])
