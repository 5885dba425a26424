"""The replacement of messages in one direction of a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ..tap import Piece


class MessageReader(Protocol):
    """A reader that splits one direction into messages, such as those of `wire.postgres_stream`."""

    @property
    def data(self) -> bytes | memoryview: ...
    @property
    def kept(self) -> int: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def head(self) -> bytes: ...


class Before(tuple[Piece, ...]):
    """Pieces that go in front of a message, which goes on itself."""

    __slots__ = ()


class Splice:
    """Passes on the data of one direction, with other pieces in place of some messages.

    While messages are looked at, an incomplete message is kept back, so that it can be replaced as a whole.
    """

    __slots__ = ("_drops_rest", "_keeps", "_reader")

    def __init__(self, reader: MessageReader) -> None:
        self._reader = reader
        self._keeps = False  # what the reader keeps was not passed on
        self._drops_rest = False  # the rest of the last message is not passed on

    def pass_on(self) -> list[Piece] | None:
        """Return the pieces for the data that the reader has just split, unchanged. None stands for the data as it is."""
        if not self._keeps and not self._drops_rest:
            return None
        pieces = self.replace((), _ignore, _ignore)
        return [*(pieces if pieces is not None else [bytes(self._reader.data)]), *self.flush()]

    def flush(self) -> list[Piece]:
        """Return what was kept back. It can't be replaced any more."""
        if not self._keeps:
            return []
        self._keeps = False
        return [self._reader.head]

    def replace(
        self,
        messages: Iterable[tuple[int, int, int]],
        verdict: Callable[[int, int, int], Sequence[Piece] | None],
        follow: Callable[[int, int, int], object],
    ) -> list[Piece] | None:
        """Return the pieces for the data that the reader has just split. None stands for the data as it is.

        Args:
            messages: that the reader has returned. Those of which a part was passed on before can't be replaced.
            verdict: called with each message. Returns the pieces for the message, or None for the message unchanged.
            follow: called with each message that can't be replaced, because a part of it went on before.
        """
        reader = self._reader
        data, size = reader.data, len(reader.data)
        pieces: list[Piece] = []
        position = 0 if self._keeps else reader.kept
        changed = self._keeps or self._drops_rest
        if self._drops_rest:
            position = max(position, reader.begin)
            self._drops_rest = reader.begin == size
        for kind, start, end in messages:
            if start < position:
                follow(kind, start, end)
                continue
            instead = verdict(kind, start, end)
            if instead is None:
                continue
            changed = True
            if start > position:
                pieces.append(bytes(data[position:start]))
            pieces += instead
            if isinstance(instead, Before):
                position = start
            else:
                position = min(end, size)
                self._drops_rest = end > size
        stop = max(reader.end, position)
        self._keeps = stop < size
        if not changed and not self._keeps:
            return None
        if stop > position:
            pieces.append(bytes(data[position:stop]))
        return pieces


def _ignore(kind: int, start: int, end: int) -> None:
    """Leave a message as it is."""
