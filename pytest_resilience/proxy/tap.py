"""The interface between a link and a tap, which reads the protocol of a connection and may change what goes on.

A tap exists on connections of a proxy with a `protocol`. A link calls the tap with each piece of data that is about to go on to
the destination, behind all toxics of the link. The tap returns None, and the data goes on unchanged, or it returns the pieces that
take the place of the data, in order:

- bytes go on to the destination of this direction.
- END, CLOSE and RESET apply to this direction and to the connection, behind the pieces before them.
- A `Hold` stops this direction at its place until the hold is released. The source is not read meanwhile.
- `Back(piece)` puts a piece into the other direction, where no tap sees the piece.

A tap does no I/O and reads no clock. A tap can write without being called, with `TapHost.write`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeAlias

from .toxics.toxic import StreamEvent


class Hold:
    """A place in one direction of a connection that nothing passes until its release.

    Args:
        seconds: from the moment in which the hold begins until its release; None for a release by `release` only.
        then: an event in place of the data behind the hold, such as RESET; None for the data.

    Attributes:
        released: the data behind the hold may go on.
        on_release: called by `release`, if the hold has begun.
    """

    __slots__ = ("begun", "on_release", "released", "seconds", "then")

    def __init__(self, seconds: float | None = None, then: StreamEvent | None = None) -> None:
        self.seconds = seconds
        self.then = then
        self.begun = False
        self.released = False
        self.on_release: Callable[[], None] | None = None

    def release(self) -> None:
        """Let the data behind the hold go on. A second call does nothing."""
        if self.released:
            return
        self.released = True
        on_release, self.on_release = self.on_release, None
        if on_release is not None:
            on_release()


Item: TypeAlias = bytes | StreamEvent | Hold


class Back(NamedTuple):
    """An item for the other direction of the connection."""

    item: Item


Piece: TypeAlias = bytes | StreamEvent | Hold | Back
Watcher: TypeAlias = Callable[[memoryview | bytes], Iterable[Piece] | None]


class TapHost(Protocol):
    """The connection of a tap.

    Attributes:
        number: 1 for the first connection that the proxy accepted.
    """

    number: int

    def now(self) -> float:
        """Return the time of the loop's clock, in seconds."""

    def write(self, pieces: Iterable[Piece], *, upward: bool) -> None:
        """Write pieces into one direction, behind what waits there. No tap sees the pieces."""

    def watch(self, up: Watcher | None, down: Watcher | None) -> None:
        """Call these for the data of each direction from now on. A direction with None is not watched."""


class Tap(Protocol):
    """The tap of one connection. It calls `TapHost.watch` when it begins, and whenever it wants other calls."""

    def rules_changed(self) -> None:
        """Take account of a rule that was added, removed or changed. The holds of a removed rule are released already."""
